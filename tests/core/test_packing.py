"""Updates of packed layers against float64: what acts on the rows, and on no others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loraloom.core.adapter import LowRank
from loraloom.core.algebra import fold, fused, reference
from loraloom.core.packing import Member, Packed, placed, shapes, spread
from loraloom.errors import AdapterMismatchError

if TYPE_CHECKING:
    from collections.abc import Mapping

CPU = torch.device("cpu")
WIDTH = 6
SIZES = {"q": 8, "k": 4, "v": 4}
QKV = Packed.of("qkv", SIZES, WIDTH)


def update(out: int, seed: int = 0, scale: float = 1.0, rank: int = 2) -> LowRank:
    draw = torch.Generator().manual_seed(seed)
    down, up = torch.randn(rank, WIDTH, generator=draw), torch.randn(out, rank, generator=draw)
    return LowRank(down, up, scale)


def dense(one: LowRank) -> torch.Tensor:
    return reference(torch.zeros(one.shape), [one], [1.0])


def by_hand(updates: Mapping[str, LowRank], sizes: Mapping[str, int]) -> torch.Tensor:
    """The difference of the packed weight in float64, member by member."""
    blocks = [
        dense(updates[name]) if name in updates else torch.zeros(size, WIDTH).double()
        for name, size in sizes.items()
    ]
    total = torch.cat(blocks)
    return total + dense(updates["qkv"]) if "qkv" in updates else total


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict[str, int], dict[str, LowRank]]:
    """Members of any sizes, and updates of any of them and of the packed layer."""
    names = ["q", "k", "v", "w"][: draw(st.integers(1, 4))]
    sizes = {name: draw(st.integers(1, 9)) for name in names}
    outs = {**sizes, "qkv": sum(sizes.values())}
    scale = st.sampled_from([1.0, -1.0, 0.0, 0.3]) | st.floats(-64, 64)
    updates = {}
    for site in draw(st.lists(st.sampled_from(sorted(outs)), unique=True, min_size=1)):
        one = update(outs[site], draw(st.integers(0, 99)), draw(scale), draw(st.integers(1, 4)))
        dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
        updates[site] = LowRank(one.down.to(dtype), one.up.to(dtype), one.scale)
    return sizes, updates


def together(updates: Mapping[str, LowRank], packed: Packed) -> torch.Tensor:
    """The difference of the packed weight, as it is fused."""
    parts = list(spread(updates, {"qkv": packed})["qkv"].values())
    return fused(torch.zeros(packed.shape), fold(parts, [[1.0] * len(parts)], CPU))


@settings(deadline=None)
@given(cases())
def test_members_side_by_side_are_the_dense_sum(
    case: tuple[dict[str, int], dict[str, LowRank]],
) -> None:
    sizes, updates = case
    packed = Packed.of("qkv", sizes, WIDTH)
    got, want = together(updates, packed), by_hand(updates, sizes)
    assert float((got - want).norm() / want.norm().clamp(min=1)) < 1e-6
    for member in packed.members:
        if member.site not in updates and "qkv" not in updates:
            assert not got[member.start : member.stop].any()


@settings(deadline=None)
@given(cases(), st.floats(-2, 2))
def test_each_part_may_have_its_own_strength(
    case: tuple[dict[str, int], dict[str, LowRank]], strength: float
) -> None:
    sizes, updates = case
    packed = Packed.of("qkv", sizes, WIDTH)
    parts = spread(updates, {"qkv": packed})["qkv"]
    assert parts.keys() == updates.keys()
    strengths = [strength if site == "q" else 1.0 for site in parts]
    got = fused(torch.zeros(packed.shape), fold(list(parts.values()), [strengths], CPU))
    scaled = {
        site: LowRank(one.down, one.up, one.scale * (strength if site == "q" else 1.0))
        for site, one in updates.items()
    }
    want = by_hand(scaled, sizes)
    assert float((got - want).norm() / want.norm().clamp(min=1)) < 1e-6


def test_two_members_by_hand() -> None:
    ones = torch.ones(1, 2)
    packed = Packed.of("qk", {"q": 2, "k": 1}, 2)
    q = LowRank(ones, torch.tensor([[1.0], [2.0]]), 0.5)
    k = LowRank(2 * ones, torch.tensor([[3.0]]), -4.0)
    got = spread({"k": k, "q": q, "other": q}, {"qk": packed})
    assert list(got) == ["qk", "other"]
    assert got["other"] == {"other": q}
    assert torch.equal(got["qk"]["q"].up, torch.tensor([[1.0], [2.0], [0.0]]))
    assert torch.equal(got["qk"]["k"].up, torch.tensor([[0.0], [0.0], [3.0]]))
    assert (got["qk"]["q"].scale, got["qk"]["k"].scale) == (0.5, -4.0)


def test_one_update_of_the_packed_layer_is_the_object_that_it_was() -> None:
    own = update(16)
    assert spread({"qkv": own}, {"qkv": QKV}) == {"qkv": {"qkv": own}}


def test_updates_go_to_the_layer_that_is_called() -> None:
    other = Packed.of("b.kv", {"b.k": 4, "b.v": 4}, WIDTH)
    updates = {
        site: update(out, seed)
        for seed, (site, out) in enumerate(
            {"v": 4, "qkv": 16, "b.q": 8, "b.k": 4, "to_out": 6}.items()
        )
    }
    got = spread(updates, {"qkv": QKV, "b.kv": other})
    assert set(got) == {"qkv", "b.q", "b.kv", "to_out"}
    assert torch.allclose(together(updates, QKV).double(), by_hand(updates, SIZES), atol=1e-5)
    assert torch.equal(dense(got["b.kv"]["b.k"])[:4], dense(updates["b.k"]))
    assert not dense(got["b.kv"]["b.k"])[4:].any()


def test_equal_updates_give_equal_bits_in_any_order() -> None:
    updates = {site: update(out, out, out / 3) for site, out in {**SIZES, "qkv": 16}.items()}
    backwards = dict(reversed(updates.items()))
    assert torch.equal(together(updates, QKV), together(backwards, QKV))


@pytest.mark.parametrize(
    ("site", "out", "message"),
    [
        ("k", 8, r"update of k is 8×6, rows 8 to 12 of qkv is 4×6"),
        ("qkv", 12, r"update of qkv is 12×6, the packed layer is 16×6"),
    ],
)
def test_an_update_of_another_shape_is_refused(site: str, out: int, message: str) -> None:
    with pytest.raises(AdapterMismatchError, match=message):
        spread({"q": update(8), site: update(out)}, {"qkv": QKV})


def test_an_update_of_another_width_is_refused() -> None:
    narrow = LowRank(torch.ones(2, 5), torch.ones(8, 2), 1.0)
    with pytest.raises(AdapterMismatchError, match="q is 8×5, rows 0 to 8 of qkv is 8×6"):
        placed(narrow, QKV, QKV.members[0])


def test_members_are_layers_that_adapters_may_name() -> None:
    assert shapes({"qkv": QKV}) == {"q": (8, 6), "k": (4, 6), "v": (4, 6)}


def test_members_fill_the_packed_weight_without_gaps() -> None:
    with pytest.raises(AssertionError):
        Packed("qk", (5, 6), (Member("q", 0, 2), Member("k", 3, 5)))
    with pytest.raises(AssertionError):
        Packed("qk", (6, 6), (Member("q", 0, 2), Member("k", 2, 5)))
