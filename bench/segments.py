"""``python -m bench.segments``: tile by tile or side by side, and which one the rule takes."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import TYPE_CHECKING

import torch

from loraloom.kernels import segments_torch
from loraloom.kernels.cost import Extent, call_cost, side_by_side
from loraloom.kernels.tile import Tile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LAYERS = ((256, 256), (1024, 1024), (2048, 2048), (4096, 4096), (2048, 6144))
ENTRIES = (1, 4, 16, 64, 256, 1024, 4096)
RANKS = (4, 16, 64)
TILES = (2, 4, 8, 16)
MOST = 2e10
"""Multiply-adds of a case: larger ones take minutes and are decided anyway."""


@dataclass(frozen=True, slots=True)
class Case:
    """``tiles`` of ``entries`` entries each, every one with an adapter of its own."""

    kind: torch.dtype
    layer: tuple[int, int]
    entries: int
    rank: int
    tiles: int

    @property
    def whole(self) -> Extent:
        return Extent(self.entries * self.tiles, self.rank * self.tiles)


@dataclass(frozen=True, slots=True)
class Times:
    """Least seconds of the two ways, and which one the rule takes."""

    together: float
    apart: float
    rule: bool

    @property
    def lost(self) -> float:
        """How many times slower than the better way the rule's is."""
        taken = self.together if self.rule else self.apart
        return taken / min(self.together, self.apart)


def cases() -> Iterator[Case]:
    for parts in product((torch.float32, torch.bfloat16), LAYERS, ENTRIES, RANKS, TILES):
        case = Case(*parts)
        size = case.whole.entries * sum(case.layer)
        if case.whole.area * sum(case.layer) <= MOST and size <= 1.2e8:
            yield case


def in_turn(first: Callable[[], None], second: Callable[[], None]) -> tuple[float, float]:
    """Least seconds of two ways run in turn: what else the machine does only adds."""
    spent: tuple[list[float], list[float]] = ([], [])
    first()
    second()
    until = time.perf_counter() + 0.1
    while len(spent[0]) < 4 or (time.perf_counter() < until and len(spent[0]) < 200):
        for times, way in zip(spent, (first, second), strict=True):
            start = time.perf_counter()
            way()
            times.append(time.perf_counter() - start)
    return min(spent[0]), min(spent[1])


def measure(case: Case) -> Times:
    width, out = case.layer
    x = torch.randn(case.whole.entries, width).to(case.kind)
    y = torch.randn(case.whole.entries, out).to(case.kind)
    tiles = []
    scale = torch.zeros(case.whole.entries, case.whole.rank, dtype=case.kind)
    for i in range(case.tiles):
        start, stop = i * case.entries, (i + 1) * case.entries
        down = (torch.randn(case.rank, width) / width).to(case.kind)
        up = (torch.randn(out, case.rank) / case.rank).to(case.kind)
        tiles.append(Tile(start, stop, down, up, 0.7))
        scale[start:stop, i * case.rank : (i + 1) * case.rank] = 0.7
    down, up = torch.cat([t.down for t in tiles]), torch.cat([t.up for t in tiles], dim=1)

    def together() -> None:
        hidden = x @ down.t()
        hidden *= scale
        y.addmm_(hidden, up.t())

    ready = segments_torch.pack(tiles, y.device)

    def apart() -> None:
        segments_torch.add(y, x, ready)

    extents = [Extent(tile.entries, tile.rank) for tile in tiles]
    call = call_cost(case.kind, torch.get_num_threads())
    return Times(*in_turn(together, apart), side_by_side(extents, case.whole, width + out, call))


def line(case: Case, times: Times) -> str:
    kind, (width, out) = str(case.kind).removeprefix("torch."), case.layer
    size = f"{kind:9} {width:5} {out:5} {case.entries:7} {case.rank:4} {case.tiles:5}"
    spent = f"{times.together * 1e6:9.0f}us {times.apart * 1e6:9.0f}us"
    return f"{size} {spent}  {'together' if times.rule else 'apart':8} {times.lost:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0, help="of the cases, drawn at random")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    known = list(cases())
    drawn = Random(0).sample(known, round(len(known) * given.share))
    print(f"{'type':9} {'in':>5} {'out':>5} {'entries':>7} {'rank':>4} {'tiles':>5}", end=" ")
    print(f"{'together':>11} {'apart':>11}  rule")
    lost: dict[torch.dtype, list[float]] = {}
    for case in sorted(drawn, key=known.index):
        times = measure(case)
        lost.setdefault(case.kind, []).append(times.lost)
        print(line(case, times), flush=True)
    for kind, factors in lost.items():
        near = sum(factor <= 1.15 for factor in factors)
        print(
            f"{kind}: within 15 % of the better {near} of {len(factors)}, worst {max(factors):.2f}"
        )


if __name__ == "__main__":
    main()
