"""Models written back as they are released: one file with the original names and metadata."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

PARTS = ("transformer", "connectors", "vae", "audio_vae", "vocoder")
BESIDE = ("text_encoder", "tokenizer", "scheduler")

DENOISER = {
    r"^(audio_)?proj_in\.": r"\1patchify_proj.",
    r"^(audio_)?time_embed\.": r"\1adaln_single.",
    r"^(audio_)?prompt_adaln\.": r"\1prompt_adaln_single.",
    r"^av_cross_attn_(video|audio)_scale_shift\.": r"av_ca_\1_scale_shift_adaln_single.",
    r"^av_cross_attn_video_a2v_gate\.": "av_ca_a2v_gate_adaln_single.",
    r"^av_cross_attn_audio_v2a_gate\.": "av_ca_v2a_gate_adaln_single.",
    r"(video|audio)_a2v_cross_attn_scale_shift_table$": r"scale_shift_table_a2v_ca_\1",
    r"\.norm_([qk])\b": r".\1_norm",
    r"^(.*)$": r"model.diffusion_model.\1",
}
CONNECTORS = {
    r"^(video|audio)_connector\.": r"model.diffusion_model.\1_embeddings_connector.",
    r"^(video_|audio_)?text_proj_in": r"text_embedding_projection.\1aggregate_embed",
    r"\.transformer_blocks\.": ".transformer_1d_blocks.",
    r"\.norm_([qk])\b": r".\1_norm",
}
STATISTICS = {
    r"^latents_mean$": "per_channel_statistics.mean-of-means",
    r"^latents_std$": "per_channel_statistics.std-of-means",
}
VOCODER = {
    r"\bupsamplers\.": "ups.",
    r"\bresnets\.": "resblocks.",
    r"\bconv_in\.": "conv_pre.",
    r"\bconv_out\.": "conv_post.",
    r"\bact_out\.": "act_post.",
    r"\bdownsample\.filter": "downsample.lowpass.filter",
}


def original(part: str, name: str, levels: int = 0) -> str:
    """How the release spells a tensor; ``levels`` is how many the VAE's encoder has."""
    if part == "vae":
        return (
            f"vae.{_replaced(_counted(name, levels), STATISTICS).replace('resnets', 'res_blocks')}"
        )
    rules = {
        "transformer": DENOISER,
        "connectors": CONNECTORS,
        "audio_vae": STATISTICS,
        "vocoder": VOCODER,
    }[part]
    prefix = f"{part}." if part in ("audio_vae", "vocoder") else ""
    return prefix + _replaced(name, rules)


def _replaced(name: str, rules: Mapping[str, str]) -> str:
    for pattern, replacement in rules.items():
        name = re.sub(pattern, replacement, name)
    return name


def _counted(name: str, levels: int) -> str:
    """Residual blocks and samplers of all levels in one row."""
    name = name.replace("encoder.mid_block.", f"encoder.down_blocks.{levels}.")
    name = name.replace("decoder.mid_block.", "decoder.up_blocks.-1.")
    match = re.fullmatch(r"(.+)_blocks\.(-?\d+)\.((?:down|up)samplers\.0\.)?(.+)", name)
    if match is None:
        return name
    side, level, sampler, rest = match.groups()
    number = 2 * int(level) + (bool(sampler) if side == "encoder.down" else 2 - bool(sampler))
    return f"{side}_blocks.{number}.{rest}"


