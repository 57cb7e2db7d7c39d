"""What somebody asks for: prompt, seed, size, steps and what to wear, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .canvas import Canvas, Sampling
from .lora import LIVE, Lora, Manner, Mode, Policy

if TYPE_CHECKING:
    from PIL.Image import Image

    from .stage import Stage

__all__ = [
    "LIVE",
    "Canvas",
    "Condition",
    "Lora",
    "Manner",
    "Mode",
    "Origin",
    "Policy",
    "Reference",
    "Request",
    "Sampling",
]


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """An image that the video shows at ``frame`` (negative counts from the end).

    A latent frame after the first spans several frames of the video, and the image stands at the
    first of them: the last frame of 17 means the last latent frame.

    Attributes:
        following: more frames of the video, from the one after the image on, as of a clip that it
            goes on from; those beyond the last whole latent frame are left out.
    """

    image: Image
    frame: int = 0
    strength: float = 1.0
    following: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """A video that an in-context adapter looks at: poses, depths, what is to be sharper.

    Attributes:
        frames: from the first one of the video on, at its rate; what goes beyond its end, or
            beyond the last whole latent frame, is left out.
        strength: how clean it is shown; 1 is without any noise.
        downscale: how many times smaller than the video it is shown, as its adapter was trained.
        attention: how much it and the video see of each other, 0 to 1. Diffusers takes as much
            as ``10000 · (1 - attention)`` off every score: anything that is not almost 1 is 0.
            What is below 1 for one reference also keeps all of them from the images of a request
            and from each other.
    """

    frames: tuple[Image, ...]
    strength: float = 1.0
    downscale: int = 1
    attention: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """A picture that another one is made of, at any size; it fills the canvas, cut at its edges.

    Attributes:
        redrawn: the noise level at which denoising begins, more than 0; at 1 nothing of it shows.
    """

    image: Image
    redrawn: float = 0.6


@dataclass(frozen=True, slots=True)
class Request:
    """One picture or video. ``None`` stands for what the model's card recommends.

    Attributes:
        stages: through which it is denoised; the card's pipelines are such tuples, by name.
        sampling: what to change of them.
        audio: whether sound is made with a video, where the model makes any.
        references: videos to look at, in the stages that see them.
        origin: the picture that a picture is made of (SDEdit, arXiv 2108.01073).
    """

    prompt: str
    seed: int = 0
    loras: tuple[Lora, ...] = ()
    negative_prompt: str | None = None
    canvas: Canvas | None = None
    sampling: Sampling | None = None
    conditions: tuple[Condition, ...] = ()
    stages: tuple[Stage, ...] | None = None
    audio: bool | None = None
    references: tuple[Reference, ...] = ()
    origin: Origin | None = None
