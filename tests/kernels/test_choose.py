"""Which kernel, and which way, a batch gets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loraloom.kernels import segments_torch
from loraloom.kernels.choose import Way, choose, kernel_for
from loraloom.kernels.cost import CALL, Extent, call_cost, side_by_side
from loraloom.kernels.tile import Tile


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps", "xpu", "meta"])
@pytest.mark.parametrize("triton", [True, False])
def test_triton_is_chosen_on_cuda_where_it_is_installed_and_nowhere_else(
    device: str, triton: bool
) -> None:
    want = Way.TRITON if device == "cuda" and triton else Way.TORCH
    assert choose(device, triton=triton) is want


def test_the_kernel_of_the_cpu_is_torch_and_packs_for_itself() -> None:
    kernel = kernel_for(torch.device("cpu"))
    assert kernel.add is segments_torch.add
    tile = Tile(1, 3, torch.ones(2, 3), torch.ones(4, 2), 0.5)
    y = torch.zeros(4, 4)
    kernel.add(y, torch.ones(4, 3), kernel.pack([tile], torch.device("cpu")))
    assert torch.equal(y, torch.tensor([0.0, 3, 3, 0])[:, None].expand(4, 4))


extents = st.lists(st.builds(Extent, st.integers(1, 4096), st.integers(1, 64)), min_size=2)


@given(tiles=extents, width=st.integers(2, 12_288))
def test_without_a_cost_of_calls_tiles_are_never_slower(tiles: list[Extent], width: int) -> None:
    whole = Extent(sum(t.entries for t in tiles), sum(t.rank for t in tiles))
    assert not side_by_side(tiles, whole, width, 0.0)


@given(tiles=extents, width=st.integers(2, 12_288))
def test_where_a_call_costs_all_side_by_side_wins(tiles: list[Extent], width: int) -> None:
    whole = Extent(sum(t.entries for t in tiles), sum(t.rank for t in tiles))
    assert side_by_side(tiles, whole, width, 1e18)


def test_one_adapter_for_some_of_the_entries_is_a_tile() -> None:
    assert not side_by_side([Extent(10, 16)], Extent(100, 16), 4096, 1e6)


def test_where_the_crossover_lies() -> None:
    """Two tiles of 100 entries and rank 8: 1 call more against 1600 · width multiply-adds."""
    tiles, whole = [Extent(100, 8)] * 2, Extent(200, 16)
    assert side_by_side(tiles, whole, 1000, 1_600_001.0)
    assert not side_by_side(tiles, whole, 1000, 1_600_000.0)


def test_threads_make_a_call_dearer_and_unknown_types_count_as_bfloat16() -> None:
    assert call_cost(torch.float32, 2) == 2 * CALL[torch.float32]
    assert call_cost(torch.float16, 1) == CALL[torch.bfloat16]
