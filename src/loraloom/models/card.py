"""What is known of a model before a weight of it is loaded. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from loraloom.core.request import Canvas, Sampling
from loraloom.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from loraloom.core.mix import Component


Guidance: TypeAlias = Literal["full", "classifier-free"]
"""Which passes guide the main one: all that the family has, or the negative prompt alone."""


@dataclass(frozen=True, slots=True)
class Grid:
    """What the numbers of a request must fit: the VAE's compression, the scheduler's least.

    Attributes:
        pixels: width and height are multiples of it.
        frames: a video has ``k · frames + 1`` frames.
        steps: the fewest steps that the scheduler can place.
    """

    pixels: int
    frames: int
    steps: int

    def latent(self, frame: int) -> int:
        """The latent frame that holds frame ``frame`` of the video; the first holds one alone."""
        return (frame + self.frames - 1) // self.frames


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a request gets that asks for nothing else; ``loraloom.json`` in a model's folder."""

    picture: Canvas
    video: Canvas
    sampling: Sampling
    negative_prompt: str
    guidance: Guidance


@dataclass(frozen=True, slots=True)
class Family:
    """A family of models: how its folders look and how its pipeline is called.

    Attributes:
        name: of the family, e.g. ``ltx2``.
        pipelines: class names that ``model_index.json`` may give; the first runs them all.
        parts: subfolders that a model folder must have.
        wears: the components that adapters can be put on, the main one first.
        defaults: of the released models.
    """

    name: str
    pipelines: tuple[str, ...]
    parts: tuple[str, ...]
    wears: tuple[Component, ...]
    defaults: Defaults


@dataclass(frozen=True, slots=True)
class Card:
    """One model: where it lies, its family, its grid and its defaults.

    Attributes:
        version: tells two states of the folder apart, for the provenance of a picture.
        adapters: folders of the adapters that come with the model, by name.
    """

    name: str
    root: Path
    family: Family
    grid: Grid
    defaults: Defaults
    version: str
    adapters: Mapping[str, Path]

    def check(self, canvas: Canvas) -> None:
        """Whether the VAE can divide ``canvas``.

        Raises:
            InvalidRequestError: it cannot; the message names the nearest sizes that it can.
        """
        grid = self.grid
        for number in (canvas.width, canvas.height, canvas.frames):
            if not isinstance(number, int):
                raise InvalidRequestError(f"a size is {number!r}, want whole numbers")
        for what, size in (("width", canvas.width), ("height", canvas.height)):
            if size < grid.pixels or size % grid.pixels:
                near = max(round(size / grid.pixels), 1) * grid.pixels
                raise InvalidRequestError(
                    f"{what} is {size}, model {self.name!r} wants a multiple of {grid.pixels}, "
                    f"e.g. {near}"
                )
        if canvas.frames < 1 or (canvas.frames - 1) % grid.frames:
            near = max(round((canvas.frames - 1) / grid.frames), 0) * grid.frames + 1
            raise InvalidRequestError(
                f"frames is {canvas.frames}, model {self.name!r} wants a multiple of "
                f"{grid.frames} plus 1, e.g. {near}"
            )
        if not 1 <= canvas.rate <= 60:
            raise InvalidRequestError(f"the frame rate is {canvas.rate}, want 1 to 60 a second")
