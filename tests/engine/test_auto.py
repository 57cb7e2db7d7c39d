"""The policy auto on the embedded model: what it chooses and leaves, and that none can tell."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from loraloom import Canvas, Loom, Lora, Request, Sampling, Scope
from loraloom.core.mix import NOTHING, AdapterKey, Applied, Mix, Part
from loraloom.core.request import Manner
from loraloom.core.schedule import Curve, Knot, Schedule, Turn
from loraloom.core.stage import Guidance, Guides, Sigmas, Stage
from loraloom.engine.auto import Auto
from loraloom.engine.batch import group, opened
from loraloom.engine.habits import MOST, Habits
from loraloom.engine.job import Job
from loraloom.engine.run import Tick
from loraloom.engine.traffic import Flow, Run, Shape, Traffic
from loraloom.lora.cost import Rates

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loraloom.core.request import Mode

CANVAS, SAMPLING = Canvas(64, 64), Sampling(steps=2, guidance=3.0)
PICTURE = Request("a large red circle on a plain blue background", canvas=CANVAS, sampling=SAMPLING)
NEON = replace(PICTURE, seed=1, loras=(Lora("neon"),))
BOTH = replace(PICTURE, seed=2, loras=(Lora("neon"), Lora("sketch", 0.5)))

STAGES = (Stage("base", Sigmas(2), guidance=Guidance(Guides(cfg=3.0))),)

FUSES = Rates(call=1.0, flop=1e-3, touch=0, fuse_call=1e-6, fuse=0, fuse_flop=0, restore=0)
LIVES = Rates(call=1e-6, flop=0, touch=0, fuse_call=1.0, fuse=0, fuse_flop=0, restore=0)
"""Machines on which there is no doubt."""


def bits(loom: Loom) -> list[torch.Tensor]:
    return [
        value.clone()
        for model in (loom.pipe.transformer, loom.pipe.connectors)
        for value in model.state_dict().values()
    ]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def mix(loom: Loom, **strengths: float) -> Mix:
    return Mix.of(Part(loom.adapters.get(name).key, s) for name, s in strengths.items())


def fused(loom: Loom) -> Mix:
    """What is in the weights of every component, with nothing beside them."""
    (state,) = {model.applied for model in loom.models}
    assert not state.live
    return state.fused


@pytest.fixture
def fresh(loom: Loom, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loom]:
    """On a machine that fuses fast; afterwards the weights are bit for bit what they were."""
    before = bits(loom)
    monkeypatch.setattr(loom, "auto", Auto(loom.models, lambda: FUSES))
    yield loom
    loom.bare()
    assert same(before, bits(loom))


@pytest.mark.parametrize("rates", [FUSES, LIVES], ids=["fused", "live"])
def test_whatever_is_chosen_the_latents_are_the_same(fresh: Loom, rates: Rates) -> None:
    fresh.auto.rates = lambda: rates
    requests = [NEON, BOTH, replace(BOTH, seed=3, loras=(Lora("neon"), Lora("distilled", 0.2)))]
    want = fresh.latents(requests)
    got = fresh.latents(requests, policy="auto")
    for one, other in zip(got, want, strict=True):
        assert float((one - other).abs().max()) <= 1e-4
    assert fused(fresh) == (mix(fresh, neon=1) if rates is FUSES else NOTHING)


def test_jobs_with_different_mixes_share_a_batch_and_what_they_share_is_fused(fresh: Loom) -> None:
    steps: list[Tick] = []
    results = fresh.images([NEON, BOTH], policy="auto", progress=steps.append)
    assert steps == [Tick(1, 2, "base"), Tick(2, 2, "base")]
    modes = [{worn.name: worn.manner.mode for worn in each.worn} for each in results]
    assert modes == [{"neon": "fused"}, {"neon": "fused", "sketch": "live"}]
    assert {each.policy for each in results} == {"auto"}
    sketch = results[1].worn[1].manner
    assert str(sketch) == "live: not all of the batch wear it alike"
    assert "steps live cost" in results[0].worn[0].manner.why


def test_what_was_fused_stays_until_something_else_is_wanted(fresh: Loom) -> None:
    fresh.latents([NEON], policy="auto")
    weight = fresh.models[0].weights.layers["transformer_blocks.0.attn1.to_q"].weight
    before = weight._version
    result = fresh.images([NEON], policy="auto")[0]
    assert weight._version == before, "it was fused again"
    assert "in the weights already" in result.worn[0].manner.why
    fresh.latents([PICTURE], policy="auto")
    assert fused(fresh) == NOTHING
    for policy in ("live", "fused"):
        fresh.latents([NEON], policy="auto")
        assert fused(fresh) == mix(fresh, neon=1)
        fresh.latents([BOTH], policy=policy)
        assert fused(fresh) == NOTHING


@pytest.mark.parametrize(("policy", "rates"), [("live", FUSES), ("fused", LIVES)])
def test_an_explicit_policy_always_wins(fresh: Loom, policy: Mode, rates: Rates) -> None:
    fresh.auto.rates = lambda: rates
    other: Mode = "fused" if policy == "live" else "live"
    asked = replace(NEON, loras=(Lora("neon", manner=Manner(other)),))
    seen = []
    result = fresh.images(
        [asked],
        policy=policy,
        progress=lambda *_: seen.append(bool(fresh.models[0].applied.fused)),
    )[0]
    assert seen == [policy == "fused"] * 2
    assert result.worn[0].manner == Manner(policy)


def test_a_manner_settles_what_auto_would_decide_and_is_what_is_told(fresh: Loom) -> None:
    told = fresh.images([BOTH], policy="auto")[0]
    fresh.auto.rates = lambda: LIVES
    fresh.bare()
    again = replace(BOTH, loras=tuple(Lora(w.name, w.strength, manner=w.manner) for w in told.worn))
    remade = fresh.images([again], policy="auto")[0]
    assert {worn.manner.mode for worn in remade.worn} == {"fused"}
    assert remade.worn == told.worn
    assert remade.frames[0].tobytes() == told.frames[0].tobytes()


def test_a_failure_in_a_step_leaves_one_mix_at_rest(fresh: Loom) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("injected")

    with pytest.raises(MemoryError, match="injected"):
        fresh.latents([NEON, BOTH], policy="auto", progress=fail)
    assert fused(fresh) == mix(fresh, neon=1)


def test_a_failure_to_fuse_keeps_what_rested_before(
    fresh: Loom, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh.latents([NEON], policy="auto")
    before = bits(fresh)

    def refuse(_want: Applied) -> None:
        monkeypatch.undo()
        raise MemoryError("injected")

    with monkeypatch.context() as patch:
        patch.setattr(fresh.models[1], "become", refuse)
        with pytest.raises(MemoryError, match="injected"):
            sketch = fresh.adapters.get("sketch")
            fresh.auto.rest(mix(fresh, sketch=1), {sketch.key: sketch})
    assert fused(fresh) == mix(fresh, neon=1)
    assert same(before, bits(fresh))


def test_an_adapter_that_was_replaced_can_be_taken_out_of_the_weights(fresh: Loom) -> None:
    fresh.adapters.add("passing", fresh.card.adapters["neon"])
    fresh.latents([replace(NEON, loras=(Lora("passing"),))], policy="auto")
    fresh.adapters.add("passing", fresh.card.adapters["sketch"])
    fresh.latents([replace(NEON, loras=(Lora("passing"),))], policy="auto")
    assert fused(fresh) == mix(fresh, passing=1)


def test_a_tiny_update_stays_live_in_bfloat16_and_a_large_one_does_not() -> None:
    loom = Loom.load("mini", dtype="bfloat16")
    loom.auto = Auto(loom.models, lambda: FUSES)
    faint = replace(PICTURE, loras=(Lora("neon"), Lora("sketch", 0.001)))
    result = loom.images([faint], policy="auto")[0]
    manners = {worn.name: worn.manner for worn in result.worn}
    assert manners["neon"].mode == "fused"
    assert manners["sketch"].mode == "live"
    assert "rounding to bfloat16 would be" in manners["sketch"].why


def test_a_mix_that_is_asked_for_again_and_again_is_fused(fresh: Loom) -> None:
    run = Run(Shape(1, 4, (1,)), steps=2)
    neon, sketch = (opened([job(fresh, name)]) for name in ("neon", "sketch"))
    # one use costs more fused than live, two cost less
    fresh.auto.rates = lambda: replace(LIVES, call=1.0, fuse_call=3.0)
    modes = [set(_modes(fresh.auto, neon, run)) for _ in range(4)]
    assert modes[0] == {"live"}
    assert modes[-1] == {"fused"}
    fresh.auto.habits = Habits()
    for _ in range(6):  # as often, and never twice in a row
        assert set(_modes(fresh.auto, neon, run)) == {"live"}
        assert set(_modes(fresh.auto, sketch, run)) == {"live"}


def _modes(auto: Auto, what: object, run: Run) -> list[str]:
    return [each.mode for each in auto.outfit(what, run).by_key.values()]  # type: ignore[arg-type]


def job(loom: Loom, *names: str) -> Job:
    keys = tuple(loom.adapters.edition(name).key for name in names)
    wears = Schedule.of(Turn(Part(key, 1.0)) for key in keys)
    return Job(PICTURE, CANVAS, STAGES, (wears,), keys)


def test_habits_count_runs_and_not_uses() -> None:
    one, two = (Mix.of([Part(AdapterKey(name, ""), 1.0)]) for name in "ab")
    habits = Habits()
    lengths = []
    for _ in range(40):
        habits.note(one)
        lengths.append(habits.uses(one))
    assert lengths == sorted(lengths)
    assert lengths[0] == 1.0
    assert lengths[-1] == MOST
    for _ in range(40):
        habits.note(two)
        habits.note(one)
    assert habits.uses(one) < 1.1
    for number in range(1000):
        habits.note(Mix.of([Part(AdapterKey(str(number), ""), 1.0)]))
    assert len(habits.again) <= 256


A, B = (Part(AdapterKey(name, ""), 1.0) for name in "ab")


def worn(*turns: Turn, manners: dict[AdapterKey, Manner] | None = None) -> Job:
    return Job(PICTURE, CANVAS, STAGES, (Schedule.of(turns),), (), manners or {})


def test_only_what_all_wear_alike_from_first_to_last_is_open() -> None:
    level = Curve((Knot(0.0, 0.5), Knot(1.0, 0.5)))
    half = replace(A, strength=0.5)
    assert opened([worn(Turn(A)), worn(Turn(A), Turn(B))]).candidates == Mix.of([A])
    assert opened([worn(Turn(A, level)), worn(Turn(half))]).candidates == Mix.of([half])
    for other in (
        worn(),
        worn(Turn(half)),
        worn(Turn(A, Curve.window(0, 0.5))),
        worn(Turn(replace(A, scopes=(Scope("*.attn1.*", 0.5),)))),
    ):
        what = opened([worn(Turn(A)), other])
        assert not what.candidates
        assert what.settled[A.key].mode == "live"


def test_what_has_to_be_fused_runs_with_its_like() -> None:
    pinned = {A.key: Manner("fused")}
    jobs = [worn(Turn(A), manners=pinned), worn(Turn(A), Turn(B), manners=pinned), worn(Turn(A))]
    assert group(jobs, "auto") == [[0, 1], [2]]
    assert group(jobs, "live") == [[0, 1, 2]]
    what = opened(jobs[:2])
    assert what.resting == Mix.of([A])
    assert not what.candidates
    assert {key: each.mode for key, each in what.settled.items()} == {A.key: "fused", B.key: "live"}


def test_traffic_is_counted_once_a_shape_and_exact(fresh: Loom) -> None:
    fresh.latents([NEON, replace(NEON, seed=5)], policy="auto")
    ((shape, (steps, flows)),) = fresh.auto.traffic.seen.items()
    assert (shape, steps) == (Shape(2, 4, (2,)), 2)
    query = flows["transformer", "transformer_blocks.0.attn1.to_q"]
    # prompts and negative prompts in one call a step; this VAE has 16 places on 64 × 64 pixels
    assert query == Flow(2, 2 * 2 * 16)
    assert not any(layer._forward_pre_hooks for layer in fresh.models[0].weights.layers.values())
    model = fresh.models[0]
    longer = fresh.auto.traffic.flow(model, "transformer_blocks.0.attn1.to_q", Run(shape, 10))
    assert longer == Flow(10, 64)
    wider = Run(Shape(4, 8, (2,)), 2)
    assert fresh.auto.traffic.flow(model, "transformer_blocks.0.attn1.to_q", wider).entries == 256
    first = Traffic(fresh.models).flow(model, "transformer_blocks.0.attn1.to_q", Run(shape, 2))
    assert first == Flow(2, 2 * 2 * 4)
