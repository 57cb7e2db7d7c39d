"""Tiles with torch's own products: two calls a tile, on any device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from .tile import Tile

STEP = 256
"""Entries taken at once where types differ, and a part of the size of ``x`` or ``y`` is made."""


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """A tile as its two products take it, in every layer at every step: ``x · into · out``.

    Attributes:
        into: ``[in, rank]``.
        out: ``[rank, out]``, in the type of ``into``.
    """

    start: int
    stop: int
    into: Tensor
    out: Tensor
    scale: float


def pack(tiles: Sequence[Tile], device: torch.device) -> tuple[Ready, ...]:
    """The tiles that :func:`add` has something to do for, in their order."""
    assert all(tile.down.device == tile.up.device == device for tile in tiles)
    assert all(tile.down.dtype == tile.up.dtype for tile in tiles)
    return tuple(
        Ready(tile.start, tile.stop, tile.down.t(), tile.up.t(), tile.scale)
        for tile in tiles
        if tile.entries
    )


def add(y: Tensor, x: Tensor, tiles: Sequence[Ready]) -> None:
    """``y [entries, out]`` += what every tile makes of its entries of ``x [entries, in]``.

    ``x`` is rounded to the type of the factors, the sum to that of ``y``. Nothing of the size of
    ``x`` or ``y`` is made, whatever the types.
    """
    entries, kind = len(y), y.dtype
    for tile in tiles:
        assert tile.stop <= entries == len(x)
        whole = tile.stop - tile.start == entries
        to, given = (y, x) if whole else (y[tile.start : tile.stop], x[tile.start : tile.stop])
        if kind is x.dtype is tile.into.dtype:
            to.addmm_(given @ tile.into, tile.out, alpha=tile.scale)
        else:
            for start in range(0, len(to), STEP):
                _add_other(to[start : start + STEP], given[start : start + STEP], tile)


def _add_other(y: Tensor, x: Tensor, tile: Ready) -> None:
    """Where types differ."""
    hidden = x.to(tile.into.dtype) @ tile.into
    if torch.promote_types(tile.out.dtype, y.dtype) == y.dtype:
        # y's type holds the factors exactly, and takes the product where it lies
        y.addmm_(hidden.to(y.dtype), tile.out.to(y.dtype), alpha=tile.scale)
    else:
        y.add_(hidden @ tile.out, alpha=tile.scale)
