"""Two stages as a user of diffusers runs them: the calls of the examples in its pipelines.

``pipeline_ltx2_condition.py`` and ``pipeline_ltx2_latent_upsample.py`` of diffusers 0.42: the same
pipeline twice, between them the upsampler's, other adapters, and a scheduler that does not shift.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    LTX2ConditionPipeline,
    LTX2LatentUpsamplePipeline,
)
from diffusers.pipelines.ltx2 import LTX2LatentUpsamplerModel
from diffusers.pipelines.ltx2.utils import STAGE_2_DISTILLED_SIGMA_VALUES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from loraloom import Canvas

    from .peer import Strengths

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
"""One pass a step."""


class Theirs:
    """The peer's pipelines with all adapters of a folder loaded; bfloat16."""

    def __init__(self, folder: Path, device: str) -> None:
        kind = {"dtype": torch.bfloat16, "local_files_only": True}
        self.pipe: Any = LTX2ConditionPipeline.from_pretrained(folder, **kind)
        model = LTX2LatentUpsamplerModel.from_pretrained(folder / "latent_upsampler", **kind)
        self.upsampler: Any = LTX2LatentUpsamplePipeline(self.pipe.vae, model)
        for path in sorted((folder / "adapters").iterdir()):
            self.pipe.load_lora_weights(path, adapter_name=path.name)
        for each in (self.pipe, self.upsampler):
            each.to(device)
            each.set_progress_bar_config(disable=True)
        self.shifted = self.pipe.scheduler
        self.given = FlowMatchEulerDiscreteScheduler.from_config(
            self.shifted.config, use_dynamic_shifting=False, shift_terminal=None
        )

    def wear(self, strengths: Strengths) -> None:
        self.pipe.set_adapters(list(strengths), list(strengths.values()))

    def fuse(self, name: str) -> None:
        self.pipe.fuse_lora(components=["transformer"], adapter_names=[name])

    def unfuse(self) -> None:
        self.pipe.unfuse_lora(components=["transformer"])

    def video(self, call: Mapping[str, Any], canvas: Canvas, mixes: Sequence[Strengths]) -> Tensor:
        """The latents of one request after both stages, which wear one of ``mixes`` each.

        ``call``: prompt, seed, and the arguments of stage 1.
        """
        generator = torch.Generator().manual_seed(call["seed"])
        common = {
            "prompt": call["prompt"],
            "negative_prompt": "",
            "num_frames": canvas.frames,
            "frame_rate": canvas.rate,
            "max_sequence_length": self.pipe.tokenizer.model_max_length,
            "generator": generator,
            "use_cross_timestep": True,
            "output_type": "latent",
            "return_dict": False,
        }
        self.wear(mixes[0])
        small, audio = self.pipe(
            width=canvas.width // 2, height=canvas.height // 2, **common, **call["first"]
        )
        large = self.upsampler(latents=small, output_type="latent", return_dict=False)[0]
        self.wear(mixes[1])
        self.pipe.scheduler = self.given
        try:
            made: Tensor = self.pipe(
                width=canvas.width,
                height=canvas.height,
                latents=large,
                audio_latents=audio,
                sigmas=STAGE_2_DISTILLED_SIGMA_VALUES,
                num_inference_steps=len(STAGE_2_DISTILLED_SIGMA_VALUES),
                **common,
                **UNGUIDED,
            )[0]
        finally:
            self.pipe.scheduler = self.shifted
        return made
