"""How large updates are beside the weights, and so what rounding leaves of them when fused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import nn

from loraloom.errors import AdapterMismatchError

from . import offload
from .cost import Rounding

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

    from loraloom.core.adapter import LowRank
    from loraloom.core.mix import AdapterKey, Mix, Site

    from .layer import LoraLayer
    from .model import LoraModel

    Products: TypeAlias = Mapping["Place", float]
    """Inner products of the updates of two adapters."""

ROUNDING = 0.216
"""Relative rounding noise of a bell-shaped weight, in units of the type's epsilon.

Half of one step is the largest error and 1/√12 of one its root mean square; over the numbers of a
normal distribution the mean square step is 0.56 of the one at the root mean square.
"""

PAIRS = 256
"""Of how many pairs of adapters the inner products are kept."""

HOLDS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""Types of weights that can be fused into: what they lose is the formula's."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the updates of two adapters meet: a site, and by what name either calls it."""

    site: Site
    one: Site
    other: Site

    @property
    def shared(self) -> bool:
        """Whether both change the same rows: other members of a packed layer have their own."""
        return self.one == self.other or self.site in {self.one, self.other}


def noise(dtype: torch.dtype) -> float:
    """The relative error ``‖rounded - W‖ / ‖W‖`` of a weight that is rounded once to ``dtype``.

    Over ``‖ΔW‖/‖W‖`` it is the share of an update that is noise once fused: 0.00169 over the
    ratio in bfloat16. Where it comes near 1 the update is also weaker than it should be. float16
    has fewer bits for weights below 6e-5, which is not counted.
    """
    return ROUNDING * torch.finfo(dtype).eps


def inner(one: LowRank, other: LowRank, device: torch.device) -> Tensor:
    """``⟨ΔW₁, ΔW₂⟩`` of two updates of one weight at strength 1, without forming either.

    ``tr((B₁A₁)ᵀ B₂A₂)`` is the sum over all entries of ``B₁ᵀB₂`` times ``A₁A₂ᵀ``.
    """
    (down, up), (down2, up2) = ([_matrix(t, device) for t in x.tensors] for x in (one, other))
    return one.scale * other.scale * ((up.T @ up2) * (down @ down2.T)).sum()


def _matrix(tensor: Tensor, device: torch.device) -> Tensor:
    # an embedding's and a linear layer's factors are matrices, a convolution's have a kernel
    return tensor.to(device, torch.float32).flatten(1)


class Gauge:
    """Measures mixes of one component; norms and inner products are measured once.

    The norm of a weight is that of what lies in the layer when it is first asked for: if that is
    fused, it is off by about half the square of the ratio.
    """

    def __init__(self, model: LoraModel) -> None:
        self.model = model
        self.norms: dict[Site, float] = {}
        self.products: dict[tuple[AdapterKey, AdapterKey], Products] = {}

    def rounding(self, mix: Mix) -> Rounding:
        """What fusing ``mix`` would round away, over all sites of the component that it changes."""
        touched = self._touched(mix)
        refused = next(filter(None, map(self._refused, sorted(touched))), "")
        if refused:
            return Rounding(float("inf"), 0.0, refused)
        self._measure(touched)
        squares = self._squares(mix)
        total = Rounding()
        for site in sorted(touched):
            dtype = self.model.weights.layers[site].weight.dtype
            effect = squares[site] / max(self.norms[site], 1e-30) ** 2
            total += Rounding(noise(dtype) ** 2, effect, _named(dtype))
        return total

    def _touched(self, mix: Mix) -> frozenset[Site]:
        return frozenset(
            site
            for part in mix.parts
            for site, named in self.model.fitter.updates(part.key).items()
            if any(part.at(name) for name in named)
        )

    def _refused(self, site: Site) -> str:
        """What its weight is if no update can be added to it; asked anew, for weights move."""
        return refused(self.model.weights.layers[site])

    def _measure(self, touched: Iterable[Site]) -> None:
        """Norms of the weights at ``touched`` that are not known yet."""
        layers = self.model.weights.layers
        new = [site for site in touched if site not in self.norms]
        with torch.no_grad():
            norms = [torch.linalg.vector_norm(layers[s].weight, dtype=torch.float32) for s in new]
        self.norms.update(zip(new, _floats(norms), strict=True))

    def _squares(self, mix: Mix) -> dict[Site, float]:
        """``‖Σ sᵢ ΔWᵢ‖²`` by site, from the inner products of every two adapters of the mix."""
        total: dict[Site, float] = {}
        parts = sorted(mix.parts, key=lambda part: part.key)
        for index, one in enumerate(parts):
            for other in parts[index:]:
                times = 1 if one is other else 2
                for at, value in self._products(one.key, other.key).items():
                    both = times * one.at(at.one) * other.at(at.other) * value
                    total[at.site] = total.get(at.site, 0.0) + both
        return {site: max(square, 0.0) for site, square in total.items()}

    def _products(self, one: AdapterKey, other: AdapterKey) -> Products:
        """Those that were asked for last are kept."""
        found = self.products.pop((one, other), None) or self._multiplied(one, other)
        self.products[one, other] = found
        while len(self.products) > PAIRS:
            del self.products[next(iter(self.products))]
        return found

    def _multiplied(self, one: AdapterKey, other: AdapterKey) -> Products:
        first, second = (self.model.fitter.updates(key) for key in (one, other))
        layers = self.model.weights.layers
        places = [
            place
            for site in first.keys() & second.keys()
            for name in first[site]
            for other_name in second[site]
            if (place := Place(site, name, other_name)).shared
        ]
        values = [
            inner(first[at.site][at.one], second[at.site][at.other], layers[at.site].device)
            for at in places
        ]
        return dict(zip(places, _floats(values), strict=True))


def _floats(values: Sequence[Tensor]) -> Iterable[float]:
    """All at once: a device is waited for a single time."""
    devices = {value.device for value in values}
    if len(devices) > 1:  # offloading leaves some weights here and others there
        values = [value.cpu() for value in values]
    return torch.stack(list(values)).tolist() if values else ()


def refused(layer: LoraLayer) -> str:
    """What a weight is if no update can be added to it; empty if one can.

    It is quantised, packed, of a type that the formula does not hold for, or offloaded to where
    nothing can be written.
    """
    weight: object = layer.weight
    if type(weight) not in (torch.Tensor, nn.Parameter):
        tensor = isinstance(weight, torch.Tensor)
        return type(weight).__name__ if tensor else type(layer).__bases__[1].__name__
    assert isinstance(weight, torch.Tensor)
    try:
        layer.check_fusible()
    except AdapterMismatchError:
        where = offload.rest(offload.look(weight, layer.above))
        return _named(weight.dtype) + (f" {where.value}" if not where.writable else "")
    return "" if weight.dtype in HOLDS else _named(weight.dtype)


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
