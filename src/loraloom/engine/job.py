"""A request under way: complete, checked, and tied to the adapters that it began with."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from loraloom.core.mix import Part, finite
from loraloom.core.schedule import Schedule, Turn
from loraloom.errors import InvalidRequestError, LoraloomError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loraloom.core.adapter import Adapter
    from loraloom.core.mix import AdapterKey
    from loraloom.core.request import Canvas, Lora, Manner, Request
    from loraloom.models.card import Card
    from loraloom.store.catalog import Catalog


@dataclass(frozen=True, slots=True)
class Job:
    """A request with nothing left open, and what it wears by the keys of its adapters.

    ``adapters`` are held so that they stay in the catalogue until the job is done; ``manners`` are
    those that the request settles.
    """

    request: Request
    canvas: Canvas
    steps: int
    wears: Schedule
    adapters: tuple[Adapter, ...] = ()
    manners: Mapping[AdapterKey, Manner] = field(default_factory=dict)


def admit(requests: Sequence[Request], card: Card, catalog: Catalog) -> list[Job]:
    """The jobs of ``requests``, with the card's defaults where nothing is said.

    Raises:
        InvalidRequestError: the list or a prompt is empty, a number is out of its range, or the
            VAE cannot divide a size. The error says which request it is.
        UnknownAdapterError: a request names an adapter that the catalogue does not hold.
    """
    if not requests:
        raise InvalidRequestError("the list of requests is empty, want at least one")
    jobs = []
    for number, request in enumerate(requests, 1):
        try:
            jobs.append(_admit(request, card, catalog))
        except LoraloomError as error:
            if len(requests) > 1:
                error.args = (f"request {number} of {len(requests)}: {error}",)
            raise
    return jobs


def _admit(request: Request, card: Card, catalog: Catalog) -> Job:
    canvas = request.canvas or card.defaults.picture
    sampling = request.sampling or card.defaults.sampling
    negative = request.negative_prompt
    negative = card.defaults.negative_prompt if negative is None else negative
    if not request.prompt.strip():
        raise InvalidRequestError("a prompt is empty, want some words")
    if not 0 <= request.seed < 2**63:
        raise InvalidRequestError(f"the seed is {request.seed}, want 0 to 2**63 - 1")
    card.check(canvas)
    finite(sampling.guidance, "classifier-free guidance")
    if not isinstance(sampling.steps, int) or sampling.steps < card.grid.steps:
        raise InvalidRequestError(
            f"the number of steps is {sampling.steps}, want a whole number from {card.grid.steps}"
        )
    _check_conditions(request, canvas, card)
    adapters = tuple(catalog.get(lora.name) for lora in request.loras)
    wears = schedule(request.loras, catalog)
    complete = replace(request, canvas=canvas, sampling=sampling, negative_prompt=negative)
    named = zip(adapters, request.loras, strict=True)
    manners = {adapter.key: lora.manner for adapter, lora in named if lora.manner}
    return Job(complete, canvas, sampling.steps, wears, adapters, manners)


def schedule(loras: Sequence[Lora], catalog: Catalog) -> Schedule:
    """What ``loras`` are by the keys of their adapters.

    Raises:
        UnknownAdapterError: the catalogue does not hold one of them.
    """
    return Schedule.of(
        Turn(Part(catalog.get(lora.name).key, lora.strength, lora.scopes), lora.curve)
        for lora in loras
    )


def _check_conditions(request: Request, canvas: Canvas, card: Card) -> None:
    taken: dict[int, int] = {}
    for condition in request.conditions:
        frame = condition.frame
        if not -canvas.frames <= frame < canvas.frames:
            raise InvalidRequestError(
                f"an image is asked for at frame {frame}, the {canvas.frames} frames are 0 to "
                f"{canvas.frames - 1}, or counted from the end -{canvas.frames} to -1"
            )
        if not 0 < finite(condition.strength, "an image") <= 1:
            raise InvalidRequestError(
                f"the strength of an image is {condition.strength}, want more than 0, at most 1"
            )
        place = card.grid.latent(frame % canvas.frames)
        if place in taken:
            raise InvalidRequestError(
                f"images are asked for at frames {taken[place]} and {frame}, which are one frame "
                f"of the latent video; want them {card.grid.frames} apart"
            )
        taken[place] = frame
