"""Where the pristine bytes of one fused weight are, and how the weight gets them back."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, eq=False)
class Copied:
    """Pristine bytes are read from a mapped file or from a copy on the host.

    ``copies`` holds fused weights on the host too; ``None`` where they are computed each time.
    """

    read: Callable[[], Tensor]
    digest: Tensor
    copies: Vault | None
    nbytes: int = 0

    def fuse(self, layer: LoraLayer, fusion: Addition) -> None:
        weight = layer.weight.detach()
        copy = self.copies.find((fusion.site, fusion.mix)) if self.copies is not None else None
        if copy is not None:
            weight.copy_(copy)
            return
        add(self.read().to(weight.device), fusion.factors(weight), weight)
        if self.copies is not None:
            self.copies.offer(
                (fusion.site, fusion.mix), weight.nbytes, lambda: weight.to("cpu", copy=True)
            )

    def restore(self, layer: LoraLayer) -> None:
        pristine = self.read()
        check(int((digest(pristine) != self.digest.to(pristine.device)).sum()), layer)
        layer.weight.detach().copy_(pristine)


@dataclass(slots=True, eq=False)
class Ledgered:
    """Pristine bytes are computed back, with a ledger of what subtracting misses."""

    digest: Tensor
    fusion: Addition | None = None
    ledger: Ledger | None = None
    device: torch.device | None = None

    @property
    def nbytes(self) -> int:
        return 0 if self.ledger is None else size(self.ledger)

    def fuse(self, layer: LoraLayer, fusion: Addition) -> None:
        self.restore(layer)
        weight = layer.weight.detach()
        self.ledger = add_reversibly(weight, fusion.factors(weight))
        self.fusion, self.device = fusion, weight.device

    def restore(self, layer: LoraLayer) -> None:
        if self.ledger is None or self.fusion is None:
            return
        # where it was fused: another device rounds otherwise
        weight = layer.weight.detach()
        there = weight.to(self.device)
        digest = self.digest.to(self.device)
        check(subtract(there, self.fusion.factors(there), self.ledger, digest), layer)
        if there is not weight:
            weight.copy_(there)
        self.ledger = None


@dataclass(frozen=True, slots=True, eq=False)
class Beside:
    """The pristine weight stays as the object that it is, and another takes its place."""

    pristine: nn.Parameter
    copies: Vault

    @property
    def nbytes(self) -> int:
        return self.pristine.nbytes

    def fuse(self, layer: LoraLayer, fusion: Addition) -> None:
        key, pristine = (fusion.site, fusion.mix), self.pristine.detach()
        fused = self.copies.find(key)
        if fused is None:
            fused = torch.empty_like(pristine, memory_format=torch.contiguous_format)
            add(pristine, fusion.factors(pristine), fused)
            self.copies.offer(key, fused.nbytes, lambda: fused)
        layer.weight = nn.Parameter(fused, requires_grad=self.pristine.requires_grad)

    def restore(self, layer: LoraLayer) -> None:
        layer.weight = self.pristine


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
