"""The bodies of requests: every field, its type and its range; nothing else is taken."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Prompt = Annotated[str, Field(min_length=1, max_length=4000, pattern=r"\S")]
Size = Annotated[
    str, Field(pattern=r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$", examples=["128x128"])
]


class Strict(BaseModel):
    """Unknown fields, values of another type, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class KnotBody(Strict):
    """A point of a strength's course over denoising progress."""

    progress: float = Field(ge=0, le=1)
    factor: float


class ScopeBody(Strict):
    """A factor for the layers whose names match a shell pattern."""

    pattern: str = Field(min_length=1, max_length=200)
    factor: float


class LoraBody(Strict):
    """An adapter by its name in the catalogue, and how it is worn."""

    name: str = Field(min_length=1, max_length=200)
    scale: float | None = Field(None, description="The adapter's own default where absent.")
    target: str | None = Field(None, max_length=100, description="Only this component wears it.")
    version: str | None = Field(
        None, min_length=4, max_length=64, description="The beginning of the digest that is meant."
    )
    schedule: list[KnotBody] | None = Field(None, min_length=1, max_length=100)
    stages: list[float] | None = Field(
        None, min_length=1, max_length=8, description="A factor of the scale for every stage."
    )
    scopes: list[ScopeBody] | None = Field(None, min_length=1, max_length=100)


Loras = Annotated[list[LoraBody], Field(max_length=64)]
WEARS = Field(
    None,
    description="What is worn: absent is the default mix, an empty list is nothing.",
)


class Look(Strict):
    """What is to be seen, and by which model."""

    prompt: Prompt
    model: str | None = Field(
        None, max_length=300, description="A model's id or base, with :adapter behind it or not."
    )
    negative_prompt: str | None = Field(None, max_length=4000)
    size: Size | None = Field(None, description="Width and height in pixels, e.g. 128x128.")
    seed: Seed | None = Field(None, description="Chosen, and answered, where absent.")


class Making(Strict):
    """How it is made."""

    pipeline: str | None = Field(None, max_length=100)
    steps: int | None = Field(None, ge=1, le=1000)
    guidance_scale: float | None = Field(None, ge=1, le=100)
    loras: Loras | None = WEARS
    timeout: float | None = Field(None, gt=0, description="Seconds, waiting and running.")


class Wanted(Look, Making):
    """What every body says that asks for pictures or a video."""


class Delivery(Strict):
    """How pictures come back."""

    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: int | None = Field(None, ge=0, le=100)
    stream: bool | None = None
    partial_images: Literal[0] | None = None
    later: bool = Field(
        default=False,
        alias="async",
        description="Answer 202 with a job at once, and make it meanwhile.",
    )


class Accepted(Strict):
    """Fields of OpenAI's own models, taken as far as they change nothing."""

    quality: Literal["auto", "standard"] | None = None
    style: Literal["vivid", "natural"] | None = None
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto", "low"] | None = None
    user: str | None = Field(None, max_length=1000)


class ImageBody(Wanted, Delivery, Accepted):
    """``POST /v1/images/generations``."""

    n: int | None = Field(None, ge=1, le=64)
    mixes: Annotated[list[Loras], Field(min_length=1, max_length=64)] | None = Field(
        None, description="One picture for each, of one seed; instead of loras and n."
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.mixes is not None and (self.loras is not None or self.n not in {None, 1}):
            raise ValueError("mixes stands for loras and n, want it alone")
        if self.output_compression is not None and self.output_format in {None, "png"}:
            raise ValueError("output_compression is for jpeg and webp, png has none")
        if self.stream and self.later:
            raise ValueError("stream and async are two ways to wait, want one of them")
        return self


class EditBody(ImageBody):
    """``POST /v1/images/edits``, beside the picture itself."""

    strength: float | None = Field(
        None, gt=0, le=1, description="How much is redrawn, 0.6 where absent."
    )
    input_fidelity: Literal["low", "high"] | None = None


class Pixels(Strict):
    """A picture inside a JSON body."""

    b64_json: str = Field(min_length=1)


MOST_FRAMES = 10_000
"""Of the longest video that can be asked for; what a server makes is less."""


class Clip(Strict):
    """How long a video is, what it begins and ends with, and whether it sounds."""

    seconds: str | float | None = Field(None, description="The nearest length there is is made.")
    frames: int | None = Field(None, ge=2, le=MOST_FRAMES, description="Instead of seconds.")
    fps: float | None = Field(None, ge=1, le=60)
    audio: bool | None = None
    input_reference: Pixels | str | None = Field(
        None, description="The first image: a file part, or in JSON b64_json or a data URL."
    )
    last_image: Pixels | str | None = Field(None, description="The last image, likewise.")


class VideoBody(Wanted, Clip):
    """``POST /v1/videos``."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.seconds is not None and self.frames is not None:
            raise ValueError("seconds and frames both say how long it is, want one of them")
        return self
