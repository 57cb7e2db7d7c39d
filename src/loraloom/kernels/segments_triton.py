"""Tiles in two launches, however many there are: all shrink to their ranks, then all expand.

The expanding launch is over blocks of the output: one program owns a block, adds what every tile
that covers it makes there, and writes it once. So tiles may overlap without a race, sums do not
depend on the order of programs, and the output is rounded once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from .launch import pack
from .tile import fits

if TYPE_CHECKING:
    from torch import Tensor

    from .launch import Launch

__all__ = ["add", "pack"]

COLUMNS = 128
"""Columns of the output that a program takes."""

DEPTH = 128
"""Bytes of input features, and at most as many of ranks, in one product: a line of a cache."""


@triton.jit
def shrink(
    x,
    hidden,
    items,
    blocks,
    stride,
    width,
    ROWS: tl.constexpr,
    RANKS: tl.constexpr,
    DEEP: tl.constexpr,
):
    """``hidden [entries of a tile, padded rank] = x @ downᵀ`` for one block of entries and ranks.

    ``x`` is ``[entries, width]`` with rows ``stride`` apart.
    """
    item = items + 7 * tl.load(blocks + 2 * tl.program_id(0)).to(tl.int64)
    # the compiler cannot see what pack promises of numbers and addresses in memory
    rank = tl.load(item + 1).to(tl.int32)
    pitch = tl.multiple_of(tl.load(item + 2).to(tl.int32), 16)
    ranks = tl.program_id(1) * RANKS + tl.arange(0, RANKS)
    if tl.program_id(1) * RANKS < pitch:
        kind = hidden.dtype.element_ty
        down = tl.multiple_of(tl.load(item + 5).to(tl.pointer_type(kind)), 16)
        rows = tl.load(blocks + 2 * tl.program_id(0) + 1).to(tl.int64) + tl.arange(0, ROWS)
        inside = rows < tl.load(item)
        total = tl.zeros((ROWS, RANKS), tl.float32)
        for first in range(0, width, DEEP):
            deep = first + tl.arange(0, DEEP)
            part = tl.load(
                x + rows[:, None] * stride + deep[None, :],
                mask=inside[:, None] & (deep < width)[None, :],
                other=0.0,
            )
            factor = tl.load(
                down + ranks[None, :] * width + deep[:, None],
                mask=(ranks < rank)[None, :] & (deep < width)[:, None],
                other=0.0,
            )
            total = tl.dot(part.to(kind), factor, total, input_precision="ieee")
        begin = tl.multiple_of(tl.load(item + 4), 16) + (rows - tl.load(item + 3))[:, None] * pitch
        # ranks that pad are written too, as zeros: expand reads them
        tl.store(
            hidden + begin + ranks[None, :],
            total.to(kind),
            inside[:, None] & (ranks < pitch)[None, :],
        )


@triton.jit
def expand(
    y,
    hidden,
    tiles,
    scales,
    spans,
    worn,
    blocks,
    stride,
    width,
    ROWS: tl.constexpr,
    WIDE: tl.constexpr,
    RANKS: tl.constexpr,
    EVEN: tl.constexpr,
):
    """``y += Σ scale · hidden @ upᵀ`` for one block of entries and columns, over its tiles.

    ``y`` is ``[entries, width]`` with rows ``stride`` apart; every rank is a multiple of ``EVEN``.
    """
    span = spans + 3 * tl.load(blocks + 2 * tl.program_id(0)).to(tl.int64)
    rows = tl.load(blocks + 2 * tl.program_id(0) + 1).to(tl.int64) + tl.arange(0, ROWS)
    columns = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    inside, within = rows < tl.load(span), columns < width
    kind = hidden.dtype.element_ty
    sums = tl.zeros((ROWS, WIDE), tl.float32)
    for place in range(tl.load(span + 1).to(tl.int32), tl.load(span + 2).to(tl.int32)):
        number = tl.load(worn + place)
        tile = tiles + 7 * number.to(tl.int64)
        rank = tl.multiple_of(tl.load(tile + 1).to(tl.int32), EVEN)
        pitch = tl.multiple_of(tl.load(tile + 2).to(tl.int32), 16)
        begin = tl.multiple_of(tl.load(tile + 4), 16) + (rows - tl.load(tile + 3))[:, None] * pitch
        up = tl.multiple_of(tl.load(tile + 6).to(tl.pointer_type(kind)), 16)
        total = tl.zeros((ROWS, WIDE), tl.float32)
        for first in range(0, pitch, RANKS):
            ranks = first + tl.arange(0, RANKS)
            part = tl.load(
                hidden + begin + ranks[None, :],
                mask=inside[:, None] & (ranks < pitch)[None, :],
                other=0.0,
            )
            factor = tl.load(
                up + columns[None, :].to(tl.int64) * rank + ranks[:, None],
                mask=within[None, :] & (ranks < rank)[:, None],
                other=0.0,
            )
            total = tl.dot(part, factor, total, input_precision="ieee")
        sums += tl.load(scales + number) * total
    target = y + rows[:, None] * stride + columns[None, :]
    mask = inside[:, None] & within[None, :]
    before = tl.load(target, mask=mask, other=0.0).to(tl.float32)
    tl.store(target, (before + sums).to(y.dtype.element_ty), mask=mask)


def add(y: Tensor, x: Tensor, packed: Launch) -> None:
    """``y [entries, out]`` += what every tile makes of its entries of ``x [entries, in]``.

    ``x`` is rounded to the type of the factors and the whole sum to that of ``y``. Rows of both
    may lie any distance apart; their features are neighbours.
    """
    assert all(t.stride(1) == 1 or t.shape[1] == 1 for t in (x, y))
    assert all(fits(tile, y, x) for tile in packed.tiles)
    if not packed.tiles:
        return
    kind = packed.tiles[0].up.dtype
    depth = DEPTH // kind.itemsize
    ranks = min(depth, max(16, triton.next_power_of_2(packed.widest)))
    hidden = torch.empty(packed.hidden, dtype=kind, device=y.device)
    tiles, spans = packed.shrink, packed.expand
    with torch.cuda.device_of(y):  # type: ignore[no-untyped-call]  # torch gives it no types
        shrink[(len(tiles.blocks), triton.cdiv(packed.widest, ranks))](
            x,
            hidden,
            tiles.items,
            tiles.blocks,
            x.stride(0),
            x.shape[1],
            ROWS=packed.block,
            RANKS=ranks,
            DEEP=depth,
        )
        expand[(len(spans.blocks), triton.cdiv(y.shape[1], COLUMNS))](
            y,
            hidden,
            tiles.items,
            packed.scales,
            spans.items,
            packed.worn,
            spans.blocks,
            y.stride(0),
            y.shape[1],
            ROWS=packed.block,
            WIDE=COLUMNS,
            RANKS=ranks,
            EVEN=packed.even,
        )
