"""From options to requests: what is asked for, what a file that is remade says, what is default."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from loraloom.core.request import (
    Canvas,
    Condition,
    Lora,
    Policy,
    Reference,
    Request,
    Sampling,
)
from loraloom.errors import InvalidRequestError

from .options import Size

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from loraloom.core.provenance import Provenance, Worn
    from loraloom.core.stage import Stages
    from loraloom.engine.wishes import Wish
    from loraloom.models.card import Defaults
    from loraloom.pipelines.media import Kind

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Look:
    """The options about the picture; ``None`` where none was given."""

    seed: int | None
    negative: str | None
    size: Size | None
    frames: int | None
    pipeline: str | None
    sampling: Sampling
    audio: bool | None


@dataclass(frozen=True, slots=True, eq=False)
class Still:
    """One ``--image``; ``frame`` and ``strength`` are ``None`` where none was given."""

    image: Image
    frame: int | None = None
    strength: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Glance:
    """One ``--reference``; ``None`` where nothing is said of how it is shown."""

    frames: tuple[Image, ...]
    strength: float | None = None
    downscale: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """Everything that the command line says about what to make.

    Attributes:
        images: those without a frame are at most two, at the start and at the end of a video.
        like: how the file of ``--like`` was made; what is not given is taken from it.
    """

    prompts: tuple[str, ...]
    wishes: tuple[Wish, ...]
    look: Look
    kind: Kind
    images: tuple[Still, ...]
    references: tuple[Glance, ...]
    like: Provenance | None

    @property
    def all_prompts(self) -> tuple[str, ...]:
        if self.prompts or self.like is None:
            return self.prompts
        return (self.like.asked.prompt,)

    @property
    def kept(self) -> tuple[Worn, ...]:
        """What the remade file wore and is to be worn again, at whatever strength."""
        gone = {wish.name for wish in self.wishes if wish.strengths == (0.0,)}
        again = self.look.pipeline is None
        return tuple(
            worn
            for worn in (self.like.worn if self.like else ())
            if worn.name not in gone and (worn.by == "request" or again)
        )


def check(order: Order, output: Path) -> None:
    """Return if the options agree with each other, as far as that shows without a model.

    Raises:
        InvalidRequestError: they do not.
    """
    if not order.all_prompts:
        raise InvalidRequestError("there is no prompt, give one or --like FILE")
    for prompt in order.all_prompts:
        if not prompt.strip():
            raise InvalidRequestError("a prompt is empty")
    frames = _frames(order)
    if frames is not None and frames < 1:
        raise InvalidRequestError(f"--frames is {frames}, want 1 or more")
    if frames is not None and (frames > 1) != (order.kind == "video"):
        raise InvalidRequestError(f"{output} is a {order.kind}, and {frames} frames are not")
    if order.images and order.kind == "picture":
        raise InvalidRequestError(f"--image is for videos, and {output} is a picture")
    plain = sum(still.frame is None for still in order.images)
    if plain > 2 and not (order.like and order.like.asked.images):
        raise InvalidRequestError(
            f"--image is given {plain} times without a frame, want the first image and at most "
            "the last, and others as FILE@FRAME"
        )
    if order.like and len(order.references) < (seen := len(order.like.asked.references)):
        raise InvalidRequestError(
            f"the video of --like was made from {seen} references, give as many with --reference"
        )
    if order.like and order.like.asked.origin:
        raise InvalidRequestError(
            "the picture of --like was made of another picture, which a server takes and --like "
            "cannot give it again"
        )
    if order.like and len(order.images) != (shown := len(order.like.asked.images)) and shown:
        raise InvalidRequestError(
            f"the video of --like was made from {shown} images, give as many with --image"
        )


def requests(order: Order, defaults: Defaults) -> list[Request]:
    """One request a prompt, with ``defaults`` where nothing is said; the seed counts up."""
    asked = order.like.asked if order.like else None
    look = order.look
    first = _given(look.seed, asked.seed if asked else 0)
    usual = defaults.negative_prompt
    negative = _given(look.negative, asked.negative_prompt if asked else usual)
    stages = stages_of(order, defaults)
    return [
        Request(
            prompt=prompt,
            seed=first + index,
            loras=loras(order, stages),
            negative_prompt=negative,
            canvas=canvas_of(order, defaults),
            sampling=look.sampling,
            conditions=conditions(order),
            references=references(order),
            stages=stages,
            audio=_given(look.audio, asked.audio if asked else defaults.audio),
        )
        for index, prompt in enumerate(order.all_prompts)
    ]


def stages_of(order: Order, defaults: Defaults) -> Stages:
    """Those of the pipeline that is named, of the remade file, or of the model.

    Raises:
        InvalidStageError: the model has no pipeline of that name.
    """
    if order.look.pipeline is not None:
        return defaults.pipeline(order.look.pipeline)
    return order.like.asked.stages if order.like else defaults.usual


def canvas_of(order: Order, defaults: Defaults) -> Canvas:
    """The canvas of the remade file or of the model, with the size and length that are given."""
    usual = defaults.video if order.kind == "video" else defaults.picture
    base = order.like.asked.canvas if order.like else usual
    size = order.look.size or Size(base.width, base.height)
    frames = _given(order.look.frames, base.frames)
    return replace(base, width=size.width, height=size.height, frames=frames)


def loras(order: Order, stages: Stages) -> tuple[Lora, ...]:
    """What the remade file wore, changed and extended by ``--lora``; 0 takes an adapter off.

    What ``stages`` bring is only taken off by naming it at 0.
    """
    like = order.like
    own = {lora.name for stage in stages for lora in stage.wears}
    # what the policy auto chose for the remade file is not chosen again
    chosen = like is not None and like.policy == "auto"
    wears = {
        each.name: Lora(
            each.name,
            each.strength,
            each.curve,
            each.scopes,
            each.manner if chosen else None,
            each.stages,
            each.target,
        )
        for each in _worn_by_request(order)
    }
    for wish in order.wishes:
        wears[wish.name] = wish.worn(wears.get(wish.name))
    return tuple(lora for lora in wears.values() if lora.strength or lora.name in own)


def _worn_by_request(order: Order) -> tuple[Worn, ...]:
    """What the remade file wore, but for what its stages brought: they bring it again.

    Of another pipeline nothing of that is said.
    """
    like = order.like
    if like is None:
        return ()
    own = {lora.name for stage in like.asked.stages for lora in stage.wears}
    gone = own if order.look.pipeline is not None else set()
    return tuple(worn for worn in like.worn if worn.by == "request" and worn.name not in gone)


def references(order: Order) -> tuple[Reference, ...]:
    """The videos to look at, as the remade file looked at its own where nothing else is said."""
    seen = order.like.asked.references if order.like else ()
    found = []
    for index, glance in enumerate(order.references):
        usual = Reference(glance.frames)
        if index < len(seen):
            before = seen[index]
            usual = replace(
                usual,
                strength=before.strength,
                downscale=before.downscale,
                attention=before.attention,
            )
        strength = _given(glance.strength, usual.strength)
        downscale = _given(glance.downscale, usual.downscale)
        found.append(replace(usual, strength=strength, downscale=downscale))
    return tuple(found)


def conditions(order: Order) -> tuple[Condition, ...]:
    """The images at the frames where the remade file had them, or at the start and the end."""
    shown = order.like.asked.images if order.like else ()
    ends = iter((0, -1))
    found = []
    for index, still in enumerate(order.images):
        frame, strength = still.frame, _given(still.strength, 1.0)
        if shown:
            frame = _given(frame, shown[index].frame)
            strength = _given(still.strength, shown[index].strength)
        frame = next(ends) if frame is None else frame
        found.append(Condition(still.image, frame, strength))
    return tuple(found)


def policy_of(chosen: Policy | None, like: Provenance | None) -> Policy:
    """What was chosen, or as the remade file was made, or beside the weights."""
    return chosen or (like.policy if like else "live")


def _frames(order: Order) -> int | None:
    if order.look.frames is not None or order.like is None:
        return order.look.frames
    return order.like.asked.canvas.frames


def _given(value: T | None, otherwise: T) -> T:
    return otherwise if value is None else value
