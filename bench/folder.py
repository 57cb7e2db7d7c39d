"""LTX-2.3 as a folder: the real classes in its configuration, smaller, with random weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    FlowMatchEulerDiscreteScheduler,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
)
from diffusers.pipelines.ltx2 import LTX2LatentUpsamplerModel, LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2VocoderWithBWE
from safetensors.torch import save_file
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GemmaTokenizer,
    SiglipVisionConfig,
)

from loraloom import Canvas
from loraloom.models.find import BUNDLED

from .subject import COMPONENT, factors, targets

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

Config: TypeAlias = dict[str, Any]

STYLE, DISTILLED = "style", "distilled"
CHANNELS = 16
"""Of latents; the frequencies of sound are as many."""
WORDS, TEXT_WIDTH, TEXT_LAYERS = 32, 32, 2

VERSION: Config = {
    **dict.fromkeys(("gated_attn", "cross_attn_mod", "audio_gated_attn"), True),
    **dict.fromkeys(("audio_cross_attn_mod", "perturbed_attn"), True),
    "use_prompt_embeddings": False,
    "rope_type": "split",
}
"""What makes a transformer of LTX-2 one of LTX-2.3."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large everything is.

    Attributes:
        heads: of the transformer, of 128 channels each and 64 for sound.
        ranks: of the adapters. The released distilled one has 384 of a width of 4096.
        step: what one step is measured at.
        request: what whole requests are measured at.
    """

    heads: int
    layers: int
    ranks: Mapping[str, int]
    step: Canvas
    request: Canvas


SIZES = {
    "tiny": Size(
        2, 2, {STYLE: 4, DISTILLED: 24}, Canvas(128, 128, 9, 16.0), Canvas(64, 64, 9, 16.0)
    ),
    # width 1536: 388 M parameters in the transformer; 1024 and 256 tokens of video
    "full": Size(
        12, 6, {STYLE: 16, DISTILLED: 144}, Canvas(256, 256, 13, 16.0), Canvas(128, 128, 13, 16.0)
    ),
}


def write(size: Size, folder: Path) -> None:
    """The model as diffusers saves it, with its upsampler and adapters beside it."""
    torch.manual_seed(0)
    transformer = LTX2VideoTransformer3DModel(**transformer_config(size))
    connectors = LTX2TextConnectors(**_connectors(size))
    for module in (transformer, connectors):
        _fill(module)
    pipe: Any = LTX2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, shift_terminal=0.1
        ),
        vae=AutoencoderKLLTX2Video(**VAE),
        audio_vae=AutoencoderKLLTX2Audio(**AUDIO_VAE),
        text_encoder=_text_encoder(),
        tokenizer=GemmaTokenizer.from_pretrained(BUNDLED["mini"] / "tokenizer"),
        connectors=connectors,
        transformer=transformer,
        vocoder=LTX2VocoderWithBWE(**VOCODER),
    )
    upsampler = LTX2LatentUpsamplerModel(
        in_channels=CHANNELS, mid_channels=32, num_blocks_per_stage=1, rational_spatial_scale=2.0
    )
    pipe.to(torch.bfloat16).save_pretrained(folder)
    upsampler.to(torch.bfloat16).save_pretrained(folder / "latent_upsampler")
    for seed, (name, rank) in enumerate(size.ranks.items()):
        _write_adapter(transformer, folder / "adapters" / name, rank, seed)


def _write_adapter(module: nn.Module, folder: Path, rank: int, seed: int) -> None:
    """An adapter of attention and feed-forward as diffusers saves it."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for site, layer in targets(module).items():
        down, up = factors(layer.weight, rank, generator)
        state[f"{COMPONENT}.{site}.lora_A.weight"] = down
        state[f"{COMPONENT}.{site}.lora_B.weight"] = up
    folder.mkdir(parents=True)
    save_file(state, folder / "pytorch_lora_weights.safetensors", {"format": "pt"})


