"""What a user of diffusers does for one request: the peer of every proof in this folder.

Float32 on the CPU. The calls are those of the examples in ``pipeline_ltx2_condition.py``,
``pipeline_ltx2_latent_upsample.py`` and ``pipeline_ltx2_ic_lora.py`` of diffusers 0.42.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    LTX2ConditionPipeline,
    LTX2InContextPipeline,
    LTX2LatentUpsamplePipeline,
)
from diffusers.pipelines.ltx2 import LTX2LatentUpsamplerModel
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
from diffusers.pipelines.ltx2.pipeline_ltx2_ic_lora import LTX2ReferenceCondition
from diffusers.pipelines.ltx2.utils import STAGE_2_DISTILLED_SIGMA_VALUES
from peft import LoraConfig
from safetensors.torch import load_file

from loraloom.core.request import Canvas

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from PIL.Image import Image
    from torch import Tensor

    Scales: TypeAlias = Mapping[str, float]

UNGUIDED: Mapping[str, Any] = {
    "guidance_scale": 1.0,
    "stg_scale": 0.0,
    "modality_scale": 1.0,
    "guidance_rescale": 0.0,
    "audio_guidance_scale": 1.0,
    "audio_stg_scale": 0.0,
    "audio_modality_scale": 1.0,
    "audio_guidance_rescale": 0.0,
}
"""One pass a step. A zero for the audio would fall back to the video's value, zero as well."""

PROMPTED: Mapping[str, Any] = {**UNGUIDED, "guidance_scale": 3.0, "audio_guidance_scale": 3.0}
"""Guidance by the negative prompt alone."""

GUIDED: Mapping[str, Any] = {
    "guidance_scale": 3.0,
    "stg_scale": 1.0,
    "modality_scale": 3.0,
    "guidance_rescale": 0.7,
    "audio_guidance_scale": 7.0,
    "audio_stg_scale": 1.0,
    "audio_modality_scale": 3.0,
    "audio_guidance_rescale": 0.7,
    "spatio_temporal_guidance_blocks": [1],
}
"""All that LTX-2.3 has, as released, with a block that three layers have: four passes a step."""


@dataclass(frozen=True, slots=True)
class Shown:
    """An image, or a clip, at a latent frame, of which the first is 0 and the last -1."""

    image: Image
    index: int
    strength: float = 1.0
    following: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """One request; ``canvas`` is the final size, ``guidance`` the arguments of stage 1."""

    prompt: str
    canvas: Canvas
    seed: int = 0
    negative_prompt: str = ""
    steps: int = 4
    guidance: Mapping[str, Any] = field(default_factory=lambda: UNGUIDED)
    images: tuple[Shown, ...] = ()


@dataclass(frozen=True, slots=True)
class Reference:
    """The frames of a video to look at; a strength of 1 shows them clean."""

    frames: tuple[Image, ...]
    strength: float = 1.0


@dataclass(frozen=True, slots=True)
class References:
    """Videos to look at, how much smaller they are, and how strongly they are attended to."""

    videos: tuple[Reference, ...]
    downscale: int = 1
    attention: float = 1.0


@dataclass(frozen=True, slots=True)
class Latents:
    """Video ``[1, C, F, H, W]`` and audio ``[1, C, L, M]``, both as their VAE decodes them."""

    video: Tensor
    audio: Tensor


@dataclass(frozen=True, slots=True)
class Peer:
    """What a user has loaded; ``use_cross_timestep`` is right for LTX-2.3, wrong for LTX-2."""

    pipe: Any
    upsampler: Any
    use_cross_timestep: bool


def peer(folder: Path, *, use_cross_timestep: bool) -> Peer:
    """The models of ``folder`` with all adapters that lie in it loaded."""
    pipe = pipeline(folder)
    for adapter in sorted((folder / "adapters").iterdir()):
        load_adapter(pipe, adapter)
    return Peer(pipe, upsampler(pipe, folder), use_cross_timestep)


def pipeline(folder: Path) -> Any:
    pipe = LTX2ConditionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def upsampler(pipe: Any, folder: Path) -> Any:
    model = LTX2LatentUpsamplerModel.from_pretrained(
        folder, subfolder="latent_upsampler", dtype=torch.float32
    )
    return LTX2LatentUpsamplePipeline(vae=pipe.vae, latent_upsampler=model)


def load_adapter(pipe: Any, folder: Path) -> None:
    """Load an adapter of the transformer, as peft or as diffusers wrote it, under its name."""
    if not (folder / "adapter_config.json").is_file():
        pipe.load_lora_weights(folder, adapter_name=folder.name)
        return
    tensors = load_file(folder / "adapter_model.safetensors")
    config = LoraConfig.from_pretrained(folder)
    pipe.transformer.load_lora_adapter(
        {key.removeprefix("base_model.model."): value for key, value in tensors.items()},
        prefix=None,
        adapter_name=folder.name,
        metadata={
            "r": config.r,
            "lora_alpha": config.lora_alpha,
            "target_modules": config.target_modules,
        },
    )


