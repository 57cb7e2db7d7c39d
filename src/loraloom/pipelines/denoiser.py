"""What the components of a family do in a run, behind one face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch
from torch import Generator, Tensor, nn

from loraloom.core.stage import Modality

if TYPE_CHECKING:
    from PIL.Image import Image

    from loraloom.core.request import Canvas, Request
    from loraloom.core.stage import Pass, Stage, Stages
    from loraloom.models.card import Card

    from .samplers import Streams
    from .sound import Sound

Latents: TypeAlias = Mapping[Modality, Tensor]
"""What a stage leaves: ``video`` ``[rows, channels, frames, height, width]`` and, where it is made,
``audio`` ``[rows, channels, length, bins]``, both as their VAEs take them."""


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """One modality of a batch at the beginning of a stage, in tokens.

    Attributes:
        tokens: ``[rows, tokens, channels]``, float32, noise and all.
        coords: of every token, as the model's positions want them.
        clean: what the tokens that conditions hold become; ``None`` where there are none.
        mask: ``[rows, tokens, 1]``, how far they are held: 0 is denoised, 1 is kept.
        real: ``[rows, tokens, 1]``, 0 where a shorter row is filled up; ``None`` where none is.
    """

    tokens: Tensor
    coords: Tensor
    clean: Tensor | None = None
    mask: Tensor | None = None
    real: Tensor | None = None

    def held(self, x0: Tensor) -> Tensor:
        """A prediction with the conditions in it."""
        if self.mask is None or self.clean is None:
            return x0
        return x0 * (1 - self.mask) + self.clean * self.mask


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A stage about to be denoised: where it begins, and what the passes are told.

    Attributes:
        streams: by modality.
        text: by pass, what the text encoder and connectors made of the prompts.
        shape: latent frames, height and width of the video.
    """

    streams: Mapping[Modality, Stream]
    text: Mapping[Pass, Any]
    shape: tuple[int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A batch in a run: requests that agree in canvas and sound, each with its own noise.

    ``text`` is what the text encoder made of their prompts, by pass.
    """

    requests: Sequence[Request]
    draws: Sequence[Generator]
    text: Mapping[Pass, Any]

    @property
    def canvas(self) -> Canvas:
        canvas = self.requests[0].canvas
        assert canvas
        return canvas

    @property
    def audio(self) -> bool:
        return bool(self.requests[0].audio)


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """Where a prediction is made: noise level and time ``[rows]``, the stage, and its passes."""

    sigma: Tensor
    time: Tensor
    stage: Stage
    passes: frozenset[Pass]


class Denoiser(Protocol):
    """A family's components at work; latents are float32, on the device of the components."""

    @property
    def scheduler(self) -> Any:
        """As the model comes with it."""

    @property
    def components(self) -> Mapping[str, nn.Module]:
        """All that have weights, by name."""

    def ready(self, stages: Stages) -> None:
        """Load what these stages take beside the components that are there.

        Raises:
            ModelError: its files are broken.
        """

    def encode(self, requests: Sequence[Request], passes: frozenset[Pass]) -> Mapping[Pass, Any]:
        """What the text encoder makes of the prompts, for the passes that need one of their own."""

    def originals(self, images: Sequence[Image], canvas: Canvas) -> Latents:
        """What pictures are as latents of a canvas of one frame, which they fill."""

    def enter(self, stage: Stage, call: Call, before: Latents, start: float) -> Scene:
        """The scene of a stage whose latents begin with ``start`` of noise in what was before."""

    def size(self, canvas: Canvas) -> tuple[int, int]:
        """Latent height and width."""

    def counts(self, scene: Scene) -> Sequence[int]:
        """How many tokens every row has, as the shift of noise levels counts them."""

    def predict(self, scene: Scene, tokens: Streams, at: Moment) -> Mapping[Pass, Streams]:
        """By pass, the velocity of every stream, float32."""

    def leave(self, scene: Scene, tokens: Streams) -> Latents:
        """What the tokens of a scene that is over are."""

    def enlarge(self, before: Latents, to: tuple[int, int]) -> Latents:
        """The same at another latent height and width."""

    def frames(self, video: Tensor) -> tuple[Image, ...]:
        """The pictures of one ``[channels, frames, height, width]`` latent."""

    def sound(self, audio: Tensor) -> Sound:
        """What one ``[channels, length, bins]`` latent sounds like."""


def weighted(pipe: Any) -> dict[str, nn.Module]:
    """The components of a pipeline of diffusers that have weights, by name."""
    parts = pipe.components.items()
    return {name: part for name, part in parts if isinstance(part, nn.Module)}


class Piped:
    """What the denoisers have in common whose stages take the components of a pipeline alone.

    Args:
        pipe: of diffusers.
    """

    def __init__(self, _card: Card, pipe: Any) -> None:
        self.pipe = pipe

    @property
    def scheduler(self) -> Any:
        return self.pipe.scheduler

    @property
    def components(self) -> Mapping[str, nn.Module]:
        return weighted(self.pipe)

    def ready(self, stages: Stages) -> None:
        """Every stage takes the components that are there."""


def prompts(requests: Sequence[Request], passes: frozenset[Pass]) -> dict[Pass, list[str]]:
    """The texts of the passes that have one of their own."""
    asked: dict[Pass, list[str]] = {"prompt": [each.prompt for each in requests]}
    if "negative" in passes:
        asked["negative"] = [each.negative_prompt or "" for each in requests]
    return asked


def noise(draws: Sequence[Generator], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Standard normal numbers, float32, for every row from its own generator.

    They are drawn where the generator is, so that a seed means the same on every device.
    """
    return [
        torch.randn((1, *shape), generator=draw, dtype=torch.float32)
        for draw, shape in zip(draws, shapes, strict=True)
    ]


def pack(latents: Tensor) -> Tensor:
    """``[rows, channels, frames, height, width]`` as tokens ``[rows, tokens, channels]``."""
    return latents.flatten(2).transpose(1, 2)


def unpack(tokens: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The other way, of the tokens of the video itself: what conditions added is left out."""
    frames, height, width = shape
    own = tokens[:, : frames * height * width].transpose(1, 2)
    return own.reshape(*own.shape[:2], *shape)
