"""LTX-2 and LTX-2.3 with tiny random weights, as folders that diffusers wrote."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    FlowMatchEulerDiscreteScheduler,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
)
from diffusers.pipelines.ltx2 import LTX2LatentUpsamplerModel, LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder, LTX2VocoderWithBWE
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GemmaTokenizer,
    SiglipVisionConfig,
)

from loraloom.models.find import BUNDLED

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from loraloom import Guides, Loom, Request

Variant: TypeAlias = Literal["2.0", "2.0-interleaved", "2.3"]
Config: TypeAlias = dict[str, Any]

SEED = 20260107
TEXT_TOKENS = 32
TEXT_WIDTH = 32
TEXT_LAYERS = 2
LATENT_CHANNELS = 16
WIDTH = 64
AUDIO_WIDTH = 32
HEADS = 4

TRANSFORMER: Config = {
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "num_attention_heads": HEADS,
    "attention_head_dim": WIDTH // HEADS,
    "cross_attention_dim": WIDTH,
    "pos_embed_max_pos": 1,
    "base_height": 128,
    "base_width": 128,
    "audio_in_channels": 16,
    "audio_out_channels": 16,
    "audio_num_attention_heads": HEADS,
    "audio_attention_head_dim": AUDIO_WIDTH // HEADS,
    "audio_cross_attention_dim": AUDIO_WIDTH,
    "audio_pos_embed_max_pos": 1,
    "num_layers": 3,
    "caption_channels": TEXT_WIDTH,
    "rope_theta": 16.0,
    "rope_type": "split",
}
GATES: Config = dict.fromkeys(
    (
        "gated_attn",
        "cross_attn_mod",
        "audio_gated_attn",
        "audio_cross_attn_mod",
        "perturbed_attn",
    ),
    True,
)

CONNECTORS: Config = {
    "caption_channels": TEXT_WIDTH,
    "text_proj_in_factor": TEXT_LAYERS + 1,
    "video_connector_num_layers": 1,
    "video_connector_num_learnable_registers": TEXT_TOKENS,
    "audio_connector_num_layers": 1,
    "audio_connector_num_learnable_registers": TEXT_TOKENS,
    "connector_rope_base_seq_len": TEXT_TOKENS,
    "rope_theta": 16.0,
    "rope_type": "split",
}

VAE: Config = {
    "latent_channels": LATENT_CHANNELS,
    "timestep_conditioning": False,
    "encoder_causal": True,
    "decoder_causal": False,
}
AUDIO_VAE: Config = {
    "base_channels": 16,
    "ch_mult": (1, 2, 2),
    "num_res_blocks": 1,
    "latent_channels": 4,
    "mel_bins": 16,
    "resolution": 16,
}
UPSAMPLER: Config = {
    "in_channels": LATENT_CHANNELS,
    "mid_channels": 32,
    "num_blocks_per_stage": 1,
    "rational_spatial_scale": 2.0,
}
SCHEDULER: Config = {
    "use_dynamic_shifting": True,
    "base_shift": 0.95,
    "max_shift": 2.05,
    "base_image_seq_len": 16,  # so few that a handful of appended tokens shifts the sigmas
    "max_image_seq_len": 128,
    "shift_terminal": 0.1,
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the components of one released model differ from those of the other."""

    transformer: Config
    connectors: Config
    vae: Config
    vocoder: nn.Module


def folder(variant: Variant, root: Path) -> Path:
    """The folder of ``variant`` below ``root``: written at the first call, whole or not at all."""
    target = root / f"ltx-{variant}"
    if target.is_dir():
        return target
    part = root / f"ltx-{variant}.part"
    shutil.rmtree(part, ignore_errors=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        pipe, upsampler = _models(variant)
        pipe.save_pretrained(part)
        upsampler.save_pretrained(part / "latent_upsampler")
        _write_adapters(pipe.transformer, part / "adapters")
    return part.rename(target)


def _models(variant: Variant) -> tuple[Any, Any]:
    recipe = _ltx_2_3() if variant == "2.3" else _ltx_2_0(variant)
    transformer = LTX2VideoTransformer3DModel(**TRANSFORMER | recipe.transformer)
    connectors = LTX2TextConnectors(**CONNECTORS | recipe.connectors)
    vae = AutoencoderKLLTX2Video(**VAE | recipe.vae)
    audio_vae = AutoencoderKLLTX2Audio(**AUDIO_VAE)
    upsampler = LTX2LatentUpsamplerModel(**UPSAMPLER)
    for module in (transformer, connectors):
        _fill(module)
    vae.encoder.conv_out.conv.weight.data.mul_(3)  # encoded images of deviation 1
    upsampler.final_conv.weight.data.mul_(3)  # upsampled latents likewise
    for each in (vae, audio_vae):
        each.latents_mean.copy_(0.4 * torch.randn(each.latents_mean.shape))
        each.latents_std.copy_(0.6 + 0.8 * torch.rand(each.latents_std.shape))
    pipe = LTX2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
        vae=vae,
        audio_vae=audio_vae,
        text_encoder=_text_encoder(),
        tokenizer=GemmaTokenizer.from_pretrained(BUNDLED["mini"] / "tokenizer"),
        connectors=connectors,
        transformer=transformer,
        vocoder=recipe.vocoder,
    )
    return pipe, upsampler


def _fill(module: nn.Module) -> None:
    """Every matrix keeps the deviation of its input, so that no input is lost on the way."""
    for name, parameter in module.named_parameters():
        if name.endswith("scale_shift_table"):
            parameter.data.normal_(0, 0.3)
        elif "registers" not in name and parameter.ndim == 2:
            parameter.data.normal_(0, 1 / math.sqrt(parameter.shape[1]))


