"""What is known of a model before a weight of it is loaded. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import log2
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from loraloom.core.request import Canvas
from loraloom.core.stage import Stage, Stages
from loraloom.errors import InvalidRequestError, InvalidStageError, closest, hint

if TYPE_CHECKING:
    from pathlib import Path

    from loraloom.core.mix import Component
    from loraloom.core.request import Request
    from loraloom.core.stage import Pass

Configs: TypeAlias = Callable[[str], Mapping[str, Any]]
"""What the configuration of a component says; ``PIPELINE`` is that of the whole."""

PIPELINE = "pipeline"

Enlarging: TypeAlias = Literal["upsampler", "pixels", "none"]
"""How latents become larger between stages: a model of its own, the VAE there and back, not."""


@dataclass(frozen=True, slots=True)
class Grid:
    """What the numbers of a request must fit: the VAE's compression, the scheduler's least.

    Attributes:
        pixels: width and height are multiples of it.
        frames: a video has ``k · frames + 1`` frames; 0 is a model that makes pictures alone.
        steps: the fewest steps that the scheduler can place.
    """

    pixels: int
    frames: int
    steps: int

    def latent(self, frame: int) -> int:
        """The latent frame that holds frame ``frame`` of the video; the first holds one alone."""
        return (frame + self.frames - 1) // self.frames if frame else 0


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a request gets that asks for nothing else; ``loraloom.json`` in a model's folder.

    Attributes:
        pipelines: the stages that a model can be run through, by name, the usual ones first.
        audio: whether videos have sound.
    """

    picture: Canvas
    video: Canvas
    negative_prompt: str
    pipelines: Mapping[str, tuple[Stage, ...]]
    audio: bool = True

    @property
    def usual(self) -> Stages:
        """The stages of a request that names no pipeline."""
        return next(iter(self.pipelines.values()))

    def pipeline(self, name: str) -> Stages:
        """The stages of that name.

        Raises:
            InvalidStageError: there are none; the message names those that there are.
        """
        if name not in self.pipelines:
            near = hint(closest(name, self.pipelines), self.pipelines)
            raise InvalidStageError(f"pipeline {name!r} is not known{near}")
        return self.pipelines[name]


@dataclass(frozen=True, slots=True)
class Abilities:
    """What requests may ask of a family.

    Attributes:
        passes: the predictions that its denoiser makes.
        experts: the components that a stage can be denoised by, the main one first.
        images: whether a video can be held to images.
        sound: whether it makes any.
        edits: whether it makes a picture of another one.
    """

    passes: tuple[Pass, ...] = ("prompt", "negative")
    experts: tuple[Component, ...] = ("transformer",)
    enlarging: Enlarging = "none"
    images: bool = False
    sound: bool = False
    edits: bool = False


@dataclass(frozen=True, slots=True)
class Family:
    """A family of models: how its folders look and how its pipeline is called.

    Attributes:
        name: of the family, e.g. ``ltx2``.
        pipelines: class names that ``model_index.json`` may give; the first runs them all.
        parts: subfolders that a model folder must have.
        wears: the components that adapters can be put on, the main one first.
        defaults: of the released models, by their configurations.
        grid: of a model, by its configurations.
    """

    name: str
    pipelines: tuple[str, ...]
    parts: tuple[str, ...]
    wears: tuple[Component, ...]
    defaults: Callable[[Configs], Defaults]
    grid: Callable[[Configs], Grid]
    abilities: Abilities = Abilities()


