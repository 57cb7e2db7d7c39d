"""The peer: diffusers' WanPipeline with adapters that peft wears."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers import WanPipeline

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from loraloom import Canvas, Request

EXPERTS = {"high": "transformer", "low": "transformer_2"}
"""The component that wears each file of the pair."""


class Peer:
    """A pipeline that knows the pair of files, as users load it."""

    def __init__(self, root: Path) -> None:
        self.pipe: Any = WanPipeline.from_pretrained(root)
        self.pipe.set_progress_bar_config(disable=True)
        for name, component in EXPERTS.items():
            if self.pipe.components[component] is not None:
                self.pipe.load_lora_weights(
                    root / f"{name}.safetensors",
                    adapter_name=name,
                    load_into_transformer_2=component == "transformer_2",
                )

    def latents(
        self, request: Request, mix: Mapping[str, float], steps: int, **options: Any
    ) -> Tensor:
        """``[channels, frames, h, w]`` as the VAE takes them, of a request that wears ``mix``."""
        canvas = request.canvas
        assert canvas
        for name, component in EXPERTS.items():
            part = self.pipe.components[component]
            if part is not None:
                part.set_adapters([name], [mix.get(name, 0.0)])
        made = self.pipe(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            **_size(canvas),
            num_inference_steps=steps,
            generator=[torch.Generator().manual_seed(request.seed)],
            output_type="latent",
            return_dict=False,
            **options,
        )[0]
        vae = self.pipe.vae.config
        mean, deviation = (
            torch.tensor(each).view(-1, 1, 1, 1) for each in (vae.latents_mean, vae.latents_std)
        )
        latents: Tensor = made[0] * deviation + mean
        return latents


def _size(canvas: Canvas) -> dict[str, int]:
    return {"width": canvas.width, "height": canvas.height, "num_frames": canvas.frames}
