"""Which requests share a batch."""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from loraloom import Canvas, Condition, Request, Sampling
from loraloom.core.mix import NOTHING, AdapterKey, Mix, Part
from loraloom.engine.batch import group

WORN = Mix.of([Part(AdapterKey("a", "0"), 1.0)])
ONE = Request("one", 1, canvas=Canvas(64, 64), sampling=Sampling(4, 3.0))


def test_what_is_worn_does_not_part_requests_but_shape_and_steps_do() -> None:
    requests = [
        ONE,
        replace(ONE, canvas=Canvas(96, 64)),
        replace(ONE, prompt="other", seed=9),
        replace(ONE, sampling=Sampling(5, 3.0)),
        replace(ONE, negative_prompt="blurred"),
    ]
    assert group(requests, [NOTHING, NOTHING, WORN, NOTHING, NOTHING], "live") == [
        [0, 2, 4],
        [1],
        [3],
    ]


def test_fused_mixes_run_apart() -> None:
    assert group([ONE] * 3, [WORN, NOTHING, WORN], "fused") == [[0, 2], [1]]


def test_images_at_the_same_frames_run_together() -> None:
    red, blue = (Condition(Image.new("RGB", (64, 64), color)) for color in ("red", "blue"))
    requests = [
        replace(ONE, conditions=(red,)),
        replace(ONE, conditions=(blue,)),
        replace(ONE, conditions=(red, replace(blue, frame=-1))),
    ]
    assert group(requests, [NOTHING] * 3, "live") == [[0, 1], [2]]
    assert group([], [], "live") == []
