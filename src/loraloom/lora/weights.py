"""The weights of a component's sites: what is fused into them, and the way back."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import ref

import torch
from torch import nn

from loraloom.core.algebra import fold, matrices
from loraloom.core.fusing import Factors, digest, same_bits
from loraloom.memory.cache import Cache
from loraloom.memory.residency import Facts, Home, Residency, home

from .homes import Beside, Copied, Ledgered, Pristine
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
        shared: sites whose weight something else uses too.
        residency: what memory is given for quick changes.
    """

    checkpoint: Mapping[Site, Tensor]
    shared: Collection[Site]
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
        self._seen: dict[Site, Seen] = {}

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
            RestoreError: pristine bytes are not what they were.
        """
        wanted = [*((site, None) for site in restore), *fuse.items()]
        with ExitStack() as undo:
            for site, fusion in wanted:
                undo.callback(self._put, site, self.fused.get(site))
                self._put(site, fusion)
            undo.pop_all()

    def _put(self, site: Site, fusion: Fusion | None) -> None:
        layer = self.layers[site]
        frozen = layer.weight.is_inference()
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
                if site in self._seen:
                    self._seen[site] = self._seen[site].again(layer.weight)

    def _home(self, site: Site, weight: nn.Parameter) -> Pristine:
        seen = self._look(site, weight)
        facts = Facts(site in self.ground.shared, seen.filed, weight.device.type == "cpu")
        where = home(self.ground.residency, facts)
        if where is Home.BESIDE:
            return Beside(weight, self.copies)
        if where is Home.LEDGER:
            return Ledgered(seen.digest)
        if where is Home.FILE:
            checkpoint, kind = self.ground.checkpoint, weight.dtype
            return Copied(lambda: checkpoint[site].to(kind), seen.digest, None)
        copy = weight.detach().to("cpu", copy=True)
        return Copied(lambda: copy, seen.digest, self.copies, copy.nbytes)

    def _look(self, site: Site, weight: nn.Parameter) -> Seen:
        """What is known of a pristine weight; looked at again where somebody wrote to it."""
        seen = self._seen.get(site)
        if seen is None or not seen.still(weight):
            file = self.ground.checkpoint
            filed = site in file and same_bits(file[site].to(weight), weight)
            seen = self._seen[site] = Seen(ref(weight), version(weight), digest(weight), filed)
        return seen


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A weight at one moment; writing to it counts its version up.

    Attributes:
        digest: of its rows, see :func:`~loraloom.core.fusing.digest`.
        filed: the checkpoint holds the same bits.
    """

    tensor: ref[Tensor]
    version: int | None
    digest: Tensor
    filed: bool

    def still(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` is the one that was seen, and nobody has written to it since."""
        return self.tensor() is tensor and self.version == version(tensor) is not None

    def again(self, tensor: Tensor) -> Seen:
        """The same bits, after they were written anew."""
        return Seen(ref(tensor), version(tensor), self.digest, self.filed)


def shared_sites(module: nn.Module, layers: Mapping[Site, LoraLayer]) -> frozenset[Site]:
    """Sites whose weight lies in the same memory as another tensor of the module."""
    tensors = [
        *(tensor for _, tensor in module.named_parameters(remove_duplicate=False)),
        *(tensor for _, tensor in module.named_buffers(remove_duplicate=False)),
    ]
    uses = Counter(map(_memory, tensors))
    plain = {site: layer for site, layer in layers.items() if not isinstance(layer, OpaqueSite)}
    return frozenset(site for site, layer in plain.items() if uses[_memory(layer.weight)] > 1)


def _memory(tensor: Tensor) -> object:
    """Equal for tensors in the same memory."""
    if type(tensor) not in {torch.Tensor, nn.Parameter}:
        return id(tensor)  # one of another class may have no storage of its own
    return tensor.untyped_storage().data_ptr() or id(tensor)


def version(tensor: Tensor) -> int | None:
    """How often a tensor was written to; of one that was made for inference, nobody counts it."""
    return None if tensor.is_inference() else tensor._version
