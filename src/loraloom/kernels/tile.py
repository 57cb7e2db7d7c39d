"""One adapter on one run of a batch's entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """Neighbouring entries of a batch and what they wear: ``scale · up @ down``.

    Tiles of one batch may overlap, for a mix of several adapters, and differ in rank.

    Attributes:
        start: the first entry.
        stop: one past the last; ``start == stop`` is a tile of no entry.
        down: ``[rank, in]``.
        up: ``[out, rank]``.
    """

    start: int
    stop: int
    down: Tensor
    up: Tensor
    scale: float

    def __post_init__(self) -> None:
        assert 0 <= self.start <= self.stop
        assert self.down.ndim == self.up.ndim == 2
        assert self.rank == self.up.shape[1]

    @property
    def entries(self) -> int:
        return self.stop - self.start

    @property
    def rank(self) -> int:
        return self.down.shape[0]


def fits(tile: Tile, y: Tensor, x: Tensor) -> bool:
    """Whether a tile lies in a batch: ``x`` is ``[entries, in]``, ``y`` is ``[entries, out]``."""
    inside = tile.stop <= x.shape[0] == y.shape[0]
    return inside and (tile.down.shape[1], tile.up.shape[0]) == (x.shape[1], y.shape[1])
