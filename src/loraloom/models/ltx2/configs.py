"""Configurations of diffusers' classes for a released checkpoint of LTX-2 or LTX-2.3.

What shapes tell is read from shapes; what they cannot tell is said by the file's metadata, else it
is as in the releases (``scripts/convert_ltx2_to_diffusers.py`` of huggingface/diffusers). The keys
of the metadata are those that the configurators of ltx-core in Lightricks/LTX-2 read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from loraloom.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loraloom.core.mix import Shape

Config: TypeAlias = dict[str, Any]
Version: TypeAlias = Literal["2.0", "2.3"]

SCHEDULER: Mapping[str, Any] = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "use_dynamic_shifting": True,
    "base_shift": 0.95,
    "max_shift": 2.05,
    "base_image_seq_len": 1024,
    "max_image_seq_len": 4096,
    "shift_terminal": 0.1,
}

_STREAMS = ("video", "audio")


@dataclass(frozen=True, slots=True)
class Clues:
    """What a file tells of a component: shapes by diffusers' names, and what its metadata says."""

    where: str
    shapes: Mapping[str, Shape]
    said: Mapping[str, Any]

    def has(self, name: str) -> bool:
        return name in self.shapes

    def size(self, name: str, axis: int = 0) -> int:
        """Of one axis of a tensor.

        Raises:
            ModelError: the file has no such tensor, or none with such an axis.
        """
        shape = self.shapes.get(name, ())
        if len(shape) <= axis:
            raise ModelError(f"{self.where} lacks {name} or has it as {list(shape)}")
        return shape[axis]

    def count(self, stem: str) -> int:
        """How many different numbers stand after ``stem``."""
        spelled = re.compile(re.escape(stem) + r"(\d+)\.")
        return len({match[1] for name in self.shapes if (match := spelled.match(name))})


def version(transformer: Mapping[str, Any]) -> Version:
    """Which model a transformer's configuration is of: only 2.3 modulates its cross-attention."""
    return "2.3" if transformer.get("cross_attn_mod") else "2.0"


def transformer(clues: Clues) -> Config:
    """Of the transformer, but for ``vae_scale_factors`` and what the audio VAE tells."""
    said, block = clues.said, "transformer_blocks.0."
    gated = clues.has(f"{block}attn1.to_gate_logits.weight")
    modulated = clues.has(f"{block}prompt_scale_shift_table")
    prompted = clues.has("caption_projection.linear_1.weight")
    frames, height, width = said.get("positional_embedding_max_pos", (20, 2048, 2048))
    caption = clues.size("caption_projection.linear_1.weight", 1) if prompted else None
    return {
        "_class_name": "LTX2VideoTransformer3DModel",
        **_stream(clues, ""),
        **_stream(clues, "audio_"),
        **dict.fromkeys(("gated_attn", "audio_gated_attn"), gated),
        **dict.fromkeys(("cross_attn_mod", "audio_cross_attn_mod"), modulated),
        "perturbed_attn": modulated,
        "use_prompt_embeddings": prompted,
        "caption_channels": caption or said.get("caption_channels", 3840),
        "num_layers": clues.count("transformer_blocks."),
        "pos_embed_max_pos": frames,
        "base_height": height,
        "base_width": width,
        "audio_pos_embed_max_pos": said.get("audio_positional_embedding_max_pos", (20,))[0],
        "ff_bias": clues.has(f"{block}ff.net.2.bias"),
        "audio_ff_bias": clues.has(f"{block}audio_ff.net.2.bias"),
        "norm_eps": said.get("norm_eps", 1e-6),
        "timestep_scale_multiplier": said.get("timestep_scale_multiplier", 1000),
        "cross_attn_timestep_scale_multiplier": said.get("av_ca_timestep_scale_multiplier", 1000),
        **_rope(said),
    }


def _stream(clues: Clues, which: str) -> Config:
    """Channels and heads of the video's stream, or of the sound's where ``which`` is ``audio_``."""
    inside = clues.size(f"{which}proj_in.weight")
    block = f"transformer_blocks.0.{which}"
    heads, width = _heads(clues, f"{block}attn1.", f"{which}num_attention_heads", 32)
    if heads * width != inside:
        raise ModelError(f"{clues.where}: {which}proj_in has {inside} rows, {heads} heads have not")
    return {
        f"{which}in_channels": clues.size(f"{which}proj_in.weight", 1),
        f"{which}out_channels": clues.size(f"{which}proj_out.weight"),
        f"{which}num_attention_heads": heads,
        f"{which}attention_head_dim": width,
        f"{which}cross_attention_dim": clues.size(f"{block}attn2.to_k.weight", 1),
    }


def _heads(clues: Clues, attention: str, key: str, usual: int) -> tuple[int, int]:
    """How many heads and how wide; gates are one for each head."""
    gates = f"{attention}to_gate_logits.weight"
    heads = clues.size(gates) if clues.has(gates) else int(clues.said.get(key, usual))
    return heads, clues.size(f"{attention}to_q.weight") // heads


def _rope(said: Mapping[str, Any]) -> Config:
    return {
        "rope_theta": said.get("positional_embedding_theta", 10000.0),
        "rope_double_precision": said.get("frequencies_precision", "float64") == "float64",
        "rope_type": said.get("rope_type", "split"),
    }


def connectors(clues: Clues) -> Config:
    """Of the text connectors; the metadata is the transformer's."""
    said = clues.said
    each = clues.has("video_text_proj_in.weight")
    wide = clues.size("video_text_proj_in.weight" if each else "text_proj_in.weight", 1)
    channels = said.get("caption_channels", 3840) if each else clues.size("text_proj_in.weight")
    if wide % channels:
        raise ModelError(f"{clues.where}: {wide} text features are no multiple of {channels}")
    hidden = {f"{w}_hidden_dim": clues.size(f"{w}_text_proj_in.weight") for w in _STREAMS if each}
    return {
        "_class_name": "LTX2TextConnectors",
        "caption_channels": channels,
        "text_proj_in_factor": wide // channels,
        "per_modality_projections": each,
        "proj_bias": clues.has("video_text_proj_in.bias" if each else "text_proj_in.bias"),
        **hidden,
        **_connector(clues, "video", "connector_num_attention_heads"),
        **_connector(clues, "audio", "audio_connector_num_attention_heads"),
        "connector_rope_base_seq_len": said.get("connector_positional_embedding_max_pos", (4096,))[
            0
        ],
        **_rope(said),
    }


def _connector(clues: Clues, which: str, key: str) -> Config:
    stem = f"{which}_connector."
    heads, width = _heads(clues, f"{stem}transformer_blocks.0.attn1.", key, 30)
    registers = f"{stem}learnable_registers"
    return {
        f"{which}_connector_num_attention_heads": heads,
        f"{which}_connector_attention_head_dim": width,
        f"{which}_connector_num_layers": clues.count(f"{stem}transformer_blocks."),
        f"{which}_connector_num_learnable_registers": clues.size(registers)
        if clues.has(registers)
        else None,
        f"{which}_gated_attn": clues.has(f"{stem}transformer_blocks.0.attn1.to_gate_logits.weight"),
    }
