"""The arithmetic against float64 and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loraloom.core.adapter import Adapter, LowRank
from loraloom.core.algebra import delta, fold, fused, reference

CPU = torch.device("cpu")


def update(seed: int, rank: int, alpha: float, dtype: torch.dtype = torch.float32) -> LowRank:
    draw = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, 6, generator=draw).to(dtype)
    up = torch.randn(8, rank, generator=draw).to(dtype)
    return LowRank(down, up, alpha / rank)


def test_a_rank_one_update_by_hand() -> None:
    one = LowRank(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [5.0]]), 0.5)
    got = delta(fold([one], [[2.0]], CPU))
    assert torch.equal(got, torch.tensor([[3.0, 6.0], [5.0, 10.0]]))


updates = st.builds(
    update,
    seed=st.integers(0, 99),
    rank=st.integers(1, 5),
    alpha=st.floats(0.25, 8),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)


@settings(deadline=None)
@given(st.lists(st.tuples(updates, st.floats(-2, 2)), min_size=1, max_size=4))
def test_ranks_side_by_side_are_the_sum(parts: list[tuple[LowRank, float]]) -> None:
    each = [one for one, _ in parts]
    strengths = [strength for _, strength in parts]
    weight = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    folded = fold(each, [strengths], CPU)
    got = fused(weight, folded)
    want = reference(weight, each, strengths)
    assert float((got - want).norm() / want.norm().clamp(min=1)) < 1e-5


def test_every_row_has_its_own_scales() -> None:
    parts = [update(1, 2, 1.0), update(2, 3, 6.0)]
    folded = fold(parts, [[1.0, 0.0], [0.0, -0.5]], CPU)
    assert folded.scale.tolist() == [[0.5, 0.5, 0, 0, 0], [0, 0, -1, -1, -1]]
    torch.testing.assert_close(delta(folded, 0), delta(fold(parts[:1], [[1.0]], CPU)))
    torch.testing.assert_close(delta(folded, 1), delta(fold(parts[1:], [[-0.5]], CPU)))


def test_one_rounding_halves_the_error_of_four() -> None:
    weight = (torch.randn(64, 6) * 0.02).bfloat16()
    parts = [LowRank(torch.randn(2, 6) * 0.1, torch.randn(64, 2) * 0.1, 1.0) for _ in range(4)]
    exact = reference(weight, parts, [1.0] * 4)
    once = fused(weight, fold(parts, [[1.0] * 4], CPU))
    four = weight
    for part in parts:
        four = fused(four, fold([part], [[1.0]], CPU))
    assert once.dtype == torch.bfloat16
    assert (once - exact).norm() < 0.75 * (four - exact).norm()


def test_the_digest_is_of_the_content() -> None:
    def digest(change: str = "") -> str:
        one = update(1, 2, 1.0)
        two = LowRank(one.down.clone(), one.up.clone(), one.scale)
        if change == "byte":
            two.up[7, 1] = math.nextafter(float(two.up[7, 1]), 9.0) + 1e-6
        if change == "alpha":
            two = LowRank(two.down, two.up, two.scale * 2)
        if change == "type":
            two = LowRank(two.down.double(), two.up, two.scale)
        site = "b" if change == "site" else "a"
        component = "unet" if change == "component" else "transformer"
        name = "other" if change == "name" else "one"
        return Adapter.make(name, {component: {"x": one, site: two}}).key.digest

    assert digest() == digest("name")
    changed = [digest(change) for change in ("byte", "alpha", "type", "site", "component")]
    assert len({digest(), *changed}) == 6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_bytes_and_shapes_are_counted(dtype: torch.dtype) -> None:
    one = update(1, 2, 1.0, dtype)
    assert one.shape == (8, 6)
    assert one.rank == 2
    adapter = Adapter.make("a", {"transformer": {"x": one}})
    assert adapter.nbytes == (2 * 6 + 8 * 2) * dtype.itemsize
    assert adapter.sites("text_encoder") == {}
