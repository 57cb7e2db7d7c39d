"""Stages on the embedded model: what each of them wears, and what is refused before any work."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from loraloom import Canvas, Loom, Lora, LoraloomError, Request, Sampling
from loraloom.core.request import Manner
from loraloom.core.schedule import Curve
from loraloom.core.stage import Guidance, Guides, Sigmas, Stage, Stages
from loraloom.engine.auto import Auto
from loraloom.engine.run import Tick
from loraloom.errors import InvalidStageError, InvalidStrengthError, ModelError
from loraloom.lora.cost import Rates

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loraloom.core.request import Policy

FUSES = Rates(call=1.0, flop=1e-3, touch=0, fuse_call=1e-6, fuse=0, fuse_flop=0, restore=0)
TWO = (
    Stage("base", Sigmas(2), 0.5, guidance=Guidance(Guides(cfg=3.0))),
    Stage("refine", Sigmas(given=(0.9, 0.7, 0.4)), wears=(Lora("distilled"),)),
)
PICTURE = Request("a large red circle", 1, canvas=Canvas(64, 64), stages=TWO)
VIDEO = replace(PICTURE, canvas=Canvas(64, 64, frames=9, rate=16.0))


def weights(loom: Loom) -> list[torch.Tensor]:
    return [
        value.clone()
        for model in (loom.pipe.transformer, loom.pipe.connectors)
        for value in model.state_dict().values()
    ]


def farthest(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).abs().max())


@pytest.fixture
def untouched(loom: Loom) -> Iterator[Loom]:
    """The weights before and after a test are the same bits, and nothing is worn."""
    before = weights(loom)
    yield loom
    assert all(torch.equal(a, b) for a, b in zip(before, weights(loom), strict=True))
    assert not any(model.applied.fused or model.applied.live for model in loom.models)


def wearing(*by_stage: tuple[Lora, ...]) -> Stages:
    return tuple(replace(stage, wears=own) for stage, own in zip(TWO, by_stage, strict=True))


@pytest.mark.parametrize("shape", [PICTURE, VIDEO], ids=["picture", "video"])
@pytest.mark.parametrize("policy", ["live", "fused"])
def test_strengths_by_stage_are_what_stages_that_wear_so_give(
    shape: Request, policy: Policy, untouched: Loom
) -> None:
    by_stage = replace(shape, loras=(Lora("neon", 2.0, stages=(0.5, -0.25)),))
    own = wearing((Lora("neon", 1.0),), (Lora("distilled"), Lora("neon", -0.5)))
    (got,) = untouched.latents([by_stage], policy=policy)
    (want,) = untouched.latents([replace(shape, stages=own)], policy=policy)
    assert torch.equal(got, want)
    for other in ((1.0, 0.0), (0.0, -0.5), (1.0, 1.0)):
        changed = replace(shape, loras=(Lora("neon", stages=other),))
        assert farthest(untouched.latents([changed], policy=policy)[0], got) > 1e-2


def test_strength_0_in_every_stage_is_wearing_nothing(untouched: Loom) -> None:
    bare = replace(PICTURE, stages=wearing((), ()))
    off = replace(PICTURE, loras=(Lora("distilled", stages=(0.0, 0.0)),))
    results = untouched.images([bare, off])
    assert results[0].worn == ()
    # that it was taken off is told, so that it can be taken off again
    assert [(each.name, each.strength, str(each)) for each in results[1].worn] == [
        ("distilled", 0.0, f"{results[1].worn[0].name}@{results[1].worn[0].digest[:12]} taken off")
    ]
    assert results[0].frames[0].tobytes() == results[1].frames[0].tobytes()


def test_what_a_request_names_is_worn_as_it_says_and_not_as_the_stage_does(
    untouched: Loom,
) -> None:
    named = replace(PICTURE, loras=(Lora("distilled", 0.3),))
    own = replace(PICTURE, stages=wearing((Lora("distilled", 0.3),), (Lora("distilled", 0.3),)))
    (got,) = untouched.images([named])
    assert torch.equal(untouched.latents([named])[0], untouched.latents([own])[0])
    assert [(each.name, each.strength, each.stages) for each in got.worn] == [
        ("distilled", 0.3, ())
    ]


def test_a_row_of_a_batch_in_two_stages_is_the_request_alone(untouched: Loom) -> None:
    requests = [
        replace(VIDEO, seed=1),
        replace(VIDEO, seed=2, loras=(Lora("neon", stages=(1.0, 0.25)),), prompt="a green star"),
        replace(VIDEO, seed=3, loras=(Lora("sketch"), Lora("distilled", 0.5))),
    ]
    seen: list[Tick] = []
    together = untouched.latents(requests, progress=seen.append)
    assert seen == [
        *(Tick(done, 5, "base") for done in (1, 2)),
        *(Tick(done, 5, "refine") for done in (3, 4, 5)),
    ]
    for request, row in zip(requests, together, strict=True):
        for policy in ("live", "fused"):
            alone = untouched.latents([request], policy=policy)[0]
            assert farthest(row, alone) <= 1e-4


def test_progress_of_a_schedule_runs_within_each_stage(untouched: Loom) -> None:
    early = Lora("neon", 1.0, Curve.window(0.0, 0.5), stages=(1.0, 0.5))
    request = replace(PICTURE, stages=wearing((), ()), loras=(early,))
    key = untouched.adapters.get("neon").key
    worn: list[float | None] = []

    def look(_tick: Tick) -> None:
        live = untouched.models[0].applied.live
        worn.append(live[0].mix.strength(key) if live else None)

    untouched.latents([request], progress=look)
    # steps of base begin at 0 and 1/2, those of refine at 0, 1/3 and 2/3
    assert [each or 0.0 for each in worn] == [1.0, 0.0, 0.5, 0.5, 0.0]


def test_a_result_says_strengths_by_stage(untouched: Loom) -> None:
    request = replace(PICTURE, loras=(Lora("neon", 2.0, stages=(0.5, 0.2)), Lora("sketch", 0.3)))
    (result,) = untouched.images([request])
    assert result.request.stages == TWO
    assert result.request.sampling is None
    by_name = {each.name: each for each in result.worn}
    strengths = {
        name: [each.strength * factor for factor in each.stages or (1.0, 1.0)]
        for name, each in by_name.items()
    }
    assert strengths == {"distilled": [0.0, 1.0], "neon": [1.0, 0.4], "sketch": [0.3, 0.3]}
    assert by_name["sketch"].stages == ()
    assert "at 1, 0.4 by stage on 60 sites" in str(by_name["neon"])
    # it is worn so again when a request names all of it
    again = tuple(Lora(each.name, each.strength, stages=each.stages) for each in result.worn)
    (remade,) = untouched.images([replace(PICTURE, loras=again)])
    assert [replace(each, by="stage") for each in remade.worn] == [
        replace(each, by="stage") for each in result.worn
    ]
    assert {each.name: each.by for each in result.worn} == {
        "distilled": "stage",
        "neon": "request",
        "sketch": "request",
    }
    assert remade.frames[0].tobytes() == result.frames[0].tobytes()


def test_auto_fuses_what_is_alike_in_all_stages_and_wears_the_rest_live(
    untouched: Loom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(untouched, "auto", Auto(untouched.models, lambda: FUSES))
    request = replace(PICTURE, loras=(Lora("neon"), Lora("sketch", stages=(1.0, 0.5))))
    (want,) = untouched.latents([request])
    (got,) = untouched.latents([request], policy="auto")
    assert farthest(got, want) <= 1e-4
    (result,) = untouched.images([request], policy="auto")
    manners = {each.name: each.manner for each in result.worn}
    assert {name: each.mode for name, each in manners.items()} == {
        "distilled": "live",
        "neon": "fused",
        "sketch": "live",
    }
    changing = Manner("live", "its strength changes from step to step")
    assert manners["sketch"] == manners["distilled"] == changing
    untouched.bare()


def test_the_card_s_pipelines_are_run_by_name(untouched: Loom) -> None:
    stages = untouched.card.defaults.pipeline("two-stage")
    request = replace(PICTURE, stages=stages, sampling=Sampling(steps=2))
    (result,) = untouched.images([request])
    assert result.frames[0].size == (64, 64)
    assert result.request.stages
    assert result.request.stages[0].sigmas == Sigmas(2)
    assert [each.name for each in result.worn] == ["distilled"]
    with pytest.raises(InvalidStageError, match="'two-stag' is not known; did you mean 'two-stage"):
        untouched.card.defaults.pipeline("two-stag")
    with pytest.raises(InvalidStageError, match="known are one-stage, two-stage"):
        untouched.card.defaults.pipeline("x")


def test_requests_of_different_stages_come_back_in_their_order(untouched: Loom) -> None:
    one = replace(PICTURE, stages=None, sampling=Sampling(2, 3.0))
    requests = [PICTURE, one, replace(PICTURE, seed=2)]
    together = untouched.latents(requests)
    for request, row in zip(requests, together, strict=True):
        assert farthest(row, untouched.latents([request])[0]) <= 1e-4


SKIPPING = Guidance(Guides(stg=1.0), blocks=(28,))


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        (
            {"loras": (Lora("neon", stages=(1.0, 0.5, 0.2)),)},
            InvalidStageError,
            "adapter 'neon' has strengths for 3 stages, there are 2: base, refine",
        ),
        (
            {"loras": (Lora("neon", stages=(1.0,)),)},
            InvalidStageError,
            "adapter 'neon' has strengths for 1 stages, there are 2",
        ),
        (
            {"stages": None, "loras": (Lora("neon", stages=(1.0, 0.5)),)},
            InvalidStageError,
            "strengths for 2 stages, there is 1: base",
        ),
        (
            {"loras": (Lora("neon", stages=(1.0, float("nan"))),)},
            InvalidStrengthError,
            "neon in stage 2 is nan",
        ),
        (
            {"loras": (Lora("neon", float("inf"), stages=(0.0, 1.0)),)},
            InvalidStrengthError,
            "neon is inf",
        ),
        (
            {"stages": wearing((), (Lora("destilled"),))},
            LoraloomError,
            "'destilled' is not known; did you mean 'distilled'",
        ),
        (
            {"canvas": Canvas(96, 64)},
            LoraloomError,
            "width of stage 'base' is 48, model 'mini' wants a multiple of 32, e.g. 64",
        ),
        ({"canvas": Canvas(65, 64)}, LoraloomError, "width is 65, model 'mini' wants a multiple"),
        (
            {"stages": (replace(TWO[0], guidance=SKIPPING), TWO[1])},
            InvalidStageError,
            "'base' skips attention in block 28, model 'mini' has blocks 0 to 5",
        ),
        (
            {"stages": (replace(TWO[0], size=1 / 3), TWO[1]), "canvas": Canvas(96, 96)},
            InvalidStageError,
            "'refine' is 3 times as large as 'base', want 2, 4",
        ),
        ({"stages": (TWO[0],)}, InvalidStageError, "want rising ones that end in 1"),
        ({"sampling": Sampling(1)}, InvalidStageError, "steps of stage 'base' is 1, .* from 2"),
        (
            {"stages": (TWO[1],), "sampling": Sampling(4)},
            InvalidStageError,
            "4 steps are asked for, the noise levels of refine are given",
        ),
    ],
)
@pytest.mark.parametrize("policy", ["live", "fused", "auto"])
def test_what_cannot_be_run_is_refused_with_a_sentence(
    change: dict[str, object],
    kind: type[LoraloomError],
    says: str,
    policy: Policy,
    untouched: Loom,
) -> None:
    with pytest.raises(kind, match=says):
        untouched.images([replace(PICTURE, **change)], policy=policy)  # type: ignore[arg-type]


def test_a_larger_stage_on_a_model_without_upsampler_is_refused(
    untouched: Loom, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = replace(untouched.card, upsampler=None)
    monkeypatch.setattr(untouched, "card", card)
    says = f"model 'mini' has no upsampler in {card.root}; looked for latent_upsampler/config.json"
    with pytest.raises(ModelError, match=says):
        untouched.images([PICTURE])
    untouched.latents([replace(PICTURE, stages=(TWO[1],))])


def test_no_stages_at_all_are_not_the_usual_ones(untouched: Loom) -> None:
    with pytest.raises(InvalidStageError, match="there are no stages, want one or more"):
        untouched.images([replace(PICTURE, stages=())])


@pytest.mark.parametrize("policy", ["live", "fused"])
@pytest.mark.parametrize("at", [1, 3, 5])
def test_a_failure_in_any_stage_leaves_nothing_worn(
    policy: Policy, at: int, untouched: Loom
) -> None:
    def fail(tick: Tick) -> None:
        if tick.done == at:
            raise MemoryError("injected")

    worn = replace(PICTURE, loras=(Lora("neon", stages=(1.0, 0.5)),))
    with pytest.raises(MemoryError, match="injected"):
        untouched.latents([worn], policy=policy, progress=fail)


def test_a_request_without_sound_has_none_and_one_with_sound_has_it(untouched: Loom) -> None:
    quiet, loud = untouched.videos([replace(VIDEO, audio=each) for each in (False, True)])
    assert quiet.sound is None
    assert loud.sound is not None
    assert untouched.images([replace(PICTURE, audio=True)])[0].sound is None
    (made,) = untouched.streams([replace(VIDEO, audio=False)])
    assert set(made) == {"video"}
