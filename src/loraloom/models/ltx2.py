"""LTX-2 and LTX-2.3: one transformer for picture, video and sound, with a text connector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loraloom.core.request import Canvas, Sampling

from .card import Defaults, Family, Guidance

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    defaults=Defaults(
        picture=Canvas(768, 512),
        video=Canvas(768, 512, frames=121),
        sampling=Sampling(steps=30, guidance=3.0),
        negative_prompt="",
        guidance="full",
    ),
)

CLASSIFIER_FREE: Mapping[str, float] = {
    "stg_scale": 0.0,
    "modality_scale": 1.0,
    "guidance_rescale": 0.0,
    "audio_guidance_scale": 1.0,
    "audio_stg_scale": 0.0,
    "audio_modality_scale": 1.0,
    "audio_guidance_rescale": 0.0,
}


def options(guidance: Guidance, scale: float) -> Mapping[str, float]:
    """Arguments of the pipeline's call besides ``guidance_scale``.

    A scale of 1 is no guidance of any kind: one pass a step.
    """
    return {} if guidance == "full" and scale > 1 else CLASSIFIER_FREE