def wear(pipe: Any, scales: Scales) -> None:
    """The adapters of ``scales`` and no others; none is the base model."""
    if scales:
        pipe.enable_lora()
        pipe.set_adapters(list(scales), adapter_weights=list(scales.values()))
    elif pipe.get_list_adapters():
        pipe.disable_lora()


def one_stage(who: Peer, asked: Asked, scales: Scales) -> Latents:
    wear(who.pipe, scales)
    generator = torch.Generator().manual_seed(asked.seed)
    return _call(who.pipe, asked, {**_first(who, asked, asked.canvas), "generator": generator})


def two_stage(
    who: Peer,
    asked: Asked,
    first: Scales,
    second: Scales,
    references: References | None = None,
) -> Latents:
    """Half the size, upsampled, refined in three steps; one generator runs through both stages.

    Only the first stage looks at ``references``.
    """
    half = Canvas(
        asked.canvas.width // 2, asked.canvas.height // 2, asked.canvas.frames, asked.canvas.rate
    )
    generator = torch.Generator().manual_seed(asked.seed)
    wear(who.pipe, first)
    arguments = {**_first(who, asked, half), "generator": generator}
    if references is None:
        small = _call(who.pipe, asked, arguments)
    else:
        small = _call(_looking(who.pipe), asked, {**arguments, **_looked(references)})
    large = who.upsampler(latents=small.video, output_type="latent", return_dict=False)[0]
    wear(who.pipe, second)
    with _unshifted(who.pipe):
        return _call(
            who.pipe,
            asked,
            {
                **_size(asked.canvas),
                **UNGUIDED,
                "latents": large,
                "audio_latents": small.audio,
                "sigmas": STAGE_2_DISTILLED_SIGMA_VALUES,
                "num_inference_steps": len(STAGE_2_DISTILLED_SIGMA_VALUES),
                "use_cross_timestep": who.use_cross_timestep,
                "generator": generator,
            },
        )


def in_context(who: Peer, asked: Asked, references: References, scales: Scales) -> Latents:
    """One stage that looks at other videos."""
    wear(who.pipe, scales)
    arguments = {
        **_first(who, asked, asked.canvas),
        **_looked(references),
        "generator": torch.Generator().manual_seed(asked.seed),
    }
    return _call(_looking(who.pipe), asked, arguments)


def _looking(pipe: Any) -> Any:
    """The pipeline that takes references, of the same components."""
    parts = {name: part for name, part in pipe.components.items() if name != "duration_head"}
    looking = LTX2InContextPipeline(**parts)
    looking.set_progress_bar_config(disable=True)
    return looking


def _looked(references: References) -> dict[str, Any]:
    videos = [
        LTX2ReferenceCondition(frames=list(each.frames), strength=each.strength)
        for each in references.videos
    ]
    return {
        "reference_conditions": videos,
        "reference_downscale_factor": references.downscale,
        "conditioning_attention_strength": references.attention,
    }


@contextmanager
def without_audio(pipe: Any) -> Iterator[None]:
    """The video is denoised as if there were no audio, nor noise drawn for it.

    What comes out as audio means nothing.
    """
    see, draw = pipe.transformer.forward, pipe.prepare_audio_latents

    def apart(*args: Any, **kwargs: Any) -> Any:
        return see(*args, **{**kwargs, "isolate_modalities": True})

    def elsewhere(*args: Any, **kwargs: Any) -> Any:
        return draw(*args, **{**kwargs, "generator": torch.Generator().manual_seed(0)})

    pipe.transformer.forward, pipe.prepare_audio_latents = apart, elsewhere
    try:
        yield
    finally:
        del pipe.transformer.forward, pipe.prepare_audio_latents


@contextmanager
def _unshifted(pipe: Any) -> Iterator[None]:
    """Given sigmas are used as they are."""
    before = pipe.scheduler
    pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(
        before.config, use_dynamic_shifting=False, shift_terminal=None
    )
    try:
        yield
    finally:
        pipe.scheduler = before


def _first(who: Peer, asked: Asked, canvas: Canvas) -> dict[str, Any]:
    return {
        **_size(canvas),
        **asked.guidance,
        "num_inference_steps": asked.steps,
        "use_cross_timestep": who.use_cross_timestep,
    }


def _size(canvas: Canvas) -> dict[str, Any]:
    return {
        "width": canvas.width,
        "height": canvas.height,
        "num_frames": canvas.frames,
        "frame_rate": canvas.rate,
    }


def _conditions(images: Sequence[Shown]) -> list[LTX2VideoCondition]:
    """Images as they are, not compressed again."""
    shown = partial(LTX2VideoCondition, crf=0)
    return [shown([each.image, *each.following], each.index, each.strength) for each in images]


def _call(pipe: Any, asked: Asked, arguments: Mapping[str, Any]) -> Latents:
    video, audio = pipe(
        prompt=asked.prompt,
        negative_prompt=asked.negative_prompt,
        conditions=_conditions(asked.images),
        max_sequence_length=pipe.tokenizer.model_max_length,
        output_type="latent",
        return_dict=False,
        **arguments,
    )
    return Latents(video, audio)
