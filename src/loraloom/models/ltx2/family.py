"""LTX-2 and LTX-2.3: one transformer for picture, video and sound, with a text connector."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from loraloom.core.request import Canvas, Lora
from loraloom.core.stage import Guidance, Guides, Sigmas, Stage
from loraloom.models.card import Abilities, Defaults, Family, Grid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loraloom.core.stage import Stages
    from loraloom.models.card import Configs

DISTILLED = "distilled"
"""The adapter that makes few steps without guidance enough."""

FEW = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875)
"""Noise levels that the distilled models are trained for (diffusers/pipelines/ltx2/utils.py)."""

REFINE = Stage("refine", Sigmas(given=FEW[-3:]), wears=(Lora(DISTILLED),))
"""Three steps at full size from the enlarged latents, without guidance or references."""


def pipelines(config: Mapping[str, Any]) -> dict[str, Stages]:
    """The recipes of a transformer's configuration, by name.

    Both versions are guided alike, but that the older one has no perturbed pass. LTX-2.3 shifts
    its noise levels as for the most tokens, 4096, whatever the size, LTX-2 as for the tokens that
    it has (Lightricks/LTX-2, ltx-pipelines).
    """
    newer = bool(config.get("cross_attn_mod"))
    perturbed = bool(config.get("perturbed_attn"))
    video = Guides(cfg=3.0, stg=1.0 if perturbed else 0.0, modality=3.0, rescale=0.7)
    guidance = Guidance(video, replace(video, cfg=7.0), blocks=(28,) if perturbed else ())
    base = Stage(
        "base", Sigmas(30, tokens="most" if newer else "own"), guidance=guidance, references=True
    )
    lightly = replace(video, stg=0.0, rescale=0.45)
    fine = Guidance(lightly, replace(lightly, cfg=7.0))
    return {
        "one-stage": (base,),
        "two-stage": (replace(base, size=0.5), REFINE),
        "two-stage-hq": (
            Stage("base", Sigmas(15), 0.5, "res2s", fine, worn(0.25), references=True),
            replace(REFINE, solver="res2s", wears=worn(0.5)),
        ),
        "distilled": (
            Stage("base", Sigmas(given=FEW), 0.5, wears=worn(1.0), references=True),
            REFINE,
        ),
    }


def worn(strength: float) -> tuple[Lora, ...]:
    return (Lora(DISTILLED, strength),)


def defaults(configs: Configs) -> Defaults:
    return Defaults(
        picture=Canvas(768, 512),
        video=Canvas(768, 512, frames=121),
        negative_prompt="",
        pipelines=pipelines(configs("transformer")),
    )


def grid(configs: Configs) -> Grid:
    """The VAE's compression as its class computes it, of which pipelines want 32 at least."""
    vae = configs("vae")
    halvings = sum(vae.get("spatio_temporal_scaling", (True, True, True)))
    pixels = vae.get("spatial_compression_ratio") or vae.get("patch_size", 4) * 2**halvings
    frames = vae.get("temporal_compression_ratio") or vae.get("patch_size_t", 1) * 2**halvings
    # stretching the sigmas to a terminal value divides by what one step leaves: zero
    steps = 2 if configs("scheduler").get("shift_terminal") else 1
    return Grid(pixels=max(pixels, 32), frames=frames, steps=steps)


LTX2 = Family(
    name="ltx2",
    pipelines=("LTX2Pipeline", "LTX2ImageToVideoPipeline", "LTX2ConditionPipeline"),
    parts=(
        "transformer",
        "vae",
        "connectors",
        "text_encoder",
        "tokenizer",
        "scheduler",
        "audio_vae",
        "vocoder",
    ),
    wears=("transformer", "connectors"),
    defaults=defaults,
    grid=grid,
    abilities=Abilities(
        passes=("prompt", "negative", "perturbed", "isolated"),
        enlarging="upsampler",
        images=True,
        sound=True,
        edits=True,
    ),
)
