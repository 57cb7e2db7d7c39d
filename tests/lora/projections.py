"""Separate projections of attentions and feed-forwards, and adapters of them."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import nn

from loraloom.core.adapter import LowRank
from loraloom.core.algebra import reference
from loraloom.core.packing import Packed, spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PROJECTION = re.compile(r"(to|add)_[qkv](_proj)?|[qkv]_proj|(gate|up)_proj")


def projections(module: nn.Module) -> list[str]:
    """Sites of separate projections."""
    return [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and PROJECTION.fullmatch(name.rpartition(".")[2])
    ]


def updates_of(sizes: Mapping[str, Iterable[int]], seed: int = 0) -> dict[str, LowRank]:
    """Random updates of two sites of three, of mixed ranks and scales."""
    draw = torch.Generator().manual_seed(seed)
    updates = {}
    for i, (site, (out, width)) in enumerate(sizes.items()):
        rank = 1 + i % 3
        down = torch.randn(rank, width, generator=draw) / width**0.5
        up = torch.randn(out, rank, generator=draw) * 0.3
        if (i + seed) % 3:
            updates[site] = LowRank(down, up, 0.5 + 0.25 * (i % 4))
    return updates


def sizes_of(module: nn.Module, sites: Iterable[str]) -> dict[str, Iterable[int]]:
    layers = dict(module.named_modules())
    return {site: (layers[site].out_features, layers[site].in_features) for site in sites}


@torch.no_grad()
def add(
    module: nn.Module,
    updates: Mapping[str, LowRank],
    packs: Mapping[str, Packed] = MappingProxyType({}),
) -> None:
    """Put updates into the weights, by plain arithmetic in float64."""
    for site, parts in spread(updates, packs).items():
        weight = module.get_submodule(site).weight
        assert isinstance(weight, nn.Parameter)
        weight.copy_(reference(weight, list(parts.values()), [1.0] * len(parts)))


def models_of(name: str) -> Path:
    """The folder of a package's models, to read them as text."""
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "models"
