"""Figures on the weights and layers that a case touches: one number for each law."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call

from loraloom.core.algebra import delta, fold, reference
from loraloom.core.mix import Applied, Component, Site

from .figures import differing, relative, worst
from .studio import BARE, Attire, Case, Studio, changed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loraloom.core.adapter import LowRank

STRENGTHS = (0.5, -1.0, 1.75)
"""At which strengths must be a multiple of what is at 1."""

FLOAT32 = torch.finfo(torch.float32).eps / 2
"""Largest relative error of one rounding to nearest."""


@dataclass(frozen=True, slots=True, order=True)
class Spot:
    """One layer of a model."""

    component: Component
    site: Site


Weights: TypeAlias = Mapping[Spot, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Doses:
    """What acts on one weight: updates and how strongly, in the same order."""

    updates: Sequence[LowRank]
    strengths: Sequence[float]

    def exact(self, weight: Tensor) -> Tensor:
        """The fused weight in float64."""
        return reference(weight.cpu(), self.updates, self.strengths)


def fused_is_float64(studio: Studio, case: Case) -> float:
    """Largest relative error of a fused weight."""
    bare, worn = (weights(studio, attire, case) for attire in (BARE, case.whole))
    return worst(
        relative(worn[spot].cpu(), doses(studio, case.whole, spot).exact(bare[spot]))
        for spot in bare
    )


def fused_is_rounded_once(studio: Studio, case: Case) -> float:
    """Largest error of a number over what a float32 sum and one rounding can make of it."""
    bare, worn = (weights(studio, attire, case) for attire in (BARE, case.whole))
    return worst(
        _roundings(worn[spot].cpu(), bare[spot].cpu(), doses(studio, case.whole, spot))
        for spot in bare
    )


def live_is_float64(studio: Studio, case: Case) -> float:
    """Largest relative error of a layer's output that wears a case beside its weight."""
    bare, worn = weights(studio, BARE, case), outputs(studio, case.whole, case)
    return worst(
        relative(worn[spot].cpu(), exact_output(studio, spot, _exact(studio, case, spot, bare)))
        for spot in bare
    )


def weights_are_linear(studio: Studio, case: Case) -> float:
    """Largest distance of a weight's difference from that at 1 times the strength."""
    bare, one = (weights(studio, attire, case) for attire in (BARE, case.whole))
    return worst(_off_line(weights(studio, case.at(s), case), bare, one, s) for s in STRENGTHS)


def layers_are_linear(studio: Studio, case: Case) -> float:
    """Likewise of the outputs of layers, worn live."""
    bare, one = (outputs(studio, attire, case) for attire in (BARE, case.whole))
    return worst(_off_line(outputs(studio, case.at(s), case), bare, one, s) for s in STRENGTHS)


def mix_is_the_sum(studio: Studio, case: Case) -> float:
    """Largest relative distance of a fused weight from the weight plus each difference alone."""
    bare, worn = (weights(studio, attire, case) for attire in (BARE, case.whole))
    return worst(
        relative(worn[spot].cpu(), _sum(bare[spot].cpu(), doses(studio, case.whole, spot)))
        for spot in bare
    )


def path_does_not_show(studio: Studio, case: Case) -> float:
    """How many numbers of the weights depend on what was worn before."""
    fresh = weights(studio, case.whole, case)
    before = (case.at(-0.5), *((lora,) for lora in case.whole), case.at(0.5), case.whole)
    with studio.wearing(Applied()):
        for attire in before:
            studio.become(studio.state(attire, "fused"))
        after = _copies(studio, case)
    return sum(differing(after[spot], fresh[spot]) for spot in fresh)


def restored(studio: Studio, case: Case) -> float:
    """How many tensors of the model are not what they were before a case was worn every way."""
    before = studio.fingerprint()
    mixes = [studio.mix(attire) for attire in case.rows]
    states = (
        *(studio.state(attire, "fused") for attire in case.rows),
        Applied.rows(mixes),
        Applied.rows(mixes, fused=studio.mix(case.at(-0.5))),
        studio.state(case.whole, "fused"),
    )
    with studio.wearing(Applied()):
        for state in states:
            studio.become(state)
    return len(changed(before, studio.fingerprint()))


def spots(studio: Studio, case: Case) -> list[Spot]:
    """The layers that an adapter of ``case`` updates."""
    return sorted(
        {
            Spot(model.component, site)
            for model in studio.loom.models
            for name in case.names
            for site in studio.loom.adapters.get(name).sites(model.component)
        }
    )


