"""Mixes and states are canonical values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraloom.core.mix import NOTHING, AdapterKey, Applied, Mix, Part, Segment
from loraloom.errors import InvalidMixError, InvalidStrengthError

A, B, C = (AdapterKey(name, name * 64) for name in "abc")
finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.dictionaries(st.sampled_from([A, B, C]), finite), st.randoms())
def test_order_does_not_matter(strengths: dict[AdapterKey, float], random: object) -> None:
    parts = [Part(key, strength) for key, strength in strengths.items()]
    mixed = Mix.of(reversed(parts))
    assert mixed == Mix.of(parts)
    assert hash(mixed) == hash(Mix.of(parts))
    assert all(mixed.strength(key) == strength for key, strength in strengths.items())


def test_a_part_of_strength_zero_is_no_part() -> None:
    assert Mix.of([Part(A, 0.0), Part(B, -0.0), Part(C, 0)]) == NOTHING
    assert not NOTHING
    assert Mix.of([Part(A, 1)]).parts == (Part(A, 1.0),)


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), -float("inf"), True, "1", None])
def test_a_strength_that_is_no_finite_number_is_refused(strength: float) -> None:
    with pytest.raises(InvalidStrengthError, match=r"a@aaaaaaaaaaaa is .*, want a finite number"):
        Mix.of([Part(A, strength)])


def test_an_adapter_named_twice_is_refused() -> None:
    other = AdapterKey("a", "0" * 64)
    with pytest.raises(InvalidMixError, match="'a' is named 2 times"):
        Mix.of([Part(A, 1.0), Part(other, 1.0)])


def test_only_keeps_the_parts_asked_for() -> None:
    mixed = Mix.of([Part(A, 1.0), Part(B, 2.0)])
    assert mixed.only([B, C]) == Mix.of([Part(B, 2.0)])
    assert mixed.strength(C) == 0


@given(st.lists(st.sampled_from([NOTHING, *(Mix.of([Part(key, 1.0)]) for key in (A, B))])))
def test_segments_cover_the_rows_and_neighbours_differ(mixes: list[Mix]) -> None:
    applied = Applied.rows(mixes)
    if not any(mixes):
        assert applied == Applied()
    elif len(set(mixes)) == 1:
        assert applied.live == (Segment(0, 1, mixes[0]),)
    else:
        spread = [s.mix for s in applied.live for _ in range(s.stop - s.start)]
        assert spread == mixes
        starts = [segment.start for segment in applied.live]
        assert starts == [0, *(segment.stop for segment in applied.live[:-1])]
        pairs = zip(applied.live, applied.live[1:], strict=False)
        assert all(one.mix != other.mix for one, other in pairs)


def test_the_batch_that_once_broke_others_has_two_segments() -> None:
    one, other = Mix.of([Part(A, 1.0)]), Mix.of([Part(B, 1.0)])
    assert Applied.rows([one, one, other]).live == (Segment(0, 2, one), Segment(2, 3, other))


def test_a_component_wears_what_is_for_it_or_for_all() -> None:
    both, first, second = Part(A, 1.0), Part(B, 1.0, (), "one"), Part(C, 1.0, (), "two")
    mix = Mix.of([both, first, second])
    assert mix.on("one") == Mix.of([both, first])
    assert mix.on("two") == Mix.of([both, second])
    assert mix.on("three") == Mix.of([both])
    plain = Mix.of([both])
    assert plain.on("one") is plain


def test_a_state_on_a_component_is_canonical_again() -> None:
    first, second = Mix.of([Part(A, 1.0, (), "one")]), Mix.of([Part(B, 1.0, (), "two")])
    rows = Applied.rows([first, second, second], fused=second)
    assert rows.on("one") == Applied.rows([first, NOTHING, NOTHING])
    assert rows.on("two") == Applied.rows([NOTHING, second, second], fused=second)
    assert rows.on("three") == Applied()
    same = Applied.rows([Mix.of([Part(A, 1.0)])])
    assert same.on("one") is same
    assert Applied(second).on("two") == Applied(second)
