"""How large updates are beside the weights, and so what rounding leaves of them when fused."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import nn

from .cost import Rounding

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

    from loraloom.core.adapter import LowRank
    from loraloom.core.mix import AdapterKey, Mix, Site

    from .layer import LoraLayer
    from .model import LoraModel

    Products: TypeAlias = Mapping[tuple[Site, Site], float]
    """Inner products by the site and, within, the name that adapters call it by."""

ROUNDING = 0.216
"""Relative rounding noise of a bell-shaped weight, in units of the type's epsilon.

Half of one step is the largest error and 1/√12 of one its root mean square; over the numbers of a
normal distribution the mean square step is 0.56 of the one at the root mean square.
"""

PAIRS = 256
"""Of how many pairs of adapters the inner products are kept."""

HOLDS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""Types of weights that can be fused into: what they lose is the formula's."""


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
        self._measure(touched)
        squares = self._squares(mix)
        total = Rounding()
        for site in sorted(touched):
            weight = self.model.weights.layers[site].weight
            opaque = _opaque(self.model.weights.layers[site])
            if opaque:
                return Rounding(float("inf"), 0.0, opaque)
            effect = squares[site] / max(self.norms[site], 1e-30) ** 2
            lost = noise(weight.dtype) ** 2
            total += Rounding(lost, effect, str(weight.dtype).removeprefix("torch."))
        return total

    def _touched(self, mix: Mix) -> frozenset[Site]:
        return frozenset(
            site
            for part in mix.parts
            for site, named in self.model.fitter.updates(part.key).items()
            if any(part.at(name) for name in named)
        )

    def _measure(self, touched: Iterable[Site]) -> None:
        """Norms of the weights at ``touched`` that are not known yet."""
        layers = self.model.weights.layers
        new = [site for site in touched if site not in self.norms and not _opaque(layers[site])]
        with torch.no_grad():
            norms = [torch.linalg.vector_norm(layers[s].weight, dtype=torch.float32) for s in new]
        self.norms.update(zip(new, _floats(norms), strict=True))

    def _squares(self, mix: Mix) -> dict[Site, float]:
        """``‖Σ sᵢ ΔWᵢ‖²`` by site, from the inner products of every two adapters of the mix.

        Where a layer is several to adapters their updates lie in rows of their own: squares add.
        """
        total: dict[Site, float] = {}
        for one in mix.parts:
            for other in mix.parts:
                pair = min(one.key, other.key), max(one.key, other.key)
                for (site, name), value in self._products(*pair).items():
                    total[site] = total.get(site, 0.0) + one.at(name) * other.at(name) * value
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
            (site, name)
            for site in first
            if site in second and not _opaque(layers[site])
            for name in first[site]
            if name in second[site]
        ]
        values = [
            inner(first[site][name], second[site][name], layers[site].weight.device)
            for site, name in places
        ]
        return dict(zip(places, _floats(values), strict=True))


def _floats(values: Sequence[Tensor]) -> Iterable[float]:
    """All at once: a device is waited for a single time."""
    return torch.stack(list(values)).tolist() if values else ()


def _opaque(layer: LoraLayer) -> str:
    """What a weight is if no update can be added to it (quantised, packed); empty if one can."""
    weight: object = layer.weight
    if type(weight) not in (torch.Tensor, nn.Parameter):
        return type(weight).__name__
    assert isinstance(weight, torch.Tensor)
    fits = weight.dtype in HOLDS and tuple(weight.shape) == tuple(layer.shape)
    return "" if fits else str(weight.dtype).removeprefix("torch.")
