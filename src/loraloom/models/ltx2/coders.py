"""Configurations of what leads from latents to pictures and sound, for a released file.

As in :mod:`.configs`: shapes first, then the metadata, then what the releases have.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from loraloom.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .configs import Clues, Config, Version

_SAMPLES = {2: "temporal", 4: "spatial", 8: "spatiotemporal"}
"""A sampler by how many entries it makes one, or one it makes."""

_SCALES = {4: 2.0, 9: 1.5, 16: 4.0}
"""How a resampler scales that makes as many copies of its channels; 9 may also be 0.75."""
_KERNELS = [3, 7, 11]
_DILATIONS = [[1, 3, 5], [1, 3, 5], [1, 3, 5]]
_PLAIN: Mapping[str, Any] = {
    "upsample_kernel_sizes": [16, 15, 8, 4, 4],
    "upsample_rates": [6, 5, 2, 2, 2],
}
_FIRST: Mapping[str, Any] = {
    "upsample_kernel_sizes": [11, 4, 4, 4, 4, 4],
    "upsample_rates": [5, 2, 2, 2, 2, 2],
}
_WIDENING: Mapping[str, Any] = {
    "upsample_kernel_sizes": [12, 11, 4, 4, 4],
    "upsample_rates": [6, 5, 2, 2, 2],
}
"""What LTX-2's vocoder has, and LTX-2.3's: its first generator and the one that widens the band."""


def vae(clues: Clues, release: Version) -> Config:
    """Of the video VAE; samplers are told by the channels before and after them."""
    said = clues.said
    pictured = said.get("in_channels", 3)
    patch = math.isqrt(clues.size("encoder.conv_in.conv.weight", 1) // pictured)
    down, up = _downs(clues), _ups(clues)
    return {
        "_class_name": "AutoencoderKLLTX2Video",
        "in_channels": pictured,
        "out_channels": clues.size("decoder.conv_out.conv.weight") // patch**2,
        "latent_channels": clues.size("encoder.conv_in.conv.weight"),
        **down,
        **up,
        "upsample_residual": _residual(clues, len(up["upsample_factor"]), release),
        "decoder_inject_noise": [False] * len(up["decoder_layers_per_block"]),
        "timestep_conditioning": False,
        "patch_size": patch,
        "encoder_causal": True,
        "decoder_causal": said.get("causal_decoder", False),
        "encoder_spatial_padding_mode": said.get("encoder_spatial_padding_mode", "zeros"),
        "decoder_spatial_padding_mode": said.get(
            "spatial_padding_mode",
            said.get("decoder_spatial_padding_mode", "reflect" if release == "2.0" else "zeros"),
        ),
        "spatial_compression_ratio": patch * 2 ** _times(down["downsample_type"], "spati"),
        "temporal_compression_ratio": 2 ** _times(down["downsample_type"], "temporal"),
    }


def _times(kinds: Sequence[str], what: str) -> int:
    return sum(what in kind for kind in kinds)


def _downs(clues: Clues) -> Config:
    """The encoder's levels, from the picture down; a sampler makes prod(stride) entries one."""
    levels = range(clues.count("encoder.down_blocks."))
    samplers = [f"encoder.down_blocks.{i}.downsamplers.0.conv.conv.weight" for i in levels]
    widths = [clues.size(sampler, 1) for sampler in samplers[1:]]
    widths.append(clues.size("encoder.conv_out.conv.weight", 1))
    resnets = [f"encoder.down_blocks.{i}.resnets." for i in levels] + ["encoder.mid_block.resnets."]
    return {
        "block_out_channels": widths,
        "down_block_types": ["LTX2VideoDownBlock3D"] * len(levels),
        "layers_per_block": [clues.count(stem) for stem in resnets],
        "spatio_temporal_scaling": [True] * len(levels),
        "downsample_type": [
            _sampler(clues, sampler, width // clues.size(sampler))
            for sampler, width in zip(samplers, widths, strict=True)
        ],
    }


def _ups(clues: Clues) -> Config:
    """The decoder's levels; diffusers lists all but the samplers' kinds from the picture down."""
    levels = range(clues.count("decoder.up_blocks."))
    samplers = [f"decoder.up_blocks.{i}.upsamplers.0.conv.conv.weight" for i in levels]
    widths = [clues.size(sampler, 1) for sampler in samplers]
    narrower = [*widths[1:], clues.size("decoder.conv_out.conv.weight", 1)]
    factors = [wide // narrow for wide, narrow in zip(widths, narrower, strict=True)]
    resnets = ["decoder.mid_block.resnets."] + [f"decoder.up_blocks.{i}.resnets." for i in levels]
    return {
        "decoder_block_out_channels": widths[::-1],
        "decoder_layers_per_block": [clues.count(stem) for stem in resnets[::-1]],
        "decoder_spatio_temporal_scaling": [True] * len(levels),
        "upsample_factor": factors[::-1],
        "upsample_type": [
            _sampler(clues, sampler, clues.size(sampler) * factor // clues.size(sampler, 1))
            for sampler, factor in zip(samplers, factors, strict=True)
        ],
    }


def _sampler(clues: Clues, name: str, entries: int) -> str:
    if entries not in _SAMPLES:
        raise ModelError(f"{clues.where}: {name} samples by {entries}, want {list(_SAMPLES)}")
    return _SAMPLES[entries]


def _residual(clues: Clues, levels: int, release: Version) -> list[bool]:
    """Whether each sampler of the decoder adds its input, from the picture down as the metadata."""
    blocks = clues.said.get("decoder_blocks")
    if blocks is None:
        return [release == "2.0"] * levels
    said = [bool(how.get("residual")) for kind, how in blocks if kind.startswith("compress")]
    if len(said) != levels:
        raise ModelError(f"{clues.where} has {levels} samplers, its metadata say {len(said)}")
    return said


def audio_vae(clues: Clues) -> Config:
    """Of the audio VAE; its metadata is nested as its training wrote it."""
    params = clues.said.get("model", {}).get("params", {})
    inner = params.get("ddconfig", {})
    transform = clues.said.get("preprocessing", {}).get("stft", {})
    base = clues.size("encoder.conv_in.conv.weight")
    levels = range(clues.count("encoder.down."))
    widths = [clues.size(f"encoder.down.{i}.block.0.conv1.conv.weight") for i in levels]
    return {
        "_class_name": "AutoencoderKLLTX2Audio",
        "base_channels": base,
        "in_channels": clues.size("encoder.conv_in.conv.weight", 1),
        "output_channels": clues.size("decoder.conv_out.conv.weight"),
        "latent_channels": clues.size("decoder.conv_in.conv.weight", 1),
        "ch_mult": [width // base for width in widths],
        "num_res_blocks": clues.count("encoder.down.0.block."),
        "attn_resolutions": inner.get("attn_resolutions") or None,
        "mid_block_add_attention": inner.get("mid_block_add_attention", False),
        "resolution": inner.get("resolution", 256),
        "norm_type": inner.get("norm_type", "pixel"),
        "causality_axis": inner.get("causality_axis", "height"),
        "mel_bins": inner.get("mel_bins", 64),
        "double_z": inner.get("double_z", True),
        "sample_rate": params.get("sampling_rate", 16000),
        "mel_hop_length": transform.get("hop_length", 160),
        "is_causal": transform.get("causal", True),
    }


def vocoder(clues: Clues) -> Config:
    """Of the vocoder: one generator in LTX-2; in LTX-2.3 a second one that widens the band."""
    if not clues.has("bwe_generator.conv_in.weight"):
        tanh = "tanh" if clues.said.get("use_tanh_at_final", True) else None
        return {
            "_class_name": "LTX2Vocoder",
            **_generator(clues, "", {**_PLAIN, **clues.said}),
            "final_act_fn": tanh,
            "output_sampling_rate": clues.said.get("output_sampling_rate", 24000),
        }
    first, second = clues.said.get("vocoder", {}), clues.said.get("bwe", {})
    wider = _generator(clues, "bwe_generator.", {**_WIDENING, **second})
    return {
        "_class_name": "LTX2VocoderWithBWE",
        **_generator(clues, "vocoder.", {**_FIRST, **first}),
        "final_act_fn": "tanh" if first.get("use_tanh_at_final", False) else None,
        **{f"bwe_{key}": value for key, value in wider.items()},
        "filter_length": clues.size("mel_stft.stft_fn.forward_basis", 2),
        "window_length": second.get("win_size", clues.size("mel_stft.stft_fn.forward_basis", 2)),
        "num_mel_channels": clues.size("mel_stft.mel_basis"),
        "hop_length": second.get("hop_length", 80),
        "input_sampling_rate": second.get("input_sampling_rate", 16000),
        "output_sampling_rate": second.get("output_sampling_rate", 48000),
    }


def _generator(clues: Clues, stem: str, said: Mapping[str, Any]) -> Config:
    smooth = clues.has(f"{stem}act_out.upsample.filter")
    return {
        "in_channels": clues.size(f"{stem}conv_in.weight", 1),
        "hidden_channels": clues.size(f"{stem}conv_in.weight"),
        "out_channels": clues.size(f"{stem}conv_out.weight"),
        "final_bias": clues.has(f"{stem}conv_out.bias"),
        "upsample_kernel_sizes": said["upsample_kernel_sizes"],
        "upsample_factors": said["upsample_rates"],
        "resnet_kernel_sizes": said.get("resblock_kernel_sizes", _KERNELS),
        "resnet_dilations": said.get("resblock_dilation_sizes", _DILATIONS),
        "act_fn": said.get("activation", "snakebeta") if smooth else "leaky_relu",
        "antialias": smooth,
    }


def upsampler(clues: Clues) -> Config:
    """Of a latent upsampler; by how many channels its sampler has, it scales time or space."""
    rational = clues.has("upsampler.conv.weight")
    sampler = "upsampler.conv.weight" if rational else "upsampler.0.weight"
    inside = clues.size("initial_conv.weight")
    copies = clues.size(sampler) // inside
    flat = len(clues.shapes[sampler]) == 4
    return {
        "_class_name": "LTX2LatentUpsamplerModel",
        "in_channels": clues.size("initial_conv.weight", 1),
        "mid_channels": inside,
        "num_blocks_per_stage": clues.count("res_blocks."),
        "dims": len(clues.shapes["initial_conv.weight"]) - 2,
        "spatial_upsample": flat or copies == 8,
        "temporal_upsample": not flat,
        "use_rational_resampler": rational,
        "rational_spatial_scale": clues.said.get("spatial_scale", _SCALES.get(copies, 2.0)),
    }
