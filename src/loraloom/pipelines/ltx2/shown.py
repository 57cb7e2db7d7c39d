"""What requests show the transformer: latents to go on from, images, references, all as tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from diffusers.video_processor import VideoProcessor

from loraloom.pipelines.denoiser import pack

from .space import rate
from .tokens import Row, pixels, place

if TYPE_CHECKING:
    from torch import Tensor

    from loraloom.core.request import Canvas, Condition, Reference
    from loraloom.core.stage import Stage
    from loraloom.pipelines.denoiser import Call, Latents

    from .space import Space


def rows(space: Space, call: Call, stage: Stage, before: Latents) -> list[Row]:
    """The tokens of every request, each with its own images and references behind them."""
    canvas = stage.canvas(call.canvas)
    shape = space.shape(canvas)
    coords = space.coords(shape, rate(canvas))
    found = []
    for latents, request in zip(_free(space, call, shape, before), call.requests, strict=True):
        row = Row.free(latents, coords)
        for condition in request.conditions:
            row = _with_image(row, condition, canvas, space)
        for reference in request.references if stage.references else ():
            row = _with_reference(row, reference, canvas, space)
        found.append(row)
    return found


def _free(space: Space, call: Call, shape: tuple[int, int, int], before: Latents) -> Tensor:
    """``[rows, tokens, channels]`` of what is denoised; zeros where nothing was before."""
    if before:
        return pack(space.normalised(before["video"]))
    frames, height, width = shape
    channels = space.pipe.transformer.config.in_channels
    device = space.pipe._execution_device
    return torch.zeros(len(call.requests), frames * height * width, channels, device=device)


def _with_image(row: Row, condition: Condition, canvas: Canvas, space: Space) -> Row:
    """Over the first frames, or behind all frames."""
    ratio = space.scales[0]
    images = (condition.image, *condition.following)
    images = images[: _whole(len(images), ratio)]
    latents = space.encoded(pixels(images, canvas.width, canvas.height))
    tokens = pack(latents)[0].to(row.latents)
    index = (condition.frame % canvas.frames + ratio - 1) // ratio
    if index == 0:
        return row.overwritten(tokens, condition.strength)
    _, _, frames, height, width = latents.shape
    frame = (index - 1) * ratio + 1
    coords = place((frames, height, width), space.scales, frame, canvas.rate)
    return row.extended(tokens, coords.to(row.coords), condition.strength)


def _with_reference(row: Row, reference: Reference, canvas: Canvas, space: Space) -> Row:
    """Behind all else, as a video of its own whose pixels are ``downscale`` times as large.

    In-context conditioning as in Lightricks/LTX-2, ltx-pipelines ``ic_lora``.
    """
    latents = space.encoded(_frames(reference, canvas, space))
    _, _, frames, height, width = latents.shape
    coords = space.coords((frames, height, width), rate(canvas))
    coords[1:] *= reference.downscale
    tokens = pack(latents)[0].to(row.latents)
    shown = row.extended(tokens, coords.to(row.coords), reference.strength)
    return shown.grouped(len(tokens), reference.attention)


def _frames(reference: Reference, canvas: Canvas, space: Space) -> Tensor:
    """``[1, 3, frames, height, width]`` in -1..1, as many frames as are whole latent ones.

    Unlike images they are smoothed as they are made smaller (diffusers,
    ``pipeline_ltx2_ic_lora.py``).
    """
    ratio, scale, _ = space.scales
    count = _whole(min(len(reference.frames), canvas.frames), ratio)
    sized: Tensor = VideoProcessor(vae_scale_factor=scale, resample="bilinear").preprocess_video(
        [image.convert("RGB") for image in reference.frames[:count]],
        height=canvas.height // reference.downscale,
        width=canvas.width // reference.downscale,
        resize_mode="crop",
    )
    return sized


def _whole(frames: int, ratio: int) -> int:
    """How many of the frames are whole latent ones, of which the first holds one alone."""
    return (frames - 1) // ratio * ratio + 1
