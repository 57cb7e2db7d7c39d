"""Which way is faster in torch: tile by tile, or all ranks side by side for all entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CALLS_OF_A_TILE = 2
CALLS_SIDE_BY_SIDE = 3


@dataclass(frozen=True, slots=True)
class Extent:
    """What a product of a tile goes over; a rank of several adapters is the sum of theirs."""

    entries: int
    rank: int

    @property
    def area(self) -> int:
        return self.entries * self.rank


CALL: Mapping[torch.dtype, float] = {torch.float32: 3.5e5, torch.bfloat16: 5.2e6}
"""What a call costs beside its arithmetic, in multiply-adds of one thread.

Measured with ``python -m bench.segments`` on an AMD EPYC with bfloat16 instructions, torch 2.13,
one thread: about 5 us a call and 55e9 multiply-adds a second in float32, 10 to 20 us and 230e9 in
bfloat16; of numbers of that order, these lose least. The rule's way takes at most 1.15 times as
long as the better one in 379 of 386 cases of float32 (the worst 1.5) and in 372 of 386 of bfloat16
(the worst 1.7): the others have rank 4 nearly all, where reading x and y costs more than products.
"""


def call_cost(kind: torch.dtype, threads: int) -> float:
    """:data:`CALL` for as many threads, which do so much more in the same time.

    Types that were not measured count as bfloat16: they go the same way through torch.
    """
    return CALL.get(kind, CALL[torch.bfloat16]) * threads


def side_by_side(tiles: Sequence[Extent], whole: Extent, width: int, call: float) -> bool:
    """Whether a mixed batch is faster with all ranks side by side than tile by tile.

    Side by side are three calls, ``hidden = x @ downᵀ``, times the scale of every entry and rank,
    ``y += hidden @ upᵀ``, that compute ``entries · rank · (in + out)`` of the ``whole``; a tile is
    two that compute its own.

    Args:
        whole: all entries of the batch, also those that wear nothing, and the ranks of all its
            adapters.
        width: in + out of the layer.
        call: what a call costs beside its arithmetic, in multiply-adds; :func:`call_cost`.
    """
    together = CALLS_SIDE_BY_SIDE * call + whole.area * width
    apart = sum(CALLS_OF_A_TILE * call + tile.area * width for tile in tiles)
    return together < apart
