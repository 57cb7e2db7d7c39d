"""How large and how long a picture or video is, and in how many steps it is made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Canvas:
    """Width and height in pixels, length in frames (1 is a picture), rate in frames per second."""

    width: int
    height: int
    frames: int = 1
    rate: float = 24.0


@dataclass(frozen=True, slots=True)
class Sampling:
    """What to change of the stages: number of steps, scale of classifier-free guidance.

    Steps are for every stage whose noise levels are not given, guidance for every stage that is
    guided; ``None`` leaves them as they are.
    """

    steps: int | None = None
    guidance: float | None = None
