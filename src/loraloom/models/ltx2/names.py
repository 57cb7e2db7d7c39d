"""How the released files of LTX-2 and LTX-2.3 spell what diffusers calls otherwise.

The original names are those of ltx-core in Lightricks/LTX-2, which ComfyUI shares; the names that
they become are diffusers', as its own converters pair them
(``scripts/convert_ltx2_to_diffusers.py`` and ``loaders/lora_conversion_utils.py``).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from loraloom.formats.names import Rename, renamed

if TYPE_CHECKING:
    from collections.abc import Iterable

MODEL = "model.diffusion_model."
"""What stands before the transformer's tensors in a released checkpoint, and the connectors'."""

FOREIGN = (
    Rename(r"^(transformer\.)?(base_model\.model\.)?(model\.)?diffusion_model\.", ""),
    Rename(r"^transformer\.(base_model\.model\.)?|^base_model\.model\.", ""),
    Rename(r"^(audio_)?patchify_proj\b", r"\1proj_in"),
    Rename(r"^(audio_)?adaln_single\b", r"\1time_embed"),
    Rename(r"^(audio_)?prompt_adaln_single\b", r"\1prompt_adaln"),
    Rename(r"^av_ca_(video|audio)_scale_shift_adaln_single\b", r"av_cross_attn_\1_scale_shift"),
    Rename(r"^av_ca_a2v_gate_adaln_single\b", "av_cross_attn_video_a2v_gate"),
    Rename(r"^av_ca_v2a_gate_adaln_single\b", "av_cross_attn_audio_v2a_gate"),
    Rename(r"\bscale_shift_table_a2v_ca_(video|audio)\b", r"\1_a2v_cross_attn_scale_shift_table"),
    Rename(r"\b([qk])_norm\b", r"norm_\1"),
    Rename(r"^(video|audio)_embeddings_connector\b", r"connectors.\1_connector"),
    Rename(
        r"^text_embedding_projection\.(video_|audio_)?aggregate_embed\b",
        r"connectors.\1text_proj_in",
    ),
    Rename(r"\btransformer_1d_blocks\b", "transformer_blocks"),
)
"""From a layer or tensor of the transformer or the connectors to how diffusers spells it."""

STATISTICS = (
    Rename(r"^per_channel_statistics\.mean-of-means$", "latents_mean"),
    Rename(r"^per_channel_statistics\.std-of-means$", "latents_std"),
)
VAE = (*STATISTICS, Rename(r"\bres_blocks\b", "resnets"))
VOCODER = (
    Rename(r"\bups\b", "upsamplers"),
    Rename(r"\bresblocks\b", "resnets"),
    Rename(r"\bconv_pre\b", "conv_in"),
    Rename(r"\bconv_post\b", "conv_out"),
    Rename(r"\bact_post\b", "act_out"),
    Rename(r"\bdownsample\.lowpass\b", "downsample"),
)

UNUSED = re.compile(r"vae\.per_channel_statistics\.(channel|mean-of-stds.*)")
"""Statistics that were of use in training alone."""

_CONNECTORS = re.compile(
    rf"({re.escape(MODEL)}(video|audio)_embeddings_connector|text_embedding_projection)\."
)
_BLOCK = re.compile(r"^(?P<side>encoder\.down|decoder\.up)_blocks\.(?P<number>\d+)\.(?P<rest>.+)")


def part(key: str) -> str | None:
    """The component that a tensor of a released checkpoint belongs to, or None."""
    if _CONNECTORS.match(key):
        return "connectors"
    if key.startswith(MODEL):
        return "transformer"
    first = key.partition(".")[0]
    return first if first in ("vae", "audio_vae", "vocoder") else None


def names(keys: Iterable[str], of: str) -> dict[str, str]:
    """Those of a released checkpoint's ``keys`` that component ``of`` has, by diffusers' names."""
    own = [key for key in keys if part(key) == of and not UNUSED.fullmatch(key)]
    if of in ("transformer", "connectors"):
        return {renamed(key, FOREIGN).removeprefix("connectors."): key for key in own}
    bare = {key.removeprefix(f"{of}."): key for key in own}
    if of == "vae":
        deepest = max((n for name in bare if (n := _number(name)) is not None), default=0)
        return {_in_levels(renamed(name, VAE), deepest): key for name, key in bare.items()}
    rules = VOCODER if of == "vocoder" else STATISTICS
    return {renamed(name, rules): key for name, key in bare.items()}


def _number(name: str) -> int | None:
    match = _BLOCK.match(name)
    return int(match["number"]) if match and match["side"] == "encoder.down" else None


def _in_levels(name: str, deepest: int) -> str:
    """A block by its level: the original counts residual blocks and samplers in one row.

    Residual blocks have the even numbers. The deepest of them are diffusers' ``mid_block``: the
    encoder's last ones, ``deepest``, and the decoder's first.
    """
    match = _BLOCK.match(name)
    if match is None:
        return name
    side, number, rest = match["side"], int(match["number"]), match["rest"]
    encodes = side == "encoder.down"
    if number == (deepest if encodes else 0):
        return f"{side.partition('.')[0]}.mid_block.{rest}"
    level = number // 2 if encodes else (number - 1) // 2
    sampler = f"{side.partition('.')[2]}samplers.0." if number % 2 else ""
    return f"{side}_blocks.{level}.{sampler}{rest}"
