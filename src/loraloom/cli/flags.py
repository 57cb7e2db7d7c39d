"""The options of ``loraloom generate``: their types, their spelling, their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from loraloom.core.request import Policy
from loraloom.engine.resources import Offload, Residency

MODEL = "mini"
"""The model that comes with the package."""

Prompts: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(metavar="PROMPT...", help="What to show; several make one batch."),
]
Output: TypeAlias = Annotated[
    Path, typer.Option("-o", "--output", help="The .png, .webp or .mp4 file to write.")
]
Loras: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="NAME[[@COMPONENT]=PATH][:STRENGTH[,STRENGTH]][@FROM-TO]",
        help="Wear this adapter, at one strength or at one for each stage, in a part of denoising "
        "if given (0 to 1); with a path, add its file first. Repeat to mix.",
    ),
]
Seed: TypeAlias = Annotated[
    int | None,
    typer.Option(help="Of the first prompt; the next have the next.", show_default="0"),
]
SizeText: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="WIDTHxHEIGHT", help="In pixels.", show_default="the model's"),
]
Frames: TypeAlias = Annotated[
    int | None, typer.Option(help="Length of a video.", show_default="the model's")
]
Steps: TypeAlias = Annotated[
    int | None, typer.Option(help="Denoising steps.", show_default="the model's")
]
Guidance: TypeAlias = Annotated[
    float | None,
    typer.Option(help="Scale of classifier-free guidance; 1 is none.", show_default="the model's"),
]
Negative: TypeAlias = Annotated[str | None, typer.Option(help="What not to show.")]
Images: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--image",
        metavar="FILE[@FRAME[:STRENGTH]]",
        help="First image of a video; given again, the last one; others with their frame.",
    ),
]
References: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--reference",
        metavar="FILE[@STRENGTH]",
        help="A video or picture that an in-context adapter looks at.",
    ),
]
Downscale: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--reference-downscale",
        help="How many times smaller than the video it is shown.",
        show_default="1",
    ),
]
Pipeline: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="Through which stages: one-stage, two-stage, …", show_default="the model's first"
    ),
]
Audio: TypeAlias = Annotated[
    bool | None,
    typer.Option("--audio/--no-audio", help="Sound with a video.", show_default="the model's"),
]
Model: TypeAlias = Annotated[
    str | None,
    typer.Option(help="A bundled name, a folder or a hub id.", show_default=MODEL),
]
Worn: TypeAlias = Annotated[
    Policy | None,
    typer.Option(
        "--policy",
        help="Wear adapters beside the weights, in them, or whichever is faster.",
        show_default="live",
    ),
]
Alpha: TypeAlias = Annotated[
    float | None, typer.Option(help="Alpha of added files that do not give their own.")
]
AllowPartial: TypeAlias = Annotated[
    bool, typer.Option("--allow-partial", help="Accept added files that fit only in part.")
]
Like: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Make this file again, but for the options that are given."),
]
Device: TypeAlias = Annotated[
    str, typer.Option(metavar="cpu|cuda", help="Where to compute.", show_default=True)
]
Dtype: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="float32|bfloat16|float16",
        help="The type to compute in.",
        show_default="float32 on a CPU, else bfloat16",
    ),
]


def usual_type(device: str) -> str:
    """What a device computes in where nothing is said."""
    return "float32" if device == "cpu" else "bfloat16"


Keeping: TypeAlias = Annotated[
    Residency,
    typer.Option(
        "--residency",
        help="What the stages wear: beside one set of weights, in fused copies on the host, in "
        "fused copies on the device, or the fastest that there is room for.",
    ),
]
Offloading: TypeAlias = Annotated[
    Offload,
    typer.Option(
        "--offload",
        help="Components on the device all the time, from the act before theirs on, in their act "
        "alone, or the fastest.",
    ),
]
