"""One batch through diffusers' LTX-2 pipeline: prompts to latents, latents to frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from loraloom.models.ltx2 import options

from .conditions import ConditionedPipeline, as_diffusers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL.Image import Image
    from torch import Tensor

    from loraloom.core.request import Canvas, Request, Sampling
    from loraloom.models.card import Card

    Progress: TypeAlias = Callable[[int, int], None]


PICTURE_RATE = 24.0
"""What a picture is told; its rate means nothing, but the sound beside it must have a length."""


def latents(pipe: Any, card: Card, requests: Sequence[Request], progress: Progress) -> Tensor:
    """Denoise ``requests``, which agree in canvas, sampling and the frames of their conditions.

    Returns ``[requests, channels, frames, height, width]``, as the VAE decodes them. The noise of
    a request comes from its own seed, so it is the same alone and in any batch.
    """
    canvas, sampling = _same(requests)
    conditioned = bool(requests[0].conditions)
    extra: dict[str, Any] = {}
    if conditioned:
        pipe = ConditionedPipeline(**pipe.components)
        pipe.set_progress_bar_config(disable=True)  # as the pipe that it is made of
        extra["conditions"] = [
            [as_diffusers(each, canvas.frames, card.grid) for each in request.conditions]
            for request in requests
        ]

    def stepped(_pipe: Any, step: int, _time: Any, _tensors: Any) -> dict[str, Tensor]:
        progress(step + 1, sampling.steps)
        return {}

    result = pipe(
        prompt=[request.prompt for request in requests],
        negative_prompt=[request.negative_prompt for request in requests],
        height=canvas.height,
        width=canvas.width,
        num_frames=canvas.frames,
        frame_rate=canvas.rate if canvas.frames > 1 else PICTURE_RATE,
        num_inference_steps=sampling.steps,
        guidance_scale=sampling.guidance,
        generator=[torch.Generator("cpu").manual_seed(request.seed) for request in requests],
        max_sequence_length=min(1024, pipe.tokenizer.model_max_length),
        output_type="latent",
        callback_on_step_end=stepped,
        **options(card.defaults.guidance, sampling.guidance),
        **extra,
    )
    video: Tensor = result.frames
    return video


def decode(pipe: Any, latent: Tensor) -> tuple[Image, ...]:
    """The frames of one ``[channels, frames, height, width]`` latent.

    One at a time: the pixels of a request do not depend on the batch that it ran in.
    """
    time = torch.zeros(1, device=latent.device) if pipe.vae.config.timestep_conditioning else None
    with torch.no_grad():
        video = pipe.vae.decode(latent[None].to(pipe.vae.dtype), time, return_dict=False)[0]
    return tuple(pipe.video_processor.postprocess_video(video, output_type="pil")[0])


def _same(requests: Sequence[Request]) -> tuple[Canvas, Sampling]:
    canvas, sampling = requests[0].canvas, requests[0].sampling
    assert canvas is not None
    assert sampling is not None
    assert all((each.canvas, each.sampling) == (canvas, sampling) for each in requests)
    return canvas, sampling
