"""From options to requests: what is asked for, what a file that is remade says, what is default."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from loraloom.core.request import Canvas, Condition, Lora, Policy, Request, Sampling
from loraloom.errors import InvalidRequestError

from .options import Size, Wish

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from loraloom.core.provenance import Provenance, Worn
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
    steps: int | None
    guidance: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """Everything that the command line says about what to make.

    Attributes:
        images: at most two, at the start and at the end of a video.
        like: how the file of ``--like`` was made; what is not given is taken from it.
    """

    prompts: tuple[str, ...]
    wishes: tuple[Wish, ...]
    look: Look
    kind: Kind
    images: tuple[Image, ...]
    like: Provenance | None

    @property
    def all_prompts(self) -> tuple[str, ...]:
        if self.prompts or self.like is None:
            return self.prompts
        return (self.like.asked.prompt,)

    @property
    def kept(self) -> tuple[Worn, ...]:
        """What the remade file wore and is to be worn again, at whatever strength."""
        names = {lora.name for lora in loras(self)}
        return tuple(worn for worn in self.like.worn if worn.name in names) if self.like else ()


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
    if len(order.images) > 2:
        raise InvalidRequestError(
            f"--image is given {len(order.images)} times, want the first image and at most the last"
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
    sampling = asked.sampling if asked else defaults.sampling
    sampling = Sampling(
        _given(look.steps, sampling.steps), _given(look.guidance, sampling.guidance)
    )
    return [
        Request(
            prompt=prompt,
            seed=first + index,
            loras=loras(order),
            negative_prompt=negative,
            canvas=canvas_of(order, defaults),
            sampling=sampling,
            conditions=conditions(order),
        )
        for index, prompt in enumerate(order.all_prompts)
    ]


def canvas_of(order: Order, defaults: Defaults) -> Canvas:
    """The canvas of the remade file or of the model, with the size and length that are given."""
    usual = defaults.video if order.kind == "video" else defaults.picture
    base = order.like.asked.canvas if order.like else usual
    size = order.look.size or Size(base.width, base.height)
    frames = _given(order.look.frames, base.frames)
    return replace(base, width=size.width, height=size.height, frames=frames)


def loras(order: Order) -> tuple[Lora, ...]:
    """What the remade file wore, changed and extended by ``--lora``; 0 takes an adapter off."""
    like = order.like
    # what the policy auto chose for the remade file is not chosen again
    chosen = like is not None and like.policy == "auto"
    wears = {
        each.name: Lora(
            each.name, each.strength, each.curve, each.scopes, each.manner if chosen else None
        )
        for each in (like.worn if like else ())
    }
    for wish in order.wishes:
        before = wears.get(wish.name, Lora(wish.name))
        strength = _given(wish.strength, before.strength)
        wears[wish.name] = replace(before, strength=strength, curve=wish.curve or before.curve)
    return tuple(lora for lora in wears.values() if lora.strength)


def conditions(order: Order) -> tuple[Condition, ...]:
    """The images at the frames where the remade file had them, or at the start and the end."""
    shown = order.like.asked.images if order.like else ()
    if shown:
        pairs = zip(order.images, shown, strict=True)
        return tuple(Condition(image, at.frame, at.strength) for image, at in pairs)
    pairs_of_ends = zip(order.images, (0, -1), strict=False)
    return tuple(Condition(image, frame) for image, frame in pairs_of_ends)


def policy_of(chosen: Policy | None, like: Provenance | None) -> Policy:
    """What was chosen, or as the remade file was made, or beside the weights."""
    return chosen or (like.policy if like else "live")


def _frames(order: Order) -> int | None:
    if order.look.frames is not None or order.like is None:
        return order.look.frames
    return order.like.asked.canvas.frames


def _given(value: T | None, otherwise: T) -> T:
    return otherwise if value is None else value
