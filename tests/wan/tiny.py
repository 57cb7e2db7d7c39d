"""Wan with tiny random weights, as folders that diffusers wrote, and adapters as released."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from safetensors.torch import save_file
from transformers import UMT5Config, UMT5EncoderModel

from tests.families.family import WIDTH, t5, tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

BOUNDARY = 0.875
RANK = 4
LAYERS = {
    "self_attn.q": "attn1.to_q",
    "self_attn.o": "attn1.to_out.0",
    "cross_attn.k": "attn2.to_k",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}
"""Of a block that adapters are on: as Wan's own code spells them, and as diffusers does."""


def expert() -> WanTransformer3DModel:
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=WIDTH,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )


def vae() -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[-0.5, 0.1, 0.3, 0.7],
        latents_std=[2.0, 1.5, 0.8, 1.1],
    )


def folder(root: Path, *, experts: int = 2, every_token: bool = False) -> Path:
    """A pipeline of one or two experts; ``every_token`` is told a time of its own."""
    torch.manual_seed(7)
    transformers = [expert() for _ in range(experts)]
    for each in transformers:
        # as it is made it hardly looks at time and text
        for block in each.blocks:
            block.scale_shift_table.data.normal_(0, 0.5)
    pipe = WanPipeline(
        tokenizer(),
        UMT5EncoderModel(UMT5Config(**t5())),
        vae(),
        UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        *transformers,
        boundary_ratio=BOUNDARY if experts == 2 else None,
        expand_timesteps=every_token,
    )
    pipe.save_pretrained(root)
    for seed, name in enumerate(("high", "low", "other"), 1):
        original = {_original(key): value for key, value in _factors(seed).items()}
        save_file(original, root / f"{name}.safetensors")
    both = {f"transformer.{key}": value for key, value in _factors(1).items()}
    both |= {f"transformer_2.{key}": value for key, value in _factors(2).items()}
    save_file(both, root / "both.safetensors")
    return root


def _factors(seed: int) -> dict[str, Tensor]:
    """Of every layer of ``LAYERS``, under diffusers' names."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {n: tuple(p.shape) for n, p in expert().named_parameters()}
    made: dict[str, Tensor] = {}
    for block in range(2):
        for layer in LAYERS.values():
            site = f"blocks.{block}.{layer}"
            out, width = shapes[f"{site}.weight"]
            made[f"{site}.lora_A.weight"] = torch.randn(RANK, width, generator=draw)
            up = torch.randn(out, RANK, generator=draw) / math.sqrt(width)
            made[f"{site}.lora_B.weight"] = up
    return made


def _original(key: str) -> str:
    block, layer, side = key.split(".", 2)[1], *key.split(".", 2)[2].rsplit(".lora_", 1)
    names = {ours: theirs for theirs, ours in LAYERS.items()}
    return f"diffusion_model.blocks.{block}.{names[layer]}.lora_{side}"
