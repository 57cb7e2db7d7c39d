"""Measure the two-stage recipe: 64 px, upsampled latents, three distilled steps at 128 px."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, LTX2Pipeline
from diffusers.pipelines.ltx2 import LTX2LatentUpsamplerModel
from diffusers.pipelines.ltx2.pipeline_output import LTX2PipelineOutput
from peft import PeftModel
from torch import Tensor

from training import configs
from training.scenes import Scene, caption


def first_stage(
    pipe: LTX2Pipeline, prompts: list[str], options: dict[str, object]
) -> LTX2PipelineOutput:
    small = options | {"height": 64, "width": 64, "output_type": "latent"}
    return pipe(prompts, generator=torch.Generator().manual_seed(11), **small)


def second_stage(
    pipe: LTX2Pipeline, prompts: list[str], options: dict[str, object], start: dict[str, Tensor]
) -> Tensor:
    sigmas = list(configs.STAGE_2_SIGMAS)
    late = options | {"sigmas": sigmas, "num_inference_steps": len(sigmas), "guidance_scale": 1.0}
    made = pipe(
        prompts,
        generator=torch.Generator().manual_seed(12),
        noise_scale=sigmas[0],
        **start,
        **late,
    )
    return made.frames.float().transpose(1, 2)


def two_stages(
    pipe: LTX2Pipeline, folder: Path, wanted: list[Scene], options: dict[str, object]
) -> dict[str, Tensor]:
    """Clips in 0..1 with the distilled adapter in stage 2, and without it."""
    upsampler = LTX2LatentUpsamplerModel.from_pretrained(
        folder / "latent_upsampler", dtype=torch.bfloat16
    )
    prompts = [caption(scene) for scene in wanted]
    small = first_stage(pipe, prompts, options)
    with torch.no_grad():
        large = upsampler(small.frames.bfloat16()).float()
    start = {"latents": large, "audio_latents": small.audio}
    pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(
        pipe.scheduler.config, use_dynamic_shifting=False, shift_terminal=None
    )
    made = {"base": second_stage(pipe, prompts, options, start)}
    adapter = folder / "adapters" / "distilled"
    pipe.transformer = PeftModel.from_pretrained(pipe.transformer, adapter)
    made["distilled"] = second_stage(pipe, prompts, options, start)
    return made
