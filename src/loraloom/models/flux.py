"""FLUX.1: one transformer for pictures, told its guidance or made for few steps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from loraloom.core.request import Canvas
from loraloom.core.stage import Guidance, Sigmas, Stage

from .card import Abilities, Defaults, Family, Grid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loraloom.core.stage import Stages

    from .card import Configs

ENLARGED = (0.5, 0.4, 0.3, 0.2, 0.1)
"""Noise levels at which an enlarged picture gets its details and keeps its composition."""


def pipelines(configs: Configs) -> Mapping[str, Stages]:
    """FLUX.1-dev is told a scale of guidance and takes 28 steps, FLUX.1-schnell none and 4.

    (black-forest-labs/flux, the examples of both models in diffusers.)
    """
    told = bool(configs("transformer").get("guidance_embeds"))
    guidance = Guidance(embedded=3.5 if told else None)
    base = Stage("base", Sigmas(28 if told else 4), guidance=guidance)
    refine = Stage("refine", Sigmas(given=ENLARGED), guidance=guidance)
    return {"one-stage": (base,), "two-stage": (replace(base, size=0.5), refine)}


def defaults(configs: Configs) -> Defaults:
    return Defaults(
        picture=Canvas(1024, 1024),
        video=Canvas(1024, 1024),
        negative_prompt="",
        pipelines=pipelines(configs),
        audio=False,
    )


def grid(configs: Configs) -> Grid:
    """The VAE's compression, of which two by two places are one token."""
    levels = configs("vae").get("block_out_channels", (128, 256, 512, 512))
    return Grid(pixels=2 * 2 ** (len(levels) - 1), frames=0, steps=1)


FLUX = Family(
    name="flux",
    pipelines=("FluxPipeline",),
    parts=(
        "transformer",
        "vae",
        "text_encoder",
        "tokenizer",
        "text_encoder_2",
        "tokenizer_2",
        "scheduler",
    ),
    wears=("transformer",),
    defaults=defaults,
    grid=grid,
    abilities=Abilities(enlarging="pixels", edits=True),
)
