"""Stages as values: what no run can go through is refused, and what a request changes of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loraloom.core.request import Canvas, Lora, Sampling
from loraloom.core.stage import (
    UNGUIDED,
    Guidance,
    Guides,
    Pass,
    Sigmas,
    Stage,
    Stages,
    asked,
    check,
)
from loraloom.errors import InvalidRequestError, InvalidStageError

GUIDED = Guidance(Guides(3.0, 1.0, 2.0, 0.7), Guides(7.0), blocks=(1,))
BASE = Stage("base", Sigmas(4), 0.5, guidance=GUIDED)
REFINE = Stage("refine", Sigmas(given=(0.9, 0.7, 0.4)), wears=(Lora("distilled"),))
EARLY = Stage("early", Sigmas(8, until=0.5))
LATE = Stage("late", None)
NAN = float("nan")


@pytest.mark.parametrize(
    "stages",
    [
        (BASE, REFINE),
        (REFINE,),
        (EARLY, LATE),
        (replace(BASE, size=0.25), replace(REFINE, name="middle", size=0.5), REFINE),
        (EARLY, LATE, replace(REFINE, size=1.0)),
        (Stage("all", Sigmas(1)),),
        (Stage("all", Sigmas(given=(1.0,))),),
    ],
)
def test_what_a_run_can_go_through_is_no_error(stages: Stages) -> None:
    check(stages)


def levels(*given: float) -> Stages:
    return (replace(REFINE, sigmas=Sigmas(given=given)),)


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ((), "there are no stages, want one or more"),
        ((BASE, replace(REFINE, name="base")), "stages are called base, base, want names of their"),
        ((BASE,), r"sizes of the stages are \[0.5\], want rising ones that end in 1"),
        ((REFINE, BASE), r"sizes of the stages are \[1.0, 0.5\], want rising"),
        ((replace(BASE, size=0.0), REFINE), r"are \[0.0, 1.0\], want rising"),
        ((replace(BASE, size=-1.0), REFINE), r"are \[-1.0, 1.0\], want rising"),
        ((replace(BASE, size=NAN), REFINE), r"are \[nan, 1.0\], want rising"),
        ((replace(BASE, size=1.0), replace(REFINE, size=2.0)), r"are \[1.0, 2.0\], want rising"),
        ((LATE,), "stage 'late' is the first and has no noise levels"),
        ((replace(EARLY, sigmas=Sigmas(8)), LATE), "'late' goes on where 'early' stops, which is"),
        ((replace(EARLY, size=0.5), LATE), "to stop early and at the same size"),
        ((EARLY, LATE, replace(LATE, name="later")), "'later' goes on where 'late' stops"),
        (levels(0.4, 0.7), r"levels of stage 'refine' are \[0.4, 0.7\], want falling ones"),
        (levels(0.7, 0.7), "want falling ones from 1 to 0"),
        (levels(1.5, 0.7), "want falling ones from 1 to 0"),
        (levels(0.7, 0.0), "want falling ones from 1 to 0"),
        (levels(0.7, -0.1), "want falling ones from 1 to 0"),
        (levels(1.0, NAN, 0.5), "want falling ones from 1 to 0"),
        ((Stage("a", Sigmas()),), "steps of stage 'a' is 0, want a whole number from 1"),
        ((Stage("a", Sigmas(-3)),), "steps of stage 'a' is -3"),
        ((Stage("a", Sigmas(2.5)),), "steps of stage 'a' is 2.5"),  # type: ignore[arg-type]
    ],
)
def test_stages_that_no_run_can_go_through_are_refused(stages: Stages, says: str) -> None:
    with pytest.raises(InvalidStageError, match=says):
        check(stages)
    assert issubclass(InvalidStageError, InvalidRequestError)


def test_a_stage_has_its_share_of_the_canvas_and_of_nothing_else() -> None:
    whole = Canvas(128, 96, frames=9, rate=16.0)
    assert BASE.canvas(whole) == Canvas(64, 48, frames=9, rate=16.0)
    assert REFINE.canvas(whole) == whole
    assert isinstance(BASE.canvas(whole).width, int)


@pytest.mark.parametrize("size", [(65, 64), (64, 65)])
def test_half_a_pixel_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidStageError, match=r"'base' has 0.5 of .* and no whole number of pix"):
        BASE.canvas(Canvas(*size))


@pytest.mark.parametrize(
    ("guides", "passes"),
    [
        (Guides(), {"prompt"}),
        (Guides(cfg=1.5), {"prompt", "negative"}),
        (Guides(cfg=0.5), {"prompt"}),
        (Guides(stg=0.5), {"prompt", "perturbed"}),
        (Guides(modality=2.0), {"prompt", "isolated"}),
        (Guides(rescale=0.7), {"prompt"}),
        (Guides(3.0, 1.0, 3.0, 0.7), {"prompt", "negative", "perturbed", "isolated"}),
    ],
)
def test_a_scale_that_does_nothing_takes_no_pass(guides: Guides, passes: set[Pass]) -> None:
    assert guides.passes == passes
    assert Guidance(guides).passes == passes
    assert Guidance(audio=guides).passes == passes


def test_video_and_sound_share_their_passes() -> None:
    both = Guidance(Guides(cfg=3.0), Guides(modality=2.0))
    assert both.passes == {"prompt", "negative", "isolated"}


def test_steps_are_for_stages_that_are_spaced_and_guidance_for_those_that_are_guided() -> None:
    base, refine = asked((BASE, REFINE), Sampling(steps=9, guidance=5.0))
    assert base == replace(
        BASE, sigmas=Sigmas(9), guidance=replace(GUIDED, video=replace(GUIDED.video, cfg=5.0))
    )
    assert refine == REFINE
    assert asked((EARLY, LATE), Sampling(steps=3)) == (
        replace(EARLY, sigmas=Sigmas(3, until=0.5)),
        LATE,
    )
    assert asked((BASE, REFINE), Sampling()) == (BASE, REFINE)


def test_guidance_of_1_is_no_guidance_of_any_kind() -> None:
    assert asked((BASE, REFINE), Sampling(guidance=1.0))[0].guidance == UNGUIDED
    assert asked((REFINE,), Sampling(guidance=1.0)) == (REFINE,)


def test_a_distilled_model_is_told_its_scale() -> None:
    told = replace(REFINE, guidance=Guidance(embedded=3.5))
    for scale in (1.0, 2.0):
        (stage,) = asked((told,), Sampling(guidance=scale))
        assert stage.guidance == Guidance(embedded=scale)
    assert "guidance 3.5" in told.describe(Canvas(64, 64))


@pytest.mark.parametrize(
    ("stages", "sampling", "says"),
    [
        ((REFINE,), Sampling(steps=4), "4 steps are asked for, the noise levels of refine are gi"),
        ((REFINE,), Sampling(guidance=2.0), "guidance 2 is asked for, and refine is not guided"),
        ((EARLY, LATE), Sampling(guidance=2.0), "and early, late is not guided"),
    ],
)
def test_what_no_stage_can_take_is_refused(stages: Stages, sampling: Sampling, says: str) -> None:
    with pytest.raises(InvalidStageError, match=says):
        asked(stages, sampling)


def test_a_stage_tells_people_what_it_does() -> None:
    canvas = Canvas(128, 64)
    assert BASE.describe(canvas) == "base: 4 steps, guidance 3, 64x32, euler"
    fine = replace(REFINE, solver="res2s")
    assert fine.describe(canvas) == "refine: 3 steps, 128x64, res2s"
    assert LATE.describe(canvas) == "late: the remaining steps, 128x64, euler"


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ((replace(REFINE, solver="heun"),), r"solver of stage 'refine' is 'heun', want one of"),  # type: ignore[arg-type]
        ((EARLY, replace(LATE, solver="res2s")), "goes on where 'early' stops, which is to have"),
        ((BASE, Stage("again", Sigmas(4))), "'again' begins at full noise, which leaves nothing"),
        ((replace(REFINE, wears=(Lora("a", stages=(1.0,)),)),), "'a' of stage 'refine' has"),
        ((replace(BASE, size=1.0, guidance=Guidance(Guides(-2.0))),), r"cfg of .* is -2, want 1"),
        ((replace(BASE, size=1.0, guidance=Guidance(Guides(rescale=5))),), r"is 5, want 0 to 1"),
        ((replace(BASE, size=1.0, guidance=Guidance(Guides(), Guides(stg=-1))),), "stg of .*sound"),
        ((EARLY,), "'early' stops at noise level 0.5, want one between 0 and 1"),
    ],
)
def test_what_would_be_passed_over_in_silence_is_refused(stages: Stages, says: str) -> None:
    with pytest.raises(InvalidStageError, match=says):
        check(stages)
