"""Which of live and fused is chosen, as pure arithmetic."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraloom.lora import cost
from loraloom.lora.cost import CAUTIOUS, EXACT, NOISE_BOUND, Layers, Rates, Rounding, Work, choose

RATES = Rates(
    call=2e-5,
    flop=4e-12,
    touch=1e-11,
    fuse_call=7e-5,
    fuse=1.5e-9,
    fuse_flop=1.2e-11,
    restore=1e-10,
)
STYLE = Layers(24, out=1536, width=1536, rank=16, beside=0, passes=1, entries=1024)

times = st.floats(1e-12, 1e-3)
rates = st.builds(Rates, times, times, times, times, times, times, times)
layers = st.builds(
    Layers,
    count=st.integers(1, 50),
    out=st.integers(1, 5000),
    width=st.integers(1, 5000),
    rank=st.integers(1, 400),
    beside=st.integers(0, 64),
    passes=st.floats(0, 4),
    entries=st.floats(0, 5000),
)
works = st.builds(
    Work,
    layers=st.lists(layers, max_size=4).map(tuple),
    steps=st.integers(1, 100),
    uses=st.floats(1, 20),
    resident=st.booleans(),
)


@given(rates, works, st.integers(0, 100))
def test_more_steps_never_turn_fused_into_live(rates: Rates, work: Work, more: int) -> None:
    longer = replace(work, steps=work.steps + more)
    if choose(rates, work).mode == "fused":
        assert choose(rates, longer).mode == "fused"


@given(rates, works, st.floats(0, 20))
def test_more_uses_never_turn_fused_into_live(rates: Rates, work: Work, more: float) -> None:
    oftener = replace(work, uses=work.uses + more)
    if choose(rates, work).mode == "fused":
        assert choose(rates, oftener).mode == "fused"


@given(rates, works, st.floats(1, 10))
def test_more_tokens_never_turn_fused_into_live(rates: Rates, work: Work, times: float) -> None:
    wider = tuple(replace(each, entries=each.entries * times) for each in work.layers)
    if choose(rates, work).mode == "fused":
        assert choose(rates, replace(work, layers=wider)).mode == "fused"


@given(rates, works)
def test_what_is_in_the_weights_stays_there_where_it_would_be_put(rates: Rates, work: Work) -> None:
    if choose(rates, replace(work, resident=False)).mode == "fused":
        assert choose(rates, replace(work, resident=True)).mode == "fused"


@given(rates, works, st.floats(0, 10), st.floats(0, 10))
def test_more_noise_never_turns_live_into_fused(
    rates: Rates, work: Work, noise: float, more: float
) -> None:
    quiet, loud = Rounding(noise, 1.0, "x"), Rounding(noise + more, 1.0, "x")
    if choose(rates, work, quiet).mode == "live":
        assert choose(rates, work, loud).mode == "live"


@given(rates, works)
def test_the_cheaper_of_the_two_is_taken_and_both_are_told(rates: Rates, work: Work) -> None:
    choice = choose(rates, work)
    assert (choice.mode == "fused") == (choice.fused_s < choice.live_s)
    assert choice.why


def test_a_rank_of_384_in_many_steps_is_fused_and_a_style_in_one_step_is_not() -> None:
    distilled = Layers(24, out=1536, width=1536, rank=384, beside=0, passes=2, entries=1024)
    assert choose(RATES, Work((distilled,), 50)).mode == "fused"
    assert choose(RATES, Work((STYLE,), 1)).mode == "live"


def test_a_machine_that_could_not_be_measured_fuses_only_what_is_worth_it_anywhere() -> None:
    distilled = Layers(24, out=1536, width=1536, rank=384, beside=0, passes=2, entries=1024)
    assert choose(CAUTIOUS, Work((distilled,), 50)).mode == "fused"
    for steps in (1, 4, 8, 20):
        assert choose(CAUTIOUS, Work((STYLE,), steps)).mode == "live"


def test_a_style_that_is_asked_for_again_and_again_is_fused() -> None:
    assert choose(RATES, Work((STYLE,), 8)).mode == "live"
    assert choose(RATES, Work((STYLE,), 8, uses=10)).mode == "fused"


def test_what_is_in_the_weights_costs_its_restoring_alone() -> None:
    restoring = 24 * 1536 * 1536 * RATES.restore
    bare = choose(RATES, Work((STYLE,), 8))
    kept = choose(RATES, Work((STYLE,), 8, uses=4, resident=True))
    assert kept.fused_s == pytest.approx(restoring / 4)
    assert kept.live_s == pytest.approx(bare.live_s + restoring)


def test_a_layer_that_is_called_anyway_costs_the_ranks_alone() -> None:
    alone = choose(RATES, Work((STYLE,), 1)).live_s
    beside = choose(RATES, Work((replace(STYLE, beside=16),), 1)).live_s
    assert beside == pytest.approx(24 * 1024 * 2 * 1536 * 16 * RATES.flop)
    assert beside < alone


def test_a_layer_that_is_never_called_is_not_fused() -> None:
    idle = replace(STYLE, passes=0)
    assert choose(RATES, Work((idle,), 50)).mode == "live"
    assert choose(RATES, Work((), 50)).why == "no layer is changed"


def test_the_answer_says_why() -> None:
    work = Work((STYLE,), 50)
    slow = replace(RATES, call=1.9 / 1200, flop=0, touch=0, fuse_call=0.3 / 24, fuse=0, fuse_flop=0)
    said = choose(replace(slow, restore=0), work)
    assert str(said) == "fused: 50 steps live cost 1.9 s, fusing and restoring 300 ms"
    said = choose(RATES, work, Rounding(0.58**2, 1.0, "bfloat16"))
    assert str(said) == "live: rounding to bfloat16 would be 58% of the effect"
    said = choose(RATES, work, Rounding(float("inf"), 0.0, "Int4Tensor"))
    assert str(said) == "live: weights of Int4Tensor cannot hold it"
    assert "in the weights already" in choose(RATES, replace(work, resident=True)).why
    assert "if 5 in a row ask for it" in choose(RATES, replace(work, uses=5)).why


def test_noise_and_effect_are_summed_before_they_are_compared() -> None:
    large, tiny = Rounding(1e-6, 1e-2, "bfloat16"), Rounding(1e-6, 1e-9, "bfloat16")
    assert tiny.share == 1.0
    assert (large + large + tiny).share < 0.02 < NOISE_BOUND < (tiny + tiny).share
    assert EXACT.share == 0.0
    assert Rounding(1e-6, 0.0).share == 1.0


def test_choosing_needs_no_torch() -> None:
    tree = ast.parse(Path(cost.__file__).read_text(encoding="utf-8"))
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert imported == {"math"}
