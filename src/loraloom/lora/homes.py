"""Where the pristine bytes of one fused weight are, and how the weight gets them back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

import torch
from torch import nn

from loraloom.core.fusing import Factors, Ledger, add, add_reversibly, digest, size, subtract
from loraloom.errors import RestoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from loraloom.core.mix import Mix, Site
    from loraloom.memory.cache import Cache

    from .layer import LoraLayer

    Vault: TypeAlias = Cache[tuple[Site, Mix], Tensor]
    """Fused weights of mixes worn before."""


class Addition(Protocol):
    """What is to be fused: see :class:`~loraloom.lora.weights.Fusion`."""

    @property
    def site(self) -> Site: ...

    @property
    def mix(self) -> Mix: ...

    def factors(self, weight: Tensor) -> Factors: ...


class Pristine(Protocol):
    """One weight's way into the fused state and back; ``nbytes`` are held for the way back."""

    @property
    def nbytes(self) -> int: ...

    def fuse(self, layer: LoraLayer, fusion: Addition) -> None:
        """The pristine weight plus ``fusion``, whatever the weight holds now."""

    def restore(self, layer: LoraLayer) -> None:
        """The pristine weight; raises RestoreError and changes nothing where it is lost."""


@dataclass(slots=True, eq=False)
class Copied:
    """Pristine bytes are read from a mapped file or from a copy on the host.

    ``copies`` holds fused weights on the host too, ``None`` where they are computed each time;
    ``bare`` as long as nothing was written to the weight.
    """

    read: Callable[[], Tensor]
    digest: Tensor
    copies: Vault | None
    nbytes: int = 0
    bare: bool = True

    def fuse(self, layer: LoraLayer, fusion: Addition) -> None:
        weight, key = layer.weight.detach(), (fusion.site, fusion.mix)
        copy = self.copies.find(key) if self.copies is not None else None
        if copy is not None:
            self.bare = False
            weight.copy_(copy)
            return
        pristine, factors = weight if self.bare else self._pristine(layer), fusion.factors(weight)
        self.bare = False
        add(pristine.to(weight.device), factors, weight)
        if self.copies is not None:
            self.copies.offer(key, weight.nbytes, lambda: weight.to("cpu", copy=True))

    def restore(self, layer: LoraLayer) -> None:
        if not self.bare:
            layer.weight.detach().copy_(self._pristine(layer))
            self.bare = True

    def _pristine(self, layer: LoraLayer) -> Tensor:
        pristine = self.read()
        check(int((digest(pristine) != self.digest.to(pristine.device)).sum()), layer)
        return pristine


@dataclass(slots=True, eq=False)
class Ledgered:
    """Pristine bytes are computed back, with a ledger of what subtracting misses.

    ``fusion`` is in the weight, as far as ``ledger`` goes: all of it, unless it was interrupted.
    """

    digest: Tensor
    fusion: Addition | None = None
    ledger: Ledger = field(default_factory=list)
    device: torch.device | None = None

    @property
    def nbytes(self) -> int:
        return size(self.ledger)

    def fuse(self, layer: LoraLayer, fusion: Addition) -> None:
        self.restore(layer)
        weight = layer.weight.detach()
        factors = fusion.factors(weight)
        self.fusion, self.ledger, self.device = fusion, [], weight.device
        add_reversibly(weight, factors, self.ledger)

    def restore(self, layer: LoraLayer) -> None:
        if self.fusion is None:
            return
        # where it was fused: another device rounds otherwise
        weight = layer.weight.detach()
        there = weight.to(self.device)
        digest = self.digest.to(self.device)
        check(subtract(there, self.fusion.factors(there), self.ledger, digest), layer)
        if there is not weight:
            weight.copy_(there)
        self.fusion, self.ledger = None, []


@dataclass(slots=True, eq=False)
class Beside:
    """The pristine weight stays as the object that it is, and another takes its place.

    ``fresh`` is the version of that one: whoever writes to it writes to what ``copies`` holds,
    which is forgotten then. Writes that go around the version (``.data``) are not seen: to compare
    bytes would be to read all of them at every change.
    """

    pristine: nn.Parameter
    copies: Vault
    key: tuple[Site, Mix] | None = None
    fresh: int | None = None

    @property
    def nbytes(self) -> int:
        return self.pristine.nbytes

    def fuse(self, layer: LoraLayer, fusion: Addition) -> None:
        self._forget_written(layer)
        key, pristine = (fusion.site, fusion.mix), self.pristine.detach()
        fused = self.copies.find(key)
        if fused is None:
            fused = torch.empty_like(pristine, memory_format=torch.contiguous_format)
            add(pristine, fusion.factors(pristine), fused)
            made = fused
            self.copies.offer(key, fused.nbytes, lambda: made)
        layer.weight = nn.Parameter(fused, requires_grad=self.pristine.requires_grad)
        self.key, self.fresh = key, version(layer.weight)

    def restore(self, layer: LoraLayer) -> None:
        self._forget_written(layer)
        layer.weight = self.pristine

    def _forget_written(self, layer: LoraLayer) -> None:
        if self.key is not None and version(layer.weight) != self.fresh:
            self.copies.drop([self.key])
        self.key = None


def version(tensor: Tensor) -> int | None:
    """How often a tensor was written to; of one that was made for inference, nobody counts it."""
    return None if tensor.is_inference() else tensor._version


def check(lost: int, layer: LoraLayer) -> None:
    """Return if no row of a weight is ``lost``.

    Raises:
        RestoreError: some are.
    """
    if lost:
        raise RestoreError(
            f"{lost} rows of the weight of {layer.site} would not be restored: its file was "
            "written over, or the fused weight was, or this process multiplies otherwise than "
            "before; load the model again"
        )
