"""What tiles add, by definition: what the other ways are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .tile import fits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from .tile import Tile


def add(y: Tensor, x: Tensor, tiles: Sequence[Tile]) -> None:
    """``y [entries, out]`` += what every tile makes of its entries of ``x [entries, in]``.

    In float64, tile by tile and entry by entry, and rounded once to the type of ``y``.
    """
    assert all(fits(tile, y, x) for tile in tiles)
    total = y.double()
    for tile in tiles:
        for entry in range(tile.start, tile.stop):
            hidden = tile.down.double() @ x[entry].double()  # [rank]
            total[entry] += tile.scale * (tile.up.double() @ hidden)
    y.copy_(total)
