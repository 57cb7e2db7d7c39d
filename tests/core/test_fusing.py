"""Adding to a weight, and getting every bit back."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loraloom.core import fusing
from loraloom.core.fusing import (
    Factors,
    Ledger,
    Missed,
    add,
    add_reversibly,
    digest,
    same_bits,
    size,
    subtract,
)

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def weight_and_factors(
    shape: tuple[int, ...], rank: int, dtype: torch.dtype, ratio: float, seed: int = 0
) -> tuple[torch.Tensor, Factors]:
    """A weight, and factors whose product is ``ratio`` of it."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=draw, dtype=torch.float64)
    up = torch.randn(shape[0], rank, generator=draw)
    down = torch.randn(rank, weight[0].numel(), generator=draw)
    up *= float(ratio * weight.norm() / (up @ down).norm())
    weight = weight.to(dtype)
    return weight, Factors.of(up, down, weight)


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(1, 8),
    st.sampled_from(DTYPES),
    st.floats(1e-4, 4),
    st.booleans(),
)
def test_what_is_added_can_be_subtracted_to_the_bit(
    shape: tuple[int, int], rank: int, dtype: torch.dtype, ratio: float, special: bool
) -> None:
    weight, factors = weight_and_factors(shape, rank, dtype, ratio)
    if special:
        weight.view(-1)[0] = 0.0
        weight.view(-1)[-1] = -0.0
        weight.view(-1)[len(weight) // 2] = torch.finfo(dtype).tiny / 4  # no normal number
    before, sums = weight.clone(), digest(weight)
    wanted = torch.empty_like(weight)
    add(weight, factors, wanted)
    ledger: Ledger = []
    add_reversibly(weight, factors, ledger)
    assert same_bits(weight, wanted)
    assert subtract(weight, factors, ledger, sums) == 0
    assert same_bits(weight, before)


@pytest.mark.parametrize(("ratio", "most"), [(0.003, 0.02), (0.03, 0.07), (0.17, 0.18)])
def test_a_ledger_is_a_small_part_of_the_weight(ratio: float, most: float) -> None:
    weight, factors = weight_and_factors((512, 512), 16, torch.bfloat16, ratio)
    before = weight.clone()
    ledger: Ledger = []
    add_reversibly(weight, factors, ledger)
    assert 0 < size(ledger) <= most * weight.nbytes
    assert not same_bits(weight, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(64, 48), (16, 4, 3, 3)])
def test_the_sum_is_rounded_once(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    weight, factors = weight_and_factors(shape, 6, dtype, 0.1)
    out = torch.empty_like(weight)
    add(weight, factors, out)
    up, down = weight_and_factors(shape, 6, torch.float64, 0.1)[1].up, factors.down.double()[-6:]
    if factors.up.dtype == torch.bfloat16:  # split in three
        down = factors.down[:6].double() + factors.down[12:].double()
    exact = weight.double() + (up @ down).reshape(shape)
    nearest = exact.to(dtype)
    if dtype in {torch.bfloat16, torch.float16}:
        assert float((out == nearest).double().mean()) > 0.995
    torch.testing.assert_close(out, nearest, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_a_weight_larger_than_the_scratch_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, factors = weight_and_factors((50, 24), 3, torch.float32, 0.1)
    whole, parts = torch.empty_like(weight), torch.empty_like(weight)
    add(weight, factors, whole)
    monkeypatch.setitem(fusing.BLOCK, "cpu", 24 * 7)
    add(weight, factors, parts)
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-7)


def test_processors_without_bfloat16_products_add_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fusing, "multiplies_bfloat16", lambda _device: False)
    weight, factors = weight_and_factors((64, 48), 6, torch.bfloat16, 0.1)
    assert factors.up.dtype == torch.float32
    before, ledger = weight.clone(), list[Missed]()
    add_reversibly(weight, factors, ledger)
    assert subtract(weight, factors, ledger, digest(before)) == 0
    assert same_bits(weight, before)


@given(st.integers(0, 63), st.integers(0, 30), st.sampled_from(DTYPES), st.integers(1, 3))
def test_one_other_bit_changes_the_digest(
    place: int, bit: int, dtype: torch.dtype, width: int
) -> None:
    weight = torch.randn(64, width).to(dtype)
    before = digest(weight)
    kind = fusing.BITS[weight.element_size()]
    weight.view(kind)[place, 0] ^= 1 << (bit % (8 * weight.element_size() - 1))
    assert (digest(weight) != before).nonzero().flatten().tolist() == [place]


def interrupted(name: str, fail_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt the n-th call of a function."""
    real, count = getattr(fusing, name), iter(range(10**6))

    def failing(*args: object) -> object:
        if next(count) == fail_at:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(fusing, name, failing)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fail_at", range(6))
@pytest.mark.parametrize("name", ["_add", "_places", "digest", "_bits"])
def test_what_is_interrupted_is_undone_all_the_same(
    name: str, fail_at: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fusing.BLOCK, "cpu", 24 * 7)  # of eight blocks
    weight, factors = weight_and_factors((50, 24), 3, dtype, 0.3)
    before, sums, ledger = weight.clone(), digest(weight), list[Missed]()
    with monkeypatch.context() as patch:
        interrupted(name, fail_at, patch)
        with suppress(KeyboardInterrupt):
            add_reversibly(weight, factors, ledger)
            subtract(weight, factors, ledger, sums)
            pytest.fail("it was not interrupted")
    assert subtract(weight, factors, ledger, sums) == 0
    assert same_bits(weight, before)


@pytest.mark.parametrize("written", [True, False])
def test_a_block_that_was_interrupted_around_its_write_is_undone(written: bool) -> None:
    weight, factors = weight_and_factors((50, 24), 3, torch.bfloat16, 0.3)
    before, sums, ledger = weight.clone(), digest(weight), list[Missed]()
    add_reversibly(weight, factors, ledger)
    if not written:
        weight.copy_(before)
    assert subtract(weight, factors, ledger, sums) == 0
    assert same_bits(weight, before)


def test_rows_that_would_not_be_restored_are_counted_and_nothing_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(fusing.BLOCK, "cpu", 24 * 7)
    weight, factors = weight_and_factors((50, 24), 3, torch.bfloat16, 0.3)
    sums, ledger = digest(weight), list[Missed]()
    add_reversibly(weight, factors, ledger)
    weight[22:24] *= 2  # somebody wrote to the fused weight
    fused = weight.clone()
    assert subtract(weight, factors, ledger, sums) == 2
    assert same_bits(weight, fused)


def test_factors_that_bfloat16_holds_are_not_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusing, "multiplies_bfloat16", lambda _device: True)
    weight = torch.zeros(8, 8, dtype=torch.bfloat16)
    coarse, fine = torch.full((8, 2), 0.5), torch.full((2, 8), 0.3)
    assert Factors.of(coarse, coarse.t(), weight).up.shape == (8, 2)
    assert Factors.of(fine.t(), coarse.t(), weight).up.shape == (8, 4)
    assert Factors.of(coarse, fine, weight).up.shape == (8, 4)
    assert Factors.of(fine.t(), fine, weight).up.shape == (8, 6)


def test_equal_bytes_have_equal_digests_wherever_they_lie() -> None:
    flat = torch.randn(16 * 16 + 1)
    weight = flat[1:].view(16, 16)
    assert torch.equal(digest(weight), digest(weight.clone()))
    assert torch.equal(digest(weight.t()), digest(weight.t().contiguous()))