def _fill(module: nn.Module) -> None:
    """Every matrix keeps the deviation of its input, so that no input is lost on the way."""
    for name, parameter in module.named_parameters():
        if name.endswith("scale_shift_table"):
            parameter.data.normal_(0, 0.3)
        elif "registers" not in name and parameter.ndim == 2:
            parameter.data.normal_(0, 1 / math.sqrt(parameter.shape[1]))


def transformer_config(size: Size) -> Config:
    return VERSION | {
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "num_attention_heads": size.heads,
        "attention_head_dim": 128,
        "cross_attention_dim": 128 * size.heads,
        "audio_in_channels": CHANNELS,
        "audio_out_channels": CHANNELS,
        "audio_num_attention_heads": size.heads,
        "audio_attention_head_dim": 64,
        "audio_cross_attention_dim": 64 * size.heads,
        "num_layers": size.layers,
        "caption_channels": TEXT_WIDTH,
        "vae_scale_factors": (4, 16, 16),
    }


def _connectors(size: Size) -> Config:
    return {
        "caption_channels": TEXT_WIDTH,
        "text_proj_in_factor": TEXT_LAYERS + 1,
        "per_modality_projections": True,
        "proj_bias": True,
        "rope_type": "split",
        "connector_rope_base_seq_len": WORDS,
        **_connector("video", size.heads, 128),
        **_connector("audio", size.heads, 64),
    }


def _connector(side: str, heads: int, channels: int) -> Config:
    return {
        f"{side}_hidden_dim": heads * channels,
        f"{side}_gated_attn": True,
        f"{side}_connector_num_layers": 1,
        f"{side}_connector_num_learnable_registers": WORDS,
        f"{side}_connector_num_attention_heads": heads,
        f"{side}_connector_attention_head_dim": channels,
    }


VAE: Config = {
    "latent_channels": CHANNELS,
    "encoder_causal": True,
    "decoder_causal": False,
    "block_out_channels": (32, 32),
    "down_block_types": ("LTX2VideoDownBlock3D",) * 2,
    "decoder_block_out_channels": (16, 32),
    "layers_per_block": (1, 1, 1),
    "decoder_layers_per_block": (1, 1, 1),
    "spatio_temporal_scaling": (True, True),
    "decoder_spatio_temporal_scaling": (True, True),
    "decoder_inject_noise": (False, False, False),
    "downsample_type": ("spatiotemporal", "spatiotemporal"),
    "upsample_type": ("spatiotemporal", "spatiotemporal"),
    "upsample_residual": (False, False),
    "upsample_factor": (1, 2),
    "decoder_spatial_padding_mode": "zeros",
    "spatial_compression_ratio": 16,
    "temporal_compression_ratio": 4,
}
AUDIO_VAE: Config = {
    "base_channels": 16,
    "ch_mult": (1, 2, 2),
    "num_res_blocks": 1,
    "latent_channels": 4,
    "mel_bins": 16,
    "resolution": 16,
}
VOCODER: Config = {
    "in_channels": 32,
    "hidden_channels": 32,
    "upsample_kernel_sizes": [11, 8, 8, 4],
    "upsample_factors": [5, 4, 4, 2],
    "resnet_kernel_sizes": [3],
    "resnet_dilations": [[1, 3]],
    "bwe_in_channels": 32,
    "bwe_hidden_channels": 16,
    "bwe_upsample_kernel_sizes": [12, 11, 16],
    "bwe_upsample_factors": [6, 5, 8],
    "bwe_resnet_kernel_sizes": [3],
    "bwe_resnet_dilations": [[1, 3]],
    "num_mel_channels": 16,
}


def _text_encoder() -> Any:
    """Distinct hidden states per word are all that the connectors need."""
    text = Gemma3TextConfig(
        vocab_size=649,
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
        initializer_range=0.125,
    )
    vision = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=32,
        patch_size=16,
    )
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    config.image_token_index = config.image_token_id = 4
    return Gemma3ForConditionalGeneration(config)
