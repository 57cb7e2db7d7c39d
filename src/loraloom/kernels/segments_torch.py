"""Tiles with torch's own products: two calls a tile, on any device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .tile import fits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from .tile import Tile

STEP = 256
"""Entries taken at once where types differ, and a part of the size of ``x`` or ``y`` is made."""


def pack(tiles: Sequence[Tile], device: torch.device) -> tuple[Tile, ...]:
    """The tiles that :func:`add` has something to do for, in their order."""
    assert all(tile.down.device == tile.up.device == device for tile in tiles)
    return tuple(tile for tile in tiles if tile.entries)


def add(y: Tensor, x: Tensor, tiles: Sequence[Tile]) -> None:
    """``y [entries, out]`` += what every tile makes of its entries of ``x [entries, in]``.

    ``x`` is rounded to the type of the factors, the sum to that of ``y``. Nothing of the size of
    ``x`` or ``y`` is made, whatever the types.
    """
    for tile in tiles:
        assert fits(tile, y, x)
        same = y.dtype == x.dtype == tile.down.dtype == tile.up.dtype
        step = max(1, tile.entries) if same else STEP
        for start in range(tile.start, tile.stop, step):
            stop = min(start + step, tile.stop)
            _add_run(y[start:stop], x[start:stop], tile)


def _add_run(y: Tensor, x: Tensor, tile: Tile) -> None:
    hidden = x.to(tile.down.dtype) @ tile.down.t()
    if torch.promote_types(tile.up.dtype, y.dtype) == y.dtype:
        # y's type holds the factors exactly, and takes the product where it lies
        y.addmm_(hidden.to(y.dtype), tile.up.to(y.dtype).t(), alpha=tile.scale)
    else:
        y.add_(hidden @ tile.up.t(), alpha=tile.scale)
