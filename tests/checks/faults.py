"""Faults to plant in the house, each behind what every version of a component has."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from loraloom import Loom
from loraloom.core.adapter import Adapter, LowRank
from loraloom.core.algebra import reference
from loraloom.core.mix import Applied, Part
from loraloom.lora.fitter import Fitter
from loraloom.lora.model import LoraModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

    from loraloom import Request
    from loraloom.core.mix import AdapterKey

BECOME = LoraModel.become


@dataclass
class Kept:
    """A weight whose bytes were changed, and the bytes to put back."""

    weight: nn.Parameter
    data: Tensor


@dataclass
class Rounding:
    """Fused weights whose difference is rounded before it is added."""

    kept: list[Kept] = field(default_factory=list)

    def become(self, model: LoraModel, want: Applied) -> None:
        if model.component != "transformer":
            BECOME(model, want)
            return
        while self.kept:
            last = self.kept.pop()
            last.weight.data = last.data
        bare = {site: layer.weight.detach().clone() for site, layer in model.weights.layers.items()}
        BECOME(model, want)
        for part in want.fused.parts:
            for site, update in model.fitter.adapters[part.key].sites(model.component).items():
                weight = model.weights.layers[site].weight
                delta = reference(torch.zeros_like(bare[site]), [update], [part.strength])
                self.kept.append(Kept(weight, weight.data))
                weight.data = bare[site] + delta.to(weight.dtype)


def rounds_twice(patch: pytest.MonkeyPatch) -> None:
    """Of one adapter on a bare model, and only where a check reads weights itself."""
    fault = Rounding()

    def become(model: LoraModel, want: Applied) -> None:
        fault.become(model, want)

    patch.setattr(LoraModel, "become", become)


def wrong_at(patch: pytest.MonkeyPatch, site: str) -> None:
    """One layer of all is a little off while it is fused."""
    kept: list[Kept] = []

    def become(model: LoraModel, want: Applied) -> None:
        while kept and site in model.weights.layers:
            last = kept.pop()
            last.weight.data = last.data
        BECOME(model, want)
        if want.fused and site in model.weights.layers:
            weight = model.weights.layers[site].weight
            kept.append(Kept(weight, weight.data))
            weight.data = weight.data * 1.0001

    patch.setattr(LoraModel, "become", become)


def coarse_factors(patch: pytest.MonkeyPatch) -> None:
    """The house computes with factors of eight bits."""
    good = Fitter._adapter

    def coarse(update: LowRank) -> LowRank:
        down, up = (factor.to(torch.float8_e5m2).to(factor.dtype) for factor in update.tensors)
        return LowRank(down, up, update.scale)

    def adapter(model: Fitter, key: AdapterKey) -> Adapter:
        right = good(model, key)
        updates = {
            component: {site: coarse(update) for site, update in sites.items()}
            for component, sites in right.updates.items()
        }
        return Adapter(key, updates)

    patch.setattr(Fitter, "_adapter", adapter)


def forgets_strength(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Part, "at", lambda part, site: 1.0)


def has_no_memory(patch: pytest.MonkeyPatch) -> None:
    """Nothing can be fused."""

    def become(model: LoraModel, want: Applied) -> None:
        if want.fused:
            raise torch.OutOfMemoryError("no room for a weight")
        BECOME(model, want)

    patch.setattr(LoraModel, "become", become)


def restores_badly(patch: pytest.MonkeyPatch) -> None:
    """One layer is off by an eighth of a millionth after it was fused."""

    def become(model: LoraModel, want: Applied) -> None:
        before = model.applied
        BECOME(model, want)
        if model.component == "transformer" and before.fused and not want.fused:
            weight = model.weights.layers["transformer_blocks.1.attn1.to_q"].weight
            weight.data = weight.data * (1 + 2**-20)

    patch.setattr(LoraModel, "become", become)


def keeps_what_is_fused(patch: pytest.MonkeyPatch) -> None:
    """What is fused stays, where something else should take its place."""

    def become(model: LoraModel, want: Applied) -> None:
        before = model.applied.fused
        if not (before and want.fused and want.fused != before):
            BECOME(model, want)

    patch.setattr(LoraModel, "become", become)


def drifts(patch: pytest.MonkeyPatch) -> None:
    """Every run of a model leaves a trace in the next."""
    good, runs = Loom.latents, Counter[int]()

    def latents(loom: Loom, requests: Sequence[Request], **options: Any) -> list[Tensor]:
        runs[id(loom)] += 1
        return [made + 1e-6 * runs[id(loom)] for made in good(loom, requests, **options)]

    patch.setattr(Loom, "latents", latents)