def doses(studio: Studio, attire: Attire, spot: Spot) -> Doses:
    found = [
        (sites[spot.site], lora.strength)
        for lora in attire
        if spot.site in (sites := studio.loom.adapters.get(lora.name).sites(spot.component))
    ]
    return Doses([update for update, _ in found], [strength for _, strength in found])


def weights(studio: Studio, attire: Attire, case: Case) -> Weights:
    """Copies of the weights that ``case`` touches while ``attire`` is fused."""
    with studio.wearing(studio.state(attire, "fused")):
        return _copies(studio, case)


def outputs(studio: Studio, attire: Attire, case: Case) -> Weights:
    """What the layers that ``case`` touches make of their probes while ``attire`` is live."""
    with studio.wearing(studio.state(attire, "live")), torch.no_grad():
        return {
            spot: layer(probe(layer))
            for spot in spots(studio, case)
            for layer in [_layer(studio, spot)]
        }


def exact_output(studio: Studio, spot: Spot, weight: Tensor) -> Tensor:
    """What a layer makes of its probe in float64 with ``weight``."""
    layer = _layer(studio, spot)
    x = probe(layer)
    x = x.double() if x.is_floating_point() else x
    own = {name: value.double() for name, value in layer.named_parameters()}
    with torch.no_grad():
        made: Tensor = functional_call(layer, {**own, "weight": weight.to(x.device)}, (x,))
    return made.cpu()


def probe(layer: nn.Module) -> Tensor:
    """An input of a layer, the same at every call: two rows of three tokens, or small images."""
    draw = torch.Generator().manual_seed(0)
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if isinstance(layer, nn.Embedding):
        return torch.randint(len(weight), (2, 3), generator=draw).to(weight.device)
    if isinstance(layer, nn.Linear):
        shape = [2, 3, layer.in_features]
    else:
        assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        kernel = zip(layer.kernel_size, layer.dilation, strict=True)
        shape = [2, layer.in_channels, *(wide * (size - 1) + 3 for size, wide in kernel)]
    return torch.randn(shape, generator=draw).to(weight)


def _copies(studio: Studio, case: Case) -> Weights:
    return {spot: _weight(studio, spot).detach().clone() for spot in spots(studio, case)}


def _layer(studio: Studio, spot: Spot) -> nn.Module:
    model = next(model for model in studio.loom.models if model.component == spot.component)
    return model.weights.layers[spot.site]


def _weight(studio: Studio, spot: Spot) -> Tensor:
    weight = _layer(studio, spot).weight
    assert isinstance(weight, Tensor)
    return weight


def _exact(studio: Studio, case: Case, spot: Spot, bare: Weights) -> Tensor:
    return doses(studio, case.whole, spot).exact(bare[spot])


def _roundings(got: Tensor, bare: Tensor, doses: Doses) -> float:
    """The standard bound of a sum of n products: n roundings of the sum of their magnitudes."""
    exact = doses.exact(bare)
    terms = bare.double().abs()
    for update, strength in zip(doses.updates, doses.strengths, strict=True):
        up, down = (factor.double().abs().flatten(1) for factor in (update.up, update.down))
        terms += abs(strength * update.scale) * (up @ down).reshape(bare.shape)
    ranks = sum(update.rank for update in doses.updates)
    allowed = torch.finfo(got.dtype).eps / 2 * exact.abs() + (ranks + 3) * FLOAT32 * terms
    tiny = torch.finfo(torch.float32).tiny
    return float(((got.double() - exact).abs() / allowed.clamp(min=tiny)).max())


def _off_line(at: Weights, bare: Weights, one: Weights, strength: float) -> float:
    """Over the larger of the two norms: neither can be known better than it is rounded."""
    return worst(
        relative(
            at[spot].double() - bare[spot].double(),
            strength * (one[spot].double() - bare[spot].double()),
            scale=max(at[spot].double(), one[spot].double(), key=torch.linalg.vector_norm),
        )
        for spot in bare
    )


def _sum(bare: Tensor, doses: Doses) -> Tensor:
    total = bare.double()
    for update, strength in zip(doses.updates, doses.strengths, strict=True):
        total = total + delta(fold([update], [[strength]], torch.device("cpu"))).double()
    return total