def _ltx_2_0(variant: Variant) -> Recipe:
    """Lightricks/LTX-2: no gates, captions projected inside the transformer, VAE 32 x 8."""
    width = {"attention_head_dim": TEXT_WIDTH // HEADS, "num_attention_heads": HEADS}
    rope = {"rope_type": "interleaved" if variant == "2.0-interleaved" else "split"}
    sides = {
        f"{side}_connector_{key}": value
        for side in ("video", "audio")
        for key, value in width.items()
    }
    return Recipe(
        transformer={"use_prompt_embeddings": True, "vae_scale_factors": (8, 32, 32), **rope},
        connectors={"per_modality_projections": False, **sides, **rope},
        vae={
            "block_out_channels": (16, 16, 32, 32),
            "decoder_block_out_channels": (16, 32, 64),
            "layers_per_block": (1, 1, 1, 1, 1),
            "decoder_layers_per_block": (1, 1, 1, 1),
            "spatial_compression_ratio": 32,
            "temporal_compression_ratio": 8,
        },
        vocoder=LTX2Vocoder(
            in_channels=32,
            hidden_channels=32,
            upsample_kernel_sizes=[16, 15, 8],
            upsample_factors=[6, 5, 8],
            resnet_kernel_sizes=[3],
            resnet_dilations=[[1, 3]],
        ),
    )


def _ltx_2_3() -> Recipe:
    """LTX-2.3: gated attention, modulated prompts, projections per modality, VAE here 16 x 4."""
    return Recipe(
        transformer={"use_prompt_embeddings": False, "vae_scale_factors": (4, 16, 16), **GATES},
        connectors={
            "per_modality_projections": True,
            "proj_bias": True,
            "video_hidden_dim": WIDTH,
            "video_connector_num_attention_heads": HEADS,
            "video_connector_attention_head_dim": WIDTH // HEADS,
            "video_gated_attn": True,
            "audio_hidden_dim": AUDIO_WIDTH,
            "audio_connector_num_attention_heads": HEADS,
            "audio_connector_attention_head_dim": AUDIO_WIDTH // HEADS,
            "audio_gated_attn": True,
        },
        vae={
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
        },
        vocoder=LTX2VocoderWithBWE(
            in_channels=32,
            hidden_channels=32,
            upsample_kernel_sizes=[11, 8, 8, 4],
            upsample_factors=[5, 4, 4, 2],
            resnet_kernel_sizes=[3],
            resnet_dilations=[[1, 3]],
            bwe_in_channels=32,
            bwe_hidden_channels=16,
            bwe_upsample_kernel_sizes=[12, 11, 16],
            bwe_upsample_factors=[6, 5, 8],
            bwe_resnet_kernel_sizes=[3],
            bwe_resnet_dilations=[[1, 3]],
            num_mel_channels=16,
        ),
    )


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
        sliding_window=1024,
        max_position_embeddings=1024,
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
    return Gemma3ForConditionalGeneration(config).eval()


def _write_adapters(transformer: nn.Module, root: Path) -> None:
    """``distilled`` on every layer, ``style`` and ``style2`` on the attention of some blocks."""
    linear = [n for n, m in transformer.named_modules() if isinstance(m, torch.nn.Linear)]
    attention = [n for n in linear if n.split(".")[-1] in {"to_q", "to_k", "to_v"}]
    everything = LoraConfig(r=8, lora_alpha=8, target_modules=linear)
    some = LoraConfig(r=4, lora_alpha=6, target_modules=_inside(attention, (0, 2)))
    _write_peft(root / "distilled", everything, _factors(transformer, everything))
    _write_peft(root / "style", some, _factors(transformer, some))
    other = LoraConfig(r=4, lora_alpha=4, target_modules=_inside(attention, (1,)))
    layers = {
        key.removeprefix("base_model.model."): value
        for key, value in _factors(transformer, other).items()
    }
    LTX2Pipeline.save_lora_weights(root / "style2", transformer_lora_layers=layers)


def _inside(names: list[str], blocks: tuple[int, ...]) -> list[str]:
    prefixes = tuple(f"transformer_blocks.{block}." for block in blocks)
    return [name for name in names if name.startswith(prefixes)]


def _factors(transformer: nn.Module, config: LoraConfig) -> dict[str, Tensor]:
    """Random factors of ``config``'s layers, under the keys that peft gives them."""
    model = get_peft_model(transformer, config)
    factors = {key: value.clone() for key, value in get_peft_model_state_dict(model).items()}
    model.unload()
    for key, value in factors.items():
        size = 0.4 if ".lora_B." in key else 1.0
        value.normal_(0, size / math.sqrt(value.shape[1]))
    return factors


def _write_peft(target: Path, config: LoraConfig, factors: dict[str, Tensor]) -> None:
    config.inference_mode = True
    config.save_pretrained(target)
    save_file(factors, target / "adapter_model.safetensors", metadata={"format": "pt"})


def fitting(loom: Loom, request: Request) -> Request:
    """Without the pass that skips attention where the model cannot: it would be for nothing."""
    if loom.card.config["perturbed_attn"] or request.stages is None:
        return request

    def plain(guides: Guides) -> Guides:
        return replace(guides, stg=0.0)

    stages = []
    for stage in request.stages:
        guidance = stage.guidance
        guidance = replace(guidance, video=plain(guidance.video), audio=plain(guidance.audio))
        stages.append(replace(stage, guidance=guidance))
    return replace(request, stages=tuple(stages))