def said(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The ``config`` that a release has in its metadata, from diffusers' configurations."""
    net, text, vae = configs["transformer"], configs["connectors"], configs["vae"]
    return {
        "transformer": _transformer(net) | _connectors(text),
        "vae": _vae(vae),
        "audio_vae": _audio_vae(configs["audio_vae"]),
        "vocoder": _vocoder(configs["vocoder"]),
    }


def _transformer(net: Mapping[str, Any]) -> dict[str, Any]:
    same = (
        "num_attention_heads",
        "audio_num_attention_heads",
        "attention_head_dim",
        "audio_attention_head_dim",
        "caption_channels",
        "norm_eps",
        "rope_type",
        "timestep_scale_multiplier",
    )
    return {key: net[key] for key in same} | {
        "positional_embedding_theta": net["rope_theta"],
        "positional_embedding_max_pos": [
            net[key] for key in ("pos_embed_max_pos", "base_height", "base_width")
        ],
        "audio_positional_embedding_max_pos": [net["audio_pos_embed_max_pos"]],
        "frequencies_precision": "float64" if net["rope_double_precision"] else "float32",
        "av_ca_timestep_scale_multiplier": net["cross_attn_timestep_scale_multiplier"],
    }


def _connectors(text: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "connector_num_attention_heads": text["video_connector_num_attention_heads"],
        "audio_connector_num_attention_heads": text["audio_connector_num_attention_heads"],
        "connector_positional_embedding_max_pos": [text["connector_rope_base_seq_len"]],
    }


def _vae(vae: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {"spatial": "compress_space", "temporal": "compress_time"}
    blocks: list[tuple[str, dict[str, Any]]] = []
    samplers = zip(
        reversed(vae["upsample_type"]),
        vae["upsample_factor"],
        vae["upsample_residual"],
        strict=True,
    )
    layers = iter(vae["decoder_layers_per_block"])
    blocks.append(("res_x", {"num_layers": next(layers)}))
    for kind, factor, residual in samplers:
        options = {"multiplier": factor} | ({"residual": True} if residual else {})
        blocks.append((kinds.get(kind, "compress_all"), options))
        blocks.append(("res_x", {"num_layers": next(layers)}))
    return {
        "_class_name": "CausalVideoAutoencoder",
        "in_channels": vae["in_channels"],
        "causal_decoder": vae["decoder_causal"],
        "encoder_spatial_padding_mode": vae["encoder_spatial_padding_mode"],
        "spatial_padding_mode": vae["decoder_spatial_padding_mode"],
        "decoder_blocks": blocks,
    }


def _audio_vae(vae: Mapping[str, Any]) -> dict[str, Any]:
    same = (
        "mel_bins",
        "resolution",
        "norm_type",
        "causality_axis",
        "double_z",
        "mid_block_add_attention",
    )
    inner = {key: vae[key] for key in same} | {"attn_resolutions": vae["attn_resolutions"] or []}
    stft = {"hop_length": vae["mel_hop_length"], "causal": vae["is_causal"]}
    return {
        "model": {"params": {"ddconfig": inner, "sampling_rate": vae["sample_rate"]}},
        "preprocessing": {"stft": stft},
    }


def _vocoder(vocoder: Mapping[str, Any]) -> dict[str, Any]:
    if "bwe_in_channels" not in vocoder:
        rate = {"output_sampling_rate": vocoder["output_sampling_rate"]}
        return _generator(vocoder, "") | rate | {"use_tanh_at_final": True}
    same = ("hop_length", "input_sampling_rate", "output_sampling_rate")
    second = {key: vocoder[key] for key in same} | {
        "n_fft": vocoder["filter_length"],
        "win_size": vocoder["window_length"],
        "num_mels": vocoder["num_mel_channels"],
    }
    return {
        "vocoder": _generator(vocoder, "") | {"activation": vocoder["act_fn"]},
        "bwe": _generator(vocoder, "bwe_") | {"activation": vocoder["bwe_act_fn"]} | second,
    }


def _generator(vocoder: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {
        "resblock_kernel_sizes": vocoder[f"{prefix}resnet_kernel_sizes"],
        "resblock_dilation_sizes": vocoder[f"{prefix}resnet_dilations"],
        "upsample_rates": vocoder[f"{prefix}upsample_factors"],
        "upsample_kernel_sizes": vocoder[f"{prefix}upsample_kernel_sizes"],
        "use_tanh_at_final": False,
        "use_bias_at_final": vocoder[f"{prefix}final_bias"],
    }


def configs(folder: Path) -> dict[str, dict[str, Any]]:
    """Of all components of a folder in diffusers' layout that the release has in its one file."""
    return {part: json.loads((folder / part / "config.json").read_text()) for part in PARTS}


def tensors(folder: Path) -> dict[str, Tensor]:
    """All of them, by their original names, with the statistics that nobody uses."""
    levels = len(configs(folder)["vae"]["block_out_channels"])
    held = {
        original(part, name, levels): value
        for part in PARTS
        for file in (folder / part).glob("*.safetensors")
        for name, value in load_file(file).items()
    }
    mean = held["vae.per_channel_statistics.mean-of-means"]
    return {
        **held,
        "vae.per_channel_statistics.channel": mean.clone(),
        "vae.per_channel_statistics.mean-of-stds": mean.clone(),
    }


def write(folder: Path, to: Path, name: str = "ltx-2.3-22b-dev.safetensors") -> Path:
    """The model in ``folder`` as a release, in a new folder ``to``."""
    to.mkdir()
    for part in BESIDE:
        shutil.copytree(folder / part, to / part)
    shutil.copy(folder / "loraloom.json", to)
    save_file(tensors(folder), to / name, {"config": json.dumps(said(configs(folder)))})
    return to
