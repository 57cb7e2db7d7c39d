"""Random adapters, mixes and a small real transformer for the laws."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from hypothesis import strategies as st
from torch import nn

from loraloom.core.adapter import Adapter, LowRank
from loraloom.core.mix import Applied, Mix, Part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loraloom.core.mix import AdapterKey


class Block(nn.Module):
    """Attention and feed-forward with residuals: shapes as a transformer has them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_qkv = nn.Linear(width, 3 * width)
        self.to_out = nn.Linear(width, width, bias=False)
        self.ff = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.to_qkv(x).chunk(3, dim=-1)
        x = x + self.to_out(nn.functional.scaled_dot_product_attention(q, k, v))
        out: torch.Tensor = x + self.ff(x)
        return out


class Tiny(nn.Module):
    """Two blocks, and a modulation by a timestep that arrives flattened, one entry a token."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.time = nn.Linear(width, width)
        self.blocks = nn.ModuleList([Block(width), Block(width)])

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        rows, tokens, width = hidden_states.shape
        flat = self.time(hidden_states.reshape(rows * tokens, width))
        x: torch.Tensor = hidden_states + flat.reshape(rows, tokens, width)
        for block in self.blocks:
            x = block(x)
        return x


def tiny(dtype: torch.dtype = torch.float32, seed: int = 0) -> Tiny:
    torch.manual_seed(seed)
    return Tiny().to(dtype).requires_grad_(requires_grad=False)


SITES = {name: layer for name, layer in Tiny().named_modules() if isinstance(layer, nn.Linear)}


def adapter(
    name: str,
    seed: int,
    sites: Sequence[str] | None = None,
    dtype: torch.dtype = torch.float32,
    rank: int | None = None,
) -> Adapter:
    """A random adapter of mixed ranks with fractional alphas."""
    given = rank
    draw = torch.Generator().manual_seed(seed)
    updates = {}
    for site in sites or list(SITES):
        out, width = SITES[site].weight.shape
        rank = given or int(torch.randint(1, 7, (), generator=draw))
        down = torch.randn(rank, width, generator=draw) / width**0.5
        up = torch.randn(out, rank, generator=draw) / rank**0.5
        alpha = float(torch.rand((), generator=draw)) + 0.25
        updates[site] = LowRank(down.to(dtype), up.to(dtype), alpha / rank)
    return Adapter.make(name, {"transformer": updates})


ADAPTERS: dict[AdapterKey, Adapter] = {
    each.key: each
    for each in (
        adapter("all", 1),
        adapter("attention", 2, ["blocks.0.to_qkv", "blocks.1.to_qkv", "blocks.1.to_out"]),
        adapter("one", 3, ["blocks.0.ff.0"]),
        adapter("half", 4, ["time", "blocks.0.ff.2", "blocks.0.to_out"], torch.bfloat16),
    )
}
BY_NAME = {key.name: key for key in ADAPTERS}

strengths = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 0.5]), st.floats(-2, 2, allow_nan=False, width=32)
)


def mix(**parts: float) -> Mix:
    """``mix(all=0.5, one=-1)`` by the names of the adapters above."""
    return Mix.of([Part(BY_NAME[name], strength) for name, strength in parts.items()])


@st.composite
def mixes(draw: st.DrawFn) -> Mix:
    names = draw(st.lists(st.sampled_from(sorted(BY_NAME)), unique=True, max_size=4))
    return mix(**{name: draw(strengths) for name in names})


@st.composite
def states(draw: st.DrawFn) -> Applied:
    return Applied.rows(draw(st.lists(mixes(), max_size=4)), fused=draw(mixes()))
