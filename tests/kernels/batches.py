"""Random mixed batches, and how near the reference a sum must come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from hypothesis import strategies as st

from loraloom.kernels import reference
from loraloom.kernels.tile import Tile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Row = frozenset[int]
"""The numbers of the adapters that one row of a batch wears."""

BASE, A, B, BOTH = (Row(numbers) for numbers in ((), (0,), (1,), (0, 1)))

KNOWN = (
    (A, A, B),
    (A, A, A),
    (A, B, Row((2,)), Row((3,))),
    (A, BASE, B, BASE),
    (BASE, A, A, BASE),
    (A, BOTH, BOTH, B),
    (BASE, BASE),
    (A,),
    (),
)
"""Who wears what in the batches that every way must get right."""

RANKS = (1, 2, 3, 8, 16, 17, 40, 64, 65, 100, 128)
WIDTHS = (1, 6, 16, 70, 130)


@dataclass(frozen=True, slots=True)
class Types:
    """``x`` and ``y`` are of one type in most models, and the factors of the same."""

    x: torch.dtype
    y: torch.dtype
    factors: torch.dtype


ALIKE = tuple(Types(t, t, t) for t in (torch.float32, torch.float16, torch.bfloat16))
MIXED = (
    Types(torch.bfloat16, torch.bfloat16, torch.float32),
    Types(torch.float32, torch.float32, torch.bfloat16),
    Types(torch.bfloat16, torch.float32, torch.bfloat16),
    Types(torch.float16, torch.float16, torch.float32),
)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """``x`` and ``y`` are columns of wider tensors: their rows are not neighbours."""

    x: torch.Tensor
    y: torch.Tensor
    tiles: tuple[Tile, ...]

    def after(self, add: Callable[[torch.Tensor, torch.Tensor, Sequence[Tile]], None]) -> Batch:
        """A copy after ``add``; what lies beside ``y`` in memory is as it was."""
        around = around_of(self.y).clone()
        y = around[:, MARGIN : MARGIN + self.y.shape[1]]
        add(y, self.x, self.tiles)
        outside = torch.ones_like(around, dtype=torch.bool)
        outside[:, MARGIN : MARGIN + self.y.shape[1]] = False
        assert torch.equal(around[outside], around_of(self.y)[outside])
        return Batch(self.x, y, self.tiles)

    def covered(self) -> torch.Tensor:
        """Which entries any tile covers: ``[entries]``."""
        covered = torch.zeros(len(self.y), dtype=torch.bool)
        for tile in self.tiles:
            covered[tile.start : tile.stop] = True
        return covered


MARGIN = 3
"""Columns before and behind ``x`` and ``y`` that are not theirs."""


def around_of(t: torch.Tensor) -> torch.Tensor:
    """The wider tensor that ``t`` was cut from."""
    assert t._base is not None
    return t._base


def inner(rows: int, width: int, kind: torch.dtype, draw: torch.Generator) -> torch.Tensor:
    """``[rows, width]`` between columns of infinity: whoever reads one of these is found out."""
    around = torch.full((rows, width + 2 * MARGIN), torch.inf, dtype=kind)
    t = around[:, MARGIN : MARGIN + width]
    t.copy_(torch.randn(rows, width, generator=draw))
    return t


def tiles_of(rows: Sequence[Row], run: int, ends: Callable[[int, int], Tile]) -> tuple[Tile, ...]:
    """The longest runs of each adapter, where a row is ``run`` entries."""
    found = []
    for adapter in sorted(frozenset[int]().union(*rows)):
        worn = [adapter in row for row in rows]
        for first, here in enumerate(worn):
            if here and not (first and worn[first - 1]):
                last = next((i for i in range(first, len(rows)) if not worn[i]), len(rows))
                found.append((adapter, first * run, last * run))
    made: dict[int, Tile] = {}
    for adapter, start, stop in found:
        made.setdefault(adapter, ends(start, stop))
    return tuple(
        Tile(start, stop, made[a].down, made[a].up, made[a].scale) for a, start, stop in found
    )


@st.composite
def batches(draw: st.DrawFn, types: Types, ways: Sequence[Sequence[Row]] = KNOWN) -> Batch:
    rows = draw(
        st.one_of(
            st.sampled_from(ways),
            st.lists(st.frozensets(st.integers(0, 3), max_size=2), max_size=6),
        )
    )
    run = draw(st.sampled_from([1, 2, 7, 19]))
    width, out = draw(st.sampled_from(WIDTHS)), draw(st.sampled_from(WIDTHS))
    seeded = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))

    def made(start: int, stop: int) -> Tile:
        rank = draw(st.sampled_from(RANKS))
        down = torch.randn(rank, width, generator=seeded) / width**0.5
        up = torch.randn(out, rank, generator=seeded) / rank**0.5
        scale = draw(st.sampled_from([1.0, -0.75, 2.5]))
        return Tile(start, stop, down.to(types.factors), up.to(types.factors), scale)

    tiles = list(tiles_of(rows, run, made))
    entries = len(rows) * run
    # tiles whose ends are no ends of rows, some of them empty
    for _ in range(draw(st.integers(0, 2))):
        start = draw(st.integers(0, entries))
        tiles.append(made(start, draw(st.integers(start, entries))))
    x, y = inner(entries, width, types.x, seeded), inner(entries, out, types.y, seeded)
    return Batch(x, y, tuple(draw(st.permutations(tiles))))


def assert_near_the_reference(got: Batch, before: Batch) -> None:
    """Within what rounding explains, entry by entry; bit for bit where no tile is.

    The hidden is rounded once a tile, ``y`` at most once a tile, and sums are in float32: relative
    to the sum of the magnitudes, which is what cancels.
    """
    want = before.after(reference.add)
    size = torch.zeros(before.y.shape, dtype=torch.float64)
    parts = tuple(
        Tile(t.start, t.stop, t.down.double().abs(), t.up.double().abs(), abs(t.scale))
        for t in before.tiles
    )
    size += before.y.double().abs()
    reference.add(size, before.x.double().abs(), parts)
    kinds = {before.y.dtype, *(t.up.dtype for t in before.tiles)}
    coarse = max(torch.finfo(kind).eps for kind in kinds)
    slack = (3 + len(parts)) * coarse + 8 * torch.finfo(torch.float32).eps
    # 0.01: numbers of float16 below 6e-5 have fewer bits
    off = (got.y.double() - want.y.double()).abs() / (slack * (size + 0.01))
    assert off.numel() == 0 or off.max() <= 1, f"{off.max():.1f} times what rounding explains"
    bare = ~before.covered()
    assert torch.equal(got.y[bare], before.y[bare])
