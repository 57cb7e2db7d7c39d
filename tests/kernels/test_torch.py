"""Laws of the tiles in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from loraloom.kernels import segments_torch
from loraloom.kernels.tile import Tile

from .batches import ALIKE, MIXED, Batch, Types, assert_near_the_reference, batches

if TYPE_CHECKING:
    from collections.abc import Sequence

CPU = torch.device("cpu")


def add(y: torch.Tensor, x: torch.Tensor, tiles: Sequence[Tile]) -> None:
    segments_torch.add(y, x, segments_torch.pack(tiles, CPU))


@pytest.mark.parametrize("types", [*ALIKE, *MIXED], ids=str)
@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_tiles_add_what_the_reference_adds(types: Types, data: st.DataObject) -> None:
    batch = data.draw(batches(types))
    assert_near_the_reference(batch.after(add), batch)


@given(batch=batches(ALIKE[0]))
@settings(deadline=None, max_examples=30)
def test_packing_leaves_out_only_tiles_without_entries(batch: Batch) -> None:
    packed = segments_torch.pack(batch.tiles, CPU)
    ends = [(tile.start, tile.stop) for tile in batch.tiles if tile.start < tile.stop]
    assert [(ready.start, ready.stop) for ready in packed] == ends


class Made(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch gives it no types
    """The largest tensor made, in elements; views and results in place are none."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self.known: set[int] = set()
        self.largest = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor)}
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() not in given:
            self.largest = max(self.largest, made.numel())
        return made


@pytest.mark.parametrize("types", [*ALIKE, *MIXED], ids=str)
def test_nothing_of_the_size_of_the_input_or_output_is_made(types: Types) -> None:
    entries, width, rank = 1024, 32, 4
    x, y = torch.zeros(entries, width, dtype=types.x), torch.zeros(entries, width, dtype=types.y)
    down, up = (torch.zeros(s, dtype=types.factors) for s in ((rank, width), (width, rank)))
    with Made() as made:
        add(y, x, (Tile(0, entries, down, up, 1.0),))
    assert 0 < made.largest <= entries * width // 4


def test_a_tile_beyond_the_batch_is_refused() -> None:
    x, y = torch.zeros(4, 3), torch.zeros(4, 2)
    with pytest.raises(AssertionError):
        add(y, x, (Tile(2, 5, torch.zeros(1, 3), torch.zeros(2, 1), 1.0),))
