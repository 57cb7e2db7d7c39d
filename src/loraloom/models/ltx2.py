"""LTX-2 and LTX-2.3: one transformer for picture, video and sound, with a text connector."""

from __future__ import annotations

from loraloom.core.request import Canvas, Sampling

from .card import Defaults, Family

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
    ),
    options={},
)
