"""What somebody asks for: prompt, seed, size, steps and what to wear, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from .schedule import ALWAYS, Curve

if TYPE_CHECKING:
    from PIL.Image import Image

    from .mix import Scope

Mode: TypeAlias = Literal["live", "fused"]
"""How an adapter is worn: beside the weights, or in them."""

Policy: TypeAlias = Literal["live", "fused", "auto"]
"""How all that a request asks for is worn; under ``auto`` whichever mode costs less time."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How one adapter of a request is worn, and why, in words for a person."""

    mode: Mode
    why: str = "asked for"

    def __str__(self) -> str:
        return f"{self.mode}: {self.why}"


LIVE = Manner("live")


@dataclass(frozen=True, slots=True)
class Lora:
    """An adapter by its name in the catalogue, how strongly, when and where to wear it.

    Attributes:
        curve: a factor of the strength over denoising progress.
        scopes: factors of the strength by patterns of sites.
        manner: how it is worn under the policy ``auto``; ``None`` leaves that open. The policies
            ``live`` and ``fused`` hold for every adapter.
    """

    name: str
    strength: float = 1.0
    curve: Curve = ALWAYS
    scopes: tuple[Scope, ...] = ()
    manner: Manner | None = None


@dataclass(frozen=True, slots=True)
class Canvas:
    """Width and height in pixels, length in frames (1 is a picture), rate in frames per second."""

    width: int
    height: int
    frames: int = 1
    rate: float = 24.0


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the picture is denoised: number of steps, scale of classifier-free guidance."""

    steps: int
    guidance: float


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """An image that the video shows at ``frame`` (negative counts from the end).

    A latent frame after the first spans several frames of the video, and the image stands at the
    first of them: the last frame of 17 means the last latent frame.
    """

    image: Image
    frame: int = 0
    strength: float = 1.0


@dataclass(frozen=True, slots=True)
class Request:
    """One picture or video. ``None`` stands for what the model's card recommends."""

    prompt: str
    seed: int = 0
    loras: tuple[Lora, ...] = ()
    negative_prompt: str | None = None
    canvas: Canvas | None = None
    sampling: Sampling | None = None
    conditions: tuple[Condition, ...] = ()
