"""Curves, and the mix of a step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraloom.core.mix import NOTHING, AdapterKey, Mix, Part, Scope
from loraloom.core.schedule import ALWAYS, Curve, Knot, Schedule, Turn
from loraloom.errors import InvalidMixError, InvalidScheduleError, InvalidStrengthError

A, B = (AdapterKey(name, name * 64) for name in "ab")


def test_a_curve_is_straight_between_knots_and_level_outside() -> None:
    curve = Curve((Knot(0.2, 0.0), Knot(0.6, 1.0), Knot(0.8, -1.0)))
    wanted = {0: 0, 0.2: 0, 0.3: 0.25, 0.6: 1, 0.7: 0, 0.8: -1, 1: -1}
    for progress, factor in wanted.items():
        assert curve.at(progress) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("start", "stop", "ramp", "wanted"),
    [
        (0, 1, 0, {0: 1, 0.5: 1, 0.99: 1}),
        (0, 0.5, 0, {0: 1, 0.49: 1, 0.5: 0, 0.9: 0}),
        (0.5, 1, 0, {0: 0, 0.49: 0, 0.5: 1, 1: 1}),
        (0.2, 0.8, 0.2, {0.2: 0, 0.3: 0.5, 0.4: 1, 0.6: 1, 0.7: 0.5, 0.8: 0}),
        (0, 1, 0.5, {0: 0, 0.25: 0.5, 0.5: 1, 0.75: 0.5, 1: 0}),
    ],
)
def test_a_window(start: float, stop: float, ramp: float, wanted: dict[float, float]) -> None:
    curve = Curve.window(start, stop, ramp)
    assert {at: pytest.approx(curve.at(at)) for at in wanted} == wanted


@pytest.mark.parametrize(
    ("start", "stop", "ramp"),
    [(0.5, 0.5, 0), (0.6, 0.5, 0), (-0.1, 0.5, 0), (0.5, 1.1, 0), (0, 0.2, 0.2), (0, 1, -0.1)],
)
def test_windows_that_are_none_are_refused(start: float, stop: float, ramp: float) -> None:
    with pytest.raises(InvalidScheduleError, match=f"from {start} to {stop} with ramps of {ramp}"):
        Curve.window(start, stop, ramp)


@pytest.mark.parametrize(
    "knots",
    [
        (),
        (Knot(0.5, 1.0), Knot(0.4, 1.0)),
        (Knot(-0.1, 1.0),),
        (Knot(0.0, float("nan")),),
        (Knot(float("inf"), 1.0),),
    ],
)
def test_knots_out_of_order_are_refused(knots: tuple[Knot, ...]) -> None:
    with pytest.raises(InvalidScheduleError, match=r"a curve|the knots"):
        Curve(knots)


@given(st.floats(0, 1), st.floats(-3, 3))
def test_a_schedule_without_curves_is_its_mix_at_every_step(at: float, strength: float) -> None:
    parts = [Part(A, strength), Part(B, 1.0, (Scope("*.ff.*", 0.5),))]
    schedule = Schedule.of(Turn(part) for part in reversed(parts))
    assert schedule == Schedule.of(Turn(part, ALWAYS) for part in parts)
    assert schedule.at(at) == schedule.full == Mix.of(parts)


def test_an_adapter_that_pauses_is_no_part_of_the_mix() -> None:
    schedule = Schedule.of([Turn(Part(A, 2.0), Curve.window(0, 0.5)), Turn(Part(B, 0.0))])
    assert schedule.at(0.25) == Mix.of([Part(A, 2.0)])
    assert schedule.at(0.5) == NOTHING
    assert schedule.full == Mix.of([Part(A, 2.0)])


def test_a_schedule_refuses_what_a_mix_refuses() -> None:
    with pytest.raises(InvalidMixError):
        Schedule.of([Turn(Part(A, 1.0)), Turn(Part(A, 2.0))])
    with pytest.raises(InvalidStrengthError):
        Schedule.of([Turn(Part(A, float("nan")))])
    with pytest.raises(InvalidStrengthError, match=r"at '\*' is inf"):
        Schedule.of([Turn(Part(A, 1.0, (Scope("*", float("inf")),)))])


def test_the_last_scope_that_matches_counts() -> None:
    part = Part(A, 2.0, (Scope("*", 0.0), Scope("*.attn?.*", 1.0), Scope("blocks.1.*", 0.5)))
    wanted = {
        "blocks.0.attn1.to_q": 2,
        "blocks.1.attn1.to_q": 1,
        "blocks.0.ff": 0,
        "blocks.1.ff": 1,
    }
    assert {site: part.at(site) for site in wanted} == wanted
    mix = Mix.of([part])
    assert mix.at("blocks.1.ff", A) == 1
    assert mix.at("blocks.1.ff", B) == 0