@dataclass(frozen=True, slots=True)
class Card:
    """One model: where it lies, its family, its grid and its defaults.

    Attributes:
        version: tells two states of the folder apart, for the provenance of a picture.
        adapters: folders or files of the adapters that come with the model, by name.
        config: of its main component.
        upsampler: where what enlarges latents between stages lies, if it is there.
    """

    name: str
    root: Path
    family: Family
    grid: Grid
    defaults: Defaults
    version: str
    adapters: Mapping[str, Path]
    config: Mapping[str, Any] = field(default_factory=dict)
    upsampler: Path | None = None

    def check(self, canvas: Canvas, whose: str = "") -> None:
        """Whether the VAE can divide ``canvas``, of the whole video or of ``whose``.

        Raises:
            InvalidRequestError: it cannot; the message names the nearest sizes that it can.
        """
        grid, of = self.grid, f" of {whose}" if whose else ""
        for number in (canvas.width, canvas.height, canvas.frames):
            if not isinstance(number, int):
                raise InvalidRequestError(f"a size is {number!r}, want whole numbers")
        for what, size in (("width", canvas.width), ("height", canvas.height)):
            if size < grid.pixels or size % grid.pixels:
                near = max(round(size / grid.pixels), 1) * grid.pixels
                raise InvalidRequestError(
                    f"{what}{of} is {size}, model {self.name!r} wants a multiple of {grid.pixels}, "
                    f"e.g. {near}"
                )
        self._check_frames(canvas.frames)
        if not isinstance(canvas.rate, int | float) or not 1 <= canvas.rate <= 60:
            raise InvalidRequestError(f"the frame rate is {canvas.rate!r}, want 1 to 60 a second")

    def _check_frames(self, frames: int) -> None:
        step = self.grid.frames
        if not step and frames != 1:
            raise InvalidRequestError(
                f"frames is {frames}, model {self.name!r} makes pictures alone and wants 1"
            )
        if step and (frames < 1 or (frames - 1) % step):
            near = max(round((frames - 1) / step), 0) * step + 1
            raise InvalidRequestError(
                f"frames is {frames}, model {self.name!r} wants a multiple of {step} plus 1, "
                f"e.g. {near}"
            )

    def check_video(self, canvas: Canvas) -> None:
        """Whether ``canvas`` is that of a video, and the model makes any.

        Raises:
            InvalidRequestError: one of them is not so.
        """
        if not self.grid.frames:
            raise InvalidRequestError(
                f"a video is asked for, model {self.name!r} makes pictures alone"
            )
        if canvas.frames == 1:
            raise InvalidRequestError("frames is 1, a video wants several")

    def check_asked(self, request: Request) -> None:
        """Whether models of the family can do what ``request`` asks for beside a prompt.

        Raises:
            InvalidRequestError: it brings images or wants sound, and they know of none.
        """
        able, who = self.family.abilities, f"model {self.name!r} of family {self.family.name}"
        if request.conditions and not able.images:
            count = len(request.conditions)
            given = "1 image is" if count == 1 else f"{count} images are"
            raise InvalidRequestError(f"{given} given to start from, {who} takes none")
        if request.origin and not able.edits:
            raise InvalidRequestError(f"a picture is given to make another of, {who} cannot")
        if request.audio and not able.sound:
            raise InvalidRequestError(f"sound is asked for, {who} makes none")

    def check_stages(self, stages: Stages) -> None:
        """Whether the denoiser has the components and the passes that ``stages`` name.

        Raises:
            InvalidStageError: it has not.
        """
        able, who = self.family.abilities, f"model {self.name!r} of family {self.family.name}"
        for stage in stages:
            if stage.component not in (None, *able.experts):
                raise InvalidStageError(
                    f"stage {stage.name!r} is denoised by {stage.component!r}, {who} has "
                    f"{', '.join(able.experts)}"
                )
            strange = sorted(stage.guidance.passes.difference(able.passes))
            if strange:
                raise InvalidStageError(
                    f"the guidance of stage {stage.name!r} wants the pass {', '.join(strange)}, "
                    f"{who} has {', '.join(able.passes)}"
                )
            if stage.guidance.embedded is not None and not self.config.get("guidance_embeds"):
                raise InvalidStageError(
                    f"stage {stage.name!r} has an embedded guidance of "
                    f"{stage.guidance.embedded:g}, {who} has no place for one"
                )
        self._check_blocks(stages)

    def check_enlarging(self, before: Stage, stage: Stage) -> None:
        """Whether what one stage made can be enlarged for the next.

        Raises:
            InvalidStageError: the family cannot, or by an upsampler that takes powers of two.
        """
        how = self.family.abilities.enlarging
        if how == "pixels":
            return
        if how == "none":
            raise InvalidStageError(
                f"stage {stage.name!r} is larger than {before.name!r}, model {self.name!r} of "
                f"family {self.family.name} wants one size"
            )
        ratio = stage.size / before.size
        if not log2(ratio).is_integer():
            raise InvalidStageError(
                f"stage {stage.name!r} is {ratio:g} times as large as {before.name!r}, want 2, 4, …"
            )

    def _check_blocks(self, stages: Stages) -> None:
        """Whether the transformer has the blocks that stages skip the attention of.

        Raises:
            InvalidStageError: it has not, or cannot skip any; the pass would be as the main one.
        """
        count = self.config.get("num_layers", 0)
        for stage in stages:
            if "perturbed" not in stage.guidance.passes:
                continue
            if not self.config.get("perturbed_attn"):
                raise InvalidStageError(
                    f"stage {stage.name!r} is to skip attention (stg), which model {self.name!r} "
                    "cannot"
                )
            if not stage.guidance.blocks:
                raise InvalidStageError(
                    f"stage {stage.name!r} is to skip attention (stg) and names no block"
                )
            for block in stage.guidance.blocks:
                if not 0 <= block < count:
                    raise InvalidStageError(
                        f"stage {stage.name!r} skips attention in block {block}, model "
                        f"{self.name!r} has blocks 0 to {count - 1}"
                    )
