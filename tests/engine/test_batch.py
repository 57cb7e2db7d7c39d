"""Which requests share a batch."""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from loraloom import Canvas, Condition, Lora, Request, Sampling
from loraloom.core.mix import AdapterKey, Part
from loraloom.core.schedule import Curve, Schedule, Turn
from loraloom.core.stage import Guidance, Guides, Sigmas, Stage, asked
from loraloom.engine.batch import group
from loraloom.engine.job import Job

PART = Part(AdapterKey("a", "0"), 1.0)
NOTHING, WORN = Schedule(), Schedule.of([Turn(PART)])
STAGES = (Stage("base", Sigmas(2), guidance=Guidance(Guides(cfg=3.0))),)
ONE = Request("one", 1, canvas=Canvas(64, 64), sampling=Sampling(4, 3.0))


def job(request: Request = ONE, wears: Schedule = NOTHING) -> Job:
    assert request.canvas
    assert request.sampling
    return Job(request, request.canvas, asked(STAGES, request.sampling), (wears,))


def test_what_is_worn_does_not_part_requests_but_shape_and_steps_do() -> None:
    jobs = [
        job(),
        job(replace(ONE, canvas=Canvas(96, 64))),
        job(replace(ONE, prompt="other", seed=9), WORN),
        job(replace(ONE, sampling=Sampling(5, 3.0))),
        job(replace(ONE, negative_prompt="blurred")),
    ]
    assert group(jobs, "live") == [[0, 2, 4], [1], [3]]


def test_fused_mixes_run_apart() -> None:
    assert group([job(wears=worn) for worn in (WORN, NOTHING, WORN)], "fused") == [[0, 2], [1]]
    fading = Schedule.of([Turn(PART, Curve.window(0, 0.5))])
    assert group([job(wears=worn) for worn in (WORN, fading, fading)], "fused") == [[0], [1, 2]]


def test_images_part_requests_only_where_noise_is_measured_over_all_tokens() -> None:
    red, blue = (Condition(Image.new("RGB", (64, 64), color)) for color in ("red", "blue"))
    jobs = [
        job(replace(ONE, conditions=(red,))),
        job(replace(ONE, conditions=(blue,))),
        job(replace(ONE, conditions=(red, replace(blue, frame=-1)))),
    ]
    assert group(jobs, "live") == [[0, 1, 2]]
    measured = tuple(replace(stage, solver="res2s") for stage in STAGES)
    jobs = [replace(each, stages=measured) for each in jobs]
    assert group(jobs, "live") == [[0, 1], [2]]
    assert group([], "live") == []


def test_stages_and_sound_part_requests_but_what_stages_wear_does_not() -> None:
    plain = job()
    wearing = tuple(replace(stage, wears=(Lora("a"),)) for stage in plain.stages)
    jobs = [
        plain,
        replace(job(wears=WORN), stages=wearing),
        job(replace(ONE, audio=False)),
        replace(plain, stages=(replace(plain.stages[0], solver="res2s"),)),
    ]
    assert group(jobs, "live") == [[0, 1], [2], [3]]
