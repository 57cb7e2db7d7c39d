"""Condition images: where they lie, and the stock pipeline's own results."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from diffusers import LTX2ConditionPipeline
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
from PIL import Image

from loraloom import Canvas, Condition, Request, Sampling
from loraloom.errors import InvalidRequestError
from training.configs import CLASSIFIER_FREE

if TYPE_CHECKING:
    from loraloom import Loom

RED, BLUE = (Image.new("RGB", (64, 64), color) for color in ("red", "blue"))


@pytest.mark.parametrize(
    ("frame", "index"),
    [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2), (13, 4), (16, 4), (-1, 4), (-17, 0), (-4, 4), (-5, 3)],
)
def test_a_frame_lies_in_its_latent_frame(frame: int, index: int, loom: Loom) -> None:
    assert loom.card.grid.latent(frame % 17) == index


@pytest.mark.parametrize("frames", [(0,), (-1,), (0, -1), (4, 8)])
def test_a_request_alone_is_what_the_stock_pipeline_makes(
    frames: tuple[int, ...], loom: Loom
) -> None:
    pipe = LTX2ConditionPipeline(**loom.pipe.components)
    pipe.set_progress_bar_config(disable=True)
    last = {0: 0, -1: -1, 4: 1, 8: 2}
    images = (RED, BLUE)
    want = pipe(
        conditions=[
            LTX2VideoCondition(image, last[frame], 1.0, crf=0)
            for image, frame in zip(images, frames, strict=False)
        ],
        prompt="a star",
        width=64,
        height=64,
        num_frames=9,
        frame_rate=16.0,
        num_inference_steps=2,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(4),
        max_sequence_length=pipe.tokenizer.model_max_length,
        output_type="latent",
        **CLASSIFIER_FREE,
    ).frames[0]
    request = Request(
        "a star",
        4,
        canvas=Canvas(64, 64, 9, 16.0),
        sampling=Sampling(2, 3.0),
        conditions=tuple(
            Condition(image, frame) for image, frame in zip(images, frames, strict=False)
        ),
    )
    got = loom.latents([request])[0]
    assert float((got - want).abs().max()) <= 1e-4


def test_two_images_for_one_latent_frame_are_refused(loom: Loom) -> None:
    request = Request(
        "a star", canvas=Canvas(64, 64, 9), conditions=(Condition(RED, 5), Condition(BLUE, 7))
    )
    with pytest.raises(InvalidRequestError, match="at frames 5 and 7, which are one frame"):
        loom.videos([request])
