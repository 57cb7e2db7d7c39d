"""Laws of the tiles in Triton, on the GPU or else in Triton's interpreter.

Run by ``test_triton.py`` in a process of its own: the interpreter is chosen when triton is
imported, and in the process of the other tests somebody may have done that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loraloom.kernels import segments_triton
from loraloom.kernels.tile import Tile

from .batches import ALIKE, MIXED, Batch, Types, assert_near_the_reference, batches, inner

if TYPE_CHECKING:
    from collections.abc import Sequence

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SETTINGS = settings(
    deadline=None,
    max_examples=12,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.fixture(autouse=True, scope="module")
def _products_of_bfloat16() -> None:
    """The interpreter holds bfloat16 as bits and multiplies these (triton issue 11584)."""
    if DEVICE.type == "cuda":
        return
    from triton.runtime import interpreter

    builder: Any = interpreter.InterpreterBuilder
    product = builder.create_dot

    def create_dot(self: Any, a: Any, b: Any, d: Any, *how: Any) -> Any:
        wide = [interpreter.tl.float32 if t.dtype.is_bf16() else t.dtype for t in (a, b)]
        a, b = (self.cast_impl(t, kind) for t, kind in zip((a, b), wide, strict=True))
        return product(self, a, b, d, *how)

    builder.create_dot = create_dot


def moved(t: torch.Tensor) -> torch.Tensor:
    """``t`` on the device, its rows as far apart as they were."""
    if DEVICE.type == "cpu":
        return t
    assert t._base is not None
    offset = t.storage_offset() % t.stride(0)
    return t._base.to(DEVICE)[:, offset : offset + t.shape[1]]


def add(y: torch.Tensor, x: torch.Tensor, tiles: Sequence[Tile]) -> None:
    there = tuple(Tile(t.start, t.stop, t.down.to(DEVICE), t.up.to(DEVICE), t.scale) for t in tiles)
    on_device = moved(y)
    segments_triton.add(on_device, moved(x), segments_triton.pack(there, DEVICE))
    y.copy_(on_device)


@pytest.mark.parametrize("types", [*ALIKE, *MIXED], ids=str)
@given(data=st.data())
@SETTINGS
def test_tiles_add_what_the_reference_adds(types: Types, data: st.DataObject) -> None:
    batch = data.draw(batches(types))
    assert_near_the_reference(batch.after(add), batch)


def tile(start: int, stop: int, rank: int, types: Types = ALIKE[0]) -> Tile:
    draw = torch.Generator().manual_seed(rank)
    down = torch.randn(rank, WIDTH, generator=draw) / WIDTH**0.5
    up = torch.randn(OUT, rank, generator=draw) / rank**0.5
    return Tile(start, stop, down.to(types.factors), up.to(types.factors), 0.5)


WIDTH, OUT = 80, 150


def batch_of(entries: int, tiles: Sequence[Tile], types: Types = ALIKE[0]) -> Batch:
    draw = torch.Generator().manual_seed(entries)
    x, y = inner(entries, WIDTH, types.x, draw), inner(entries, OUT, types.y, draw)
    return Batch(x, y, tuple(tiles))


@pytest.mark.parametrize(
    "batch",
    [
        batch_of(70, [tile(0, 70, 512)]),
        batch_of(70, [tile(0, 70, 1), tile(0, 70, 300), tile(33, 34, 129)]),
        batch_of(200, [tile(i, i + 60, 1 + i) for i in range(0, 140, 13)]),
        batch_of(64, [tile(0, 0, 4), tile(64, 64, 4)]),
        batch_of(0, [tile(0, 0, 4)]),
    ],
    ids=["rank 512", "ranks 1 to 300", "eleven overlap", "all empty", "no entry"],
)
def test_any_rank_and_any_cut(batch: Batch) -> None:
    assert_near_the_reference(batch.after(add), batch)


def test_a_packed_value_serves_many_steps_and_keeps_its_factors() -> None:
    batch = batch_of(20, [tile(0, 20, 5)])
    want = batch.after(add)
    factors = [t.to(DEVICE) for t in (batch.tiles[0].down, batch.tiles[0].up)]
    packed = segments_triton.pack([Tile(0, 20, factors[0], factors[1], 0.5)], DEVICE)
    del factors
    for _ in range(2):
        y = batch.y.clone().to(DEVICE)
        segments_triton.add(y, batch.x.to(DEVICE), packed)
        assert torch.equal(y.cpu(), want.y)


def test_factors_may_lie_anywhere() -> None:
    """Columns of a wider tensor, and an address that no vector can be loaded from."""
    whole = tile(0, 20, 5)
    down = torch.zeros(5 * WIDTH + 1)[1:].view(5, WIDTH).copy_(whole.down)
    up = torch.zeros(OUT, 9)[:, 2:7].copy_(whole.up)
    for factors in ((down, whole.up), (whole.down, up)):
        batch = batch_of(20, [Tile(0, 20, factors[0], factors[1], 0.5)])
        assert torch.equal(batch.after(add).y, batch_of(20, [whole]).after(add).y)


@given(entries=st.integers(1, 40))
@SETTINGS
def test_rows_of_one_feature_have_no_distance(entries: int) -> None:
    """A column cut from a wider tensor: its features are neighbours whatever its strides say."""
    x, y = torch.ones(1, entries).t(), torch.ones(1, entries).t()
    one = torch.ones(1, 1)
    add_to = y.clone().to(DEVICE)
    packed = segments_triton.pack([Tile(0, entries, one.to(DEVICE), one.to(DEVICE), 2.0)], DEVICE)
    segments_triton.add(add_to, x.to(DEVICE), packed)
    assert torch.equal(add_to.cpu(), torch.full((entries, 1), 3.0))
