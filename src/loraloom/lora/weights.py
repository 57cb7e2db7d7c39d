"""The weights of a component's sites: what is fused into them, and the way back."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn

from loraloom.core.algebra import fold, matrices
from loraloom.core.fusing import Factors, digest, same_bits
from loraloom.memory.cache import Cache
from loraloom.memory.residency import Facts, Home, Residency, home

from . import offload
from .homes import Beside, Copied, Ledgered, Pristine, version
from .sites import OpaqueSite

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from torch import Tensor

    from loraloom.core.adapter import Update
    from loraloom.core.mix import Mix, Site

    from .homes import Vault
    from .layer import LoraLayer


@dataclass(frozen=True, slots=True, eq=False)
class Fusion:
    """What is in one weight: ``updates`` of its site, every one at its strength in ``mix``."""

    site: Site
    mix: Mix
    updates: tuple[Update, ...]
    strengths: tuple[float, ...]

    def factors(self, weight: Tensor) -> Factors:
        """What is added to ``weight``."""
        folded = fold(self.updates, [self.strengths], weight.device)
        return Factors.of(*matrices(folded), weight)


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """What decides where pristine bytes lie.

    Attributes:
        checkpoint: weights as they lie in files that nobody writes to, by site; may be empty.
        fixed: sites whose weight must not be written to.
        residency: what memory is given for quick changes.
    """

    checkpoint: Mapping[Site, Tensor]
    fixed: Collection[Site]
    residency: Residency


class Weights:
    """The weight of every site of a component, pristine or fused, one memory for both.

    ``fused`` says what is in them. Fusing writes into the memory of the weight, so that what refers
    to it stays right (captured graphs, offloading); the pristine bytes are found again where
    :func:`~loraloom.memory.residency.home` says.
    """

    def __init__(self, layers: Mapping[Site, LoraLayer], ground: Ground) -> None:
        self.layers = layers
        self.ground = ground
        self.fused: dict[Site, Fusion] = {}
        self.homes: dict[Site, Pristine] = {}
        self.copies: Vault = Cache(ground.residency.budget, "fused weights")
        self._known: dict[Site, Known] = {}

    @property
    def nbytes(self) -> int:
        """Bytes held beside the weights themselves, because adapters are or were in them."""
        return self.copies.nbytes + sum(each.nbytes for each in self.homes.values())

    def become(self, fused: Mapping[Site, Fusion]) -> None:
        """Make ``fused`` what is in the weights, or change nothing; what is there is not redone."""
        changed = {s: each for s, each in fused.items() if self.fused.get(s) is not each}
        self.change(changed, self.fused.keys() - fused.keys())

    def change(self, fuse: Mapping[Site, Fusion], restore: Iterable[Site]) -> None:
        """Fuse at some sites and put the pristine weights back at others, or change nothing.

        One weight after the other: what is held meanwhile is the size of one.

        Raises:
            AdapterMismatchError: one of the weights cannot be written to.
            RestoreError: pristine bytes are not what they were.
        """
        wanted = [*((site, None) for site in restore), *fuse.items()]
        for site, _ in wanted:
            self.layers[site].check_fusible()
        with ExitStack() as undo:
            for site, fusion in wanted:
                undo.callback(self._put, site, self.fused.get(site))
                self._put(site, fusion)
            undo.pop_all()

    def _put(self, site: Site, fusion: Fusion | None) -> None:
        layer = self.layers[site]
        before, above = layer.weight, layer.above
        offload.settle(before, above)
        frozen = before.is_inference()
        with torch.inference_mode() if frozen else torch.no_grad():
            if fusion is not None:
                if site not in self.homes:
                    self.homes[site] = self._home(site, layer.weight)
                self.homes[site].fuse(layer, fusion)
                self.fused[site] = fusion
            elif site in self.homes:
                self.homes[site].restore(layer)
                del self.homes[site]
                self.fused.pop(site, None)
            offload.follow(layer.weight, before, above)

    def _home(self, site: Site, weight: nn.Parameter) -> Pristine:
        known = self._look(site, weight)
        facts = Facts(site in self.ground.fixed, known.filed, weight.device.type == "cpu")
        where = home(self.ground.residency, facts)
        if where is Home.BESIDE:
            return Beside(weight, self.copies)
        if where is Home.LEDGER:
            return Ledgered(known.digest)
        if where is Home.FILE:
            checkpoint, kind = self.ground.checkpoint, weight.dtype
            return Copied(lambda: checkpoint[site].to(kind), known.digest, None)
        copy = weight.detach().to("cpu", copy=True)
        return Copied(lambda: copy, known.digest, self.copies, copy.nbytes)

    def _look(self, site: Site, weight: nn.Parameter) -> Known:
        """What is known of a pristine weight; nothing that was known of other bytes holds.

        One that nothing is ever written to is looked at again when its version says that somebody
        wrote to it, so that changing it for a copy reads no byte of it.
        """
        known = self._known.get(site)
        if known is not None and self.ground.residency.home is Home.BESIDE and known.still(weight):
            return known
        now = digest(weight)
        if known is None or not same_bits(known.digest.to(now.device), now):
            self.copies.drop([key for key in self.copies if key[0] == site])
            known = Known(now, self._filed(site, weight))
        known = self._known[site] = replace(known, seen=(weight.data_ptr(), version(weight)))
        return known

    def _filed(self, site: Site, weight: Tensor) -> bool:
        if site not in self.ground.checkpoint:
            return False
        file = self.ground.checkpoint[site]
        return file.data_ptr() != weight.data_ptr() and same_bits(file.to(weight), weight)


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What is known of the bytes of a pristine weight.

    Attributes:
        digest: of its rows, see :func:`~loraloom.core.fusing.digest`.
        filed: the checkpoint holds the same bits, and in memory of its own.
        seen: where it lay when that was found, and how often it had been written to.
    """

    digest: Tensor
    filed: bool
    seen: tuple[int, int | None] = (0, None)

    def still(self, weight: Tensor) -> bool:
        """Whether nobody wrote to it since, as far as versions tell."""
        return self.seen == (weight.data_ptr(), version(weight)) and self.seen[1] is not None


def fixed_sites(module: nn.Module, layers: Mapping[Site, LoraLayer]) -> frozenset[Site]:
    """Sites whose weight must not be written to.

    It overlaps with another tensor of the module in memory, or its rows do not follow one another.
    """
    tensors = [
        *(tensor for _, tensor in module.named_parameters(remove_duplicate=False)),
        *(tensor for _, tensor in module.named_buffers(remove_duplicate=False)),
    ]
    spans = sorted(span for span in map(_span, tensors) if span)
    tied = {span for spans_ in pairwise(spans) if spans_[1][0] < spans_[0][1] for span in spans_}
    plain = {site: layer for site, layer in layers.items() if not isinstance(layer, OpaqueSite)}
    return frozenset(
        site
        for site, layer in plain.items()
        if _span(layer.weight) in tied or not layer.weight.is_contiguous()
    )


def _span(tensor: Tensor) -> tuple[int, int] | None:
    """Where the bytes of a tensor begin and end; one of another class may have none of its own."""
    if type(tensor) not in {torch.Tensor, nn.Parameter} or not tensor.data_ptr():
        return None
    return tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
