"""FLUX.1 with tiny random weights, as folders that diffusers wrote, and adapters beside them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from transformers import CLIPTextModel, T5Config, T5EncoderModel

from tests.families.family import WIDTH, clip, t5, tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

RANK = 4
LAYERS = (
    "transformer_blocks.0.attn.to_q",
    "transformer_blocks.0.attn.add_k_proj",
    "transformer_blocks.0.ff.net.2",
    "transformer_blocks.0.norm1.linear",
    "single_transformer_blocks.0.attn.to_v",
    "single_transformer_blocks.0.proj_out",
)
"""That adapters are on."""

SCHEDULER: dict[str, Any] = {
    "base_image_seq_len": 4,  # so that the few tokens here are shifted by more than rounding
    "max_image_seq_len": 64,
    "base_shift": 0.5,
    "max_shift": 1.15,
}


def transformer(*, guided: bool) -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=guided,
        axes_dims_rope=(4, 4, 8),
    )


def vae() -> AutoencoderKL:
    """Of the real compression, which is 8."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=4,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def folder(root: Path, *, guided: bool) -> Path:
    """FLUX.1-dev, or FLUX.1-schnell, which is told no guidance and shifts by no size."""
    torch.manual_seed(11)
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            **SCHEDULER, shift=3.0 if guided else 1.0, use_dynamic_shifting=guided
        ),
        vae=vae(),
        text_encoder=CLIPTextModel(clip()),
        tokenizer=tokenizer(),
        text_encoder_2=T5EncoderModel(T5Config(**t5())),
        tokenizer_2=tokenizer(),
        transformer=transformer(guided=guided),
    )
    pipe.save_pretrained(root)
    for seed, name in enumerate(("style", "other"), 1):
        target = root / "adapters" / name
        FluxPipeline.save_lora_weights(target, transformer_lora_layers=_factors(seed))
    return root


def _factors(seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shapes = {n: tuple(p.shape) for n, p in transformer(guided=True).named_parameters()}
    made: dict[str, Tensor] = {}
    for layer in LAYERS:
        out, width = shapes[f"{layer}.weight"]
        made[f"{layer}.lora_A.weight"] = torch.randn(RANK, width, generator=draw)
        made[f"{layer}.lora_B.weight"] = torch.randn(out, RANK, generator=draw) / math.sqrt(width)
    return made
