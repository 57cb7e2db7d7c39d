"""The weights of a component's sites: pristine, and what takes their place while fused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import ref

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from loraloom.core.mix import Site

    from .layer import LoraLayer


class Weights:
    """The weight of every site of a component.

    While a site is fused, its pristine weight is read from the checkpoint where that holds the
    same bits; else the parameter is kept as the object that it is. Either way restoring is exact,
    because nothing is computed.

    Args:
        layers: by site.
        checkpoint: weights as they lie in files that nobody writes to, by site; may be empty.
    """

    def __init__(self, layers: Mapping[Site, LoraLayer], checkpoint: Mapping[Site, Tensor]) -> None:
        self.layers = layers
        self.checkpoint = checkpoint
        self.replaced: Mapping[Site, nn.Parameter | None] = {}
        self.compared: dict[Site, Seen] = {}

    def pristine(self, site: Site) -> nn.Parameter:
        """The weight ``[out, in, *kernel]`` that the model was loaded with."""
        weight = self.layers[site].weight
        if site not in self.replaced:
            return weight
        kept = self.replaced[site]
        return self._read(site, weight) if kept is None else kept

    def change(self, fused: Mapping[Site, nn.Parameter], restore: Iterable[Site]) -> None:
        """Put ``fused`` in place and the pristine weights back at ``restore``, or change nothing.

        What can fail comes first; then only assignments, and what a failure leaves is undone.
        """
        after = {**{site: self.pristine(site) for site in restore}, **fused}
        kept = {site: self._keep(site) for site in fused if site not in self.replaced}
        now = {site: self.layers[site].weight for site in after}
        try:
            for site, weight in after.items():
                self.layers[site].weight = weight
        except BaseException:
            for site, weight in now.items():
                self.layers[site].weight = weight
            raise
        restored = after.keys() - fused.keys()
        for site in restored:
            if self.replaced[site] is None:
                self.compared[site] = Seen.now(after[site])
        held = {**self.replaced, **kept}
        self.replaced = {site: held[site] for site in held.keys() - restored}

    def _keep(self, site: Site) -> nn.Parameter | None:
        """What has to be kept of a weight that is about to be replaced: nothing, if it is read."""
        weight = self.layers[site].weight
        if site not in self.checkpoint:
            return weight
        seen = self.compared.get(site)
        if seen is None or not seen.still(weight):
            if not same_bits(self.checkpoint[site].to(weight), weight):
                return weight
            self.compared[site] = Seen.now(weight)
        return None

    def _read(self, site: Site, like: nn.Parameter) -> nn.Parameter:
        # a copy: whoever writes to a restored weight must not write to the checkpoint
        weight = self.checkpoint[site].to(like, copy=True)
        return nn.Parameter(weight, requires_grad=like.requires_grad)


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A tensor at one moment; writing to it counts its ``_version`` up."""

    tensor: ref[Tensor]
    version: int

    @classmethod
    def now(cls, tensor: Tensor) -> Seen:
        return cls(ref(tensor), tensor._version)

    def still(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` is the one that was seen, and nobody has written to it since."""
        return self.tensor() is tensor and tensor._version == self.version


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one type are equal to the bit, NaN and the sign of zero included."""
    if one.shape != other.shape:
        return False
    flat = (tensor.detach().contiguous().flatten().view(torch.uint8) for tensor in (one, other))
    return torch.equal(*flat)
