"""Laws of what a device is told of tiles."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loraloom.kernels.launch import ALIGNED, Launch, block_of, cut, pack, padded
from loraloom.kernels.tile import Tile

from .batches import ALIKE, Batch, batches

CPU = torch.device("cpu")


def entries_of(packed: Launch) -> list[int]:
    """The entries that the programs of the expanding launch write, one after the other."""
    written: list[int] = []
    for item, first in packed.expand.blocks.tolist():
        stop = int(packed.expand.items[item, 0])
        written += range(first, min(first + packed.block, stop))
    return written


@given(batch=batches(ALIKE[0]))
@settings(deadline=None, max_examples=60)
def test_every_covered_entry_is_written_by_one_program(batch: Batch) -> None:
    packed = pack(batch.tiles, CPU)
    covered = batch.covered().nonzero().flatten().tolist()
    assert sorted(entries_of(packed)) == covered


@given(batch=batches(ALIKE[0]))
@settings(deadline=None, max_examples=60)
def test_a_program_adds_the_tiles_that_cover_its_entries(batch: Batch) -> None:
    packed = pack(batch.tiles, CPU)
    for item, first in packed.expand.blocks.tolist():
        _, begin, end = packed.expand.items[item].tolist()
        worn = sorted(packed.worn[begin:end].tolist())
        assert worn == [i for i, t in enumerate(packed.tiles) if t.start <= first < t.stop]


@given(batch=batches(ALIKE[0]))
@settings(deadline=None, max_examples=60)
def test_what_tiles_shrink_to_does_not_overlap(batch: Batch) -> None:
    packed = pack(batch.tiles, CPU)
    end = 0
    for tile, facts in zip(packed.tiles, packed.shrink.items.tolist(), strict=True):
        stop, rank, pitch, start, begin, down, up = facts
        assert (start, stop, rank) == (tile.start, tile.stop, tile.rank)
        assert (down, up) == (tile.down.data_ptr(), tile.up.data_ptr())
        assert begin == end
        assert pitch >= rank
        assert pitch % 16 == begin % 16 == 0 == rank % packed.even
        end += (stop - start) * pitch
    assert packed.hidden == end


@given(ends=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=5))
def test_spans_are_what_the_same_tiles_cover(ends: list[tuple[int, int]]) -> None:
    one = torch.zeros(1, 1)
    tiles = [Tile(min(pair), max(pair), one, one, 1.0) for pair in ends]
    over = {entry: span.tiles for span in cut(tiles) for entry in range(span.start, span.stop)}
    for entry in range(10):
        here = tuple(i for i, t in enumerate(tiles) if t.start <= entry < t.stop)
        assert over.get(entry, ()) == here


def test_factors_are_copied_only_where_they_must_be() -> None:
    down, up = torch.zeros(4, 8), torch.zeros(8, 4)
    askew = torch.zeros(33)[1:].view(4, 8)
    turned = torch.zeros(4, 8).t()
    assert askew.data_ptr() % ALIGNED
    (straight,) = pack([Tile(0, 2, down, up, 1.0)], CPU).tiles
    assert straight.down.data_ptr() == down.data_ptr()
    assert straight.up.data_ptr() == up.data_ptr()
    (mended,) = pack([Tile(0, 2, askew, turned, 1.0)], CPU).tiles
    assert mended.down.data_ptr() % ALIGNED == 0
    assert mended.up.is_contiguous()


def test_tiles_of_two_types_are_refused() -> None:
    small = Tile(0, 1, torch.zeros(1, 2).half(), torch.zeros(2, 1).half(), 1.0)
    wide = Tile(0, 1, torch.zeros(1, 2), torch.zeros(2, 1), 1.0)
    with pytest.raises(AssertionError):
        pack([small, wide], CPU)


def test_large_batches_take_large_blocks_and_short_runs_small_ones() -> None:
    assert block_of([20_000, 20_000]) == 64
    assert block_of([9_000]) == 32
    assert block_of([4096]) == 16
    assert block_of([1] * 40_000) == 16
    assert block_of([]) == 16
    assert (padded(1), padded(16), padded(17)) == (16, 16, 32)
