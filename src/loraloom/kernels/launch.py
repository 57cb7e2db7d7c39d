"""Tiles described for a device: which program of a launch does which entries for whom."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import torch

from .tile import Tile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

ALIGNED = 16
"""Bytes; factors begin at a multiple of it, so that a kernel may load vectors."""

BUSY = 256
"""Programs that fill a large device: entries are cut finer rather than leave cores idle."""


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """Entries, ``start`` to ``stop`` exclusive, that the same tiles cover: those named."""

    start: int
    stop: int
    tiles: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """Programs of one launch.

    Attributes:
        items: int64 ``[items, columns]``: what a program's block of entries belongs to.
        blocks: int32 ``[programs, 2]``: the number of the item, the block's first entry.
    """

    items: Tensor
    blocks: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Launch:
    """Tiles on a device; build it with :func:`pack` and use it for as many steps as they act.

    Attributes:
        tiles: those with entries, kept because the device holds only addresses of their factors.
        block: entries a program takes.
        hidden: elements of what lies between the two launches: entries × padded rank, every tile
            behind the one before.
        scales: float32 ``[tiles]``.
        shrink: by tile: stop, rank, padded rank, start, where its hidden begins, addresses of its
            down and up.
        expand: by span: stop, the first and one past the last of its tiles in ``worn``.
        worn: int32, numbers of tiles, those of a span one after the other.
    """

    tiles: tuple[Tile, ...]
    block: int
    hidden: int
    scales: Tensor
    shrink: Work
    expand: Work
    worn: Tensor

    @property
    def widest(self) -> int:
        return max(tile.rank for tile in self.tiles)

    @property
    def even(self) -> int:
        """What divides every rank, 16 at most: rows of ``up`` then lie where vectors may."""
        return math.gcd(16, *(tile.rank for tile in self.tiles))


def pack(tiles: Sequence[Tile], device: torch.device) -> Launch:
    """What :func:`.segments_triton.add` needs to know of tiles, whose factors are on ``device``.

    Factors of all tiles have one type. They stay where they are, unless one is not contiguous or
    not aligned to 16 bytes: that one is copied.
    """
    kept = tuple(_straight(tile) for tile in tiles if tile.entries)
    assert all(tile.down.device == tile.up.device == device for tile in kept)
    assert len({factor.dtype for tile in kept for factor in (tile.down, tile.up)}) <= 1
    block = block_of([tile.entries for tile in kept])
    spans = cut(kept)
    sizes = [tile.entries * padded(tile.rank) for tile in kept]
    begins = list(accumulate(sizes, initial=0))
    ends = list(accumulate((len(span.tiles) for span in spans), initial=0))
    by_tile = [
        [t.stop, t.rank, padded(t.rank), t.start, begin, t.down.data_ptr(), t.up.data_ptr()]
        for t, begin in zip(kept, begins[:-1], strict=True)
    ]
    by_span = [
        [span.stop, first, last] for span, (first, last) in zip(spans, pairwise(ends), strict=True)
    ]
    return Launch(
        tiles=kept,
        block=block,
        hidden=begins[-1],
        scales=torch.tensor([t.scale for t in kept], dtype=torch.float32, device=device),
        shrink=_work(kept, by_tile, block, device),
        expand=_work(spans, by_span, block, device),
        worn=torch.tensor(
            [number for span in spans for number in span.tiles], dtype=torch.int32, device=device
        ),
    )


def cut(tiles: Sequence[Tile]) -> tuple[Span, ...]:
    """The entries that tiles cover, cut wherever one begins or ends."""
    ends = sorted({end for tile in tiles for end in (tile.start, tile.stop)})
    spans = []
    for start, stop in pairwise(ends):
        over = tuple(i for i, t in enumerate(tiles) if t.start <= start and stop <= t.stop)
        if over:
            spans.append(Span(start, stop, over))
    return tuple(spans)


def block_of(entries: Sequence[int]) -> int:
    """Entries a program takes: many to load factors rarely, few where a device would idle.

    16 is the least that a matrix unit multiplies.
    """
    total, longest = sum(entries), max(entries, default=0)
    block = 64
    while block > 16 and (total < block * BUSY or longest <= block // 2):
        block //= 2
    return block


def padded(rank: int) -> int:
    """Ranks that a tile's hidden holds: a whole number of the blocks of a matrix unit."""
    return -(-rank // 16) * 16


def _straight(tile: Tile) -> Tile:
    down, up = (_aligned(factor) for factor in (tile.down, tile.up))
    return Tile(tile.start, tile.stop, down, up, tile.scale)


def _aligned(factor: Tensor) -> Tensor:
    flat = factor.contiguous()
    return flat.clone() if flat.data_ptr() % ALIGNED else flat


def _work(
    runs: Sequence[Tile] | Sequence[Span],
    items: list[list[int]],
    block: int,
    device: torch.device,
) -> Work:
    """Each run of entries cut into blocks; built by torch, for a batch may have thousands."""
    starts = torch.tensor([run.start for run in runs], dtype=torch.int64)
    counts = torch.tensor([-(-(run.stop - run.start) // block) for run in runs], dtype=torch.int64)
    item = torch.repeat_interleave(counts)
    nth = torch.arange(len(item)) - (counts.cumsum(0) - counts)[item]
    blocks = torch.stack([item, starts[item] + nth * block], dim=1).to(torch.int32)
    return Work(torch.tensor(items, dtype=torch.int64).to(device), blocks.to(device))
