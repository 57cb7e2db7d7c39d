"""Wan 2.2: one transformer for high noise and one for low; and those with a single one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from loraloom.core.request import Canvas
from loraloom.core.stage import Guidance, Guides, Sigmas, Stage
from loraloom.formats.names import Rename

from .card import PIPELINE, Abilities, Defaults, Family, Grid

if TYPE_CHECKING:
    from loraloom.core.stage import Stages

    from .card import Configs

HIGH, LOW = "transformer", "transformer_2"

FOREIGN = (
    Rename(r"^(transformer\.)?(base_model\.model\.)?(model\.)?diffusion_model\.", ""),
    Rename(r"\bself_attn\b", "attn1"),
    Rename(r"\bcross_attn\b", "attn2"),
    Rename(r"\b(attn[12])\.([qkv])$", r"\1.to_\2"),
    Rename(r"\b(attn[12])\.o$", r"\1.to_out.0"),
    Rename(r"\bffn\.0$", "ffn.net.0.proj"),
    Rename(r"\bffn\.2$", "ffn.net.2"),
    Rename(r"^(text|time)_embedding\.0$", r"condition_embedder.\1_embedder.linear_1"),
    Rename(r"^(text|time)_embedding\.2$", r"condition_embedder.\1_embedder.linear_2"),
    Rename(r"^time_projection\.1$", "condition_embedder.time_proj"),
    Rename(r"^head\.head$", "proj_out"),
)
"""From a layer as Wan's own code spells it to how diffusers does, as its converter pairs them
(``loaders/lora_conversion_utils.py``)."""


def stages(configs: Configs) -> Stages:
    """Both experts where the pipeline names a boundary between them, else the one.

    The numbers are those of the releases (Wan-Video/Wan2.2, ``wan/configs``). An expert boundary
    is no fresh start: the second stage goes on with the noise levels that the first left over.
    """
    boundary = configs(PIPELINE).get("boundary_ratio")
    if not boundary:
        return (Stage("base", Sigmas(50), solver="scheduler", guidance=_guided(5.0)),)
    high = Stage("high", Sigmas(40, until=boundary), 1.0, "scheduler", _guided(4.0), component=HIGH)
    return high, Stage("low", None, 1.0, "scheduler", _guided(3.0), component=LOW)


def _guided(cfg: float) -> Guidance:
    return Guidance(Guides(cfg))


def defaults(configs: Configs) -> Defaults:
    small = Canvas(832, 480, rate=16.0)
    # a model that is told a time for every token is the one of 24 frames a second
    large = Canvas(1280, 704, rate=24.0)
    fine = configs(PIPELINE).get("expand_timesteps")
    picture, frames = (large, 121) if fine else (small, 81)
    return Defaults(
        picture=picture,
        video=replace(picture, frames=frames),
        negative_prompt="",
        pipelines={"one-stage": stages(configs)},
        audio=False,
    )


def grid(configs: Configs) -> Grid:
    """The VAE's compression, of which the transformer takes several places as one token."""
    vae, patch = configs("vae"), configs(HIGH).get("patch_size", (1, 2, 2))
    return Grid(
        pixels=vae.get("scale_factor_spatial", 8) * patch[1],
        frames=vae.get("scale_factor_temporal", 4),
        steps=1,
    )


_PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")

WAN = Family(
    name="wan",
    pipelines=("WanPipeline",),
    parts=(HIGH, LOW, *_PARTS[1:]),
    wears=(HIGH, LOW),
    defaults=defaults,
    grid=grid,
    abilities=Abilities(experts=(HIGH, LOW)),
)
WAN_SINGLE = replace(WAN, parts=_PARTS, wears=(HIGH,), abilities=Abilities())
"""Wan 2.1, and the small Wan 2.2."""
