"""A request under way: complete, checked, and tied to the adapters that it began with."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from loraloom.core.mix import Part, finite
from loraloom.core.request import Sampling
from loraloom.core.schedule import Schedule, Turn
from loraloom.core.stage import asked, check, going_on
from loraloom.errors import (
    AdapterMismatchError,
    InvalidRequestError,
    InvalidStageError,
    LoraloomError,
    UnknownAdapterError,
)
from loraloom.models import find
from loraloom.models.ltx2.family import DISTILLED

from .shown import check_conditions, check_origin, check_references

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loraloom.core.mix import AdapterKey
    from loraloom.core.request import Canvas, Lora, Manner, Request
    from loraloom.core.stage import Stages
    from loraloom.models.card import Card
    from loraloom.store.catalog import Catalog


@dataclass(frozen=True, slots=True)
class Job:
    """A request with nothing left open, and what it wears by the keys of its adapters.

    ``wears`` has a schedule for every stage. ``named`` are the adapters of the request and of its
    stages, also those at strength 0; ``manners`` are those that the request settles.
    """

    request: Request
    canvas: Canvas
    stages: Stages
    wears: tuple[Schedule, ...]
    named: tuple[AdapterKey, ...] = ()
    manners: Mapping[AdapterKey, Manner] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Of all stages together."""
        return sum(each.sigmas.count for each in self.stages if each.sigmas)

    @property
    def keys(self) -> list[AdapterKey]:
        """Of everything that is worn in any stage, sorted."""
        return sorted({turn.part.key for each in self.wears for turn in each.turns})

    def turns(self, key: AdapterKey) -> list[Turn | None]:
        """What is worn of one adapter, stage by stage."""
        return [
            next((turn for turn in each.turns if turn.part.key == key), None) for each in self.wears
        ]


def admit(requests: Sequence[Request], card: Card, catalog: Catalog) -> list[Job]:
    """The jobs of ``requests``, with the card's defaults where nothing is said.

    Adapters are the versions that the catalogue has now. No tensor of one that it knows is read.

    Raises:
        InvalidRequestError: the list or a prompt is empty, a number is out of its range, the VAE
            cannot divide a size, or the stages do not fit. The error says which request it is.
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


def completed(request: Request, card: Card) -> Request:
    """``request`` with the card's defaults where nothing is said; adapters are not looked at.

    Raises:
        InvalidRequestError: the model cannot do that; see :func:`admit`.
        ModelError: it lacks an upsampler, or comes with one of another model.
    """
    usual = card.defaults
    stages = usual.usual if request.stages is None else request.stages
    negative = request.negative_prompt
    complete = replace(
        request,
        canvas=request.canvas or usual.picture,
        stages=asked(stages, request.sampling or Sampling()),
        sampling=None,
        negative_prompt=usual.negative_prompt if negative is None else negative,
        audio=usual.audio if request.audio is None else request.audio,
    )
    assert complete.canvas
    assert complete.stages is not None
    _check_request(complete)
    fits(complete.stages, complete.canvas, card)
    card.check_asked(complete)
    check_conditions(complete.conditions, complete.canvas, card.grid)
    check_references(complete.references, complete.stages, complete.canvas, card)
    _check_strengths(complete.loras, complete.stages)
    return _begun(complete)


def _begun(complete: Request) -> Request:
    """A request whose stages begin in its origin, if it has one; without sound beside it."""
    origin = complete.origin
    if origin is None:
        return complete
    check_origin(complete)
    assert complete.stages
    stages = going_on(complete.stages, origin.redrawn)
    return replace(complete, stages=stages, audio=False)


def _admit(request: Request, card: Card, catalog: Catalog) -> Job:
    complete = completed(request, card)
    assert complete.canvas
    assert complete.stages
    for lora in request.loras:
        _check_target(lora, card)
    wanted = [catalog.edition(lora.name, lora.version).key for lora in request.loras]
    loras = tuple(
        replace(lora, name=key.name) for lora, key in zip(request.loras, wanted, strict=True)
    )
    manners = {key: lora.manner for key, lora in zip(wanted, loras, strict=True) if lora.manner}
    keys = {key.name: key for key in wanted}
    own = {lora.name for stage in complete.stages for lora in stage.wears}
    for name in sorted(own - keys.keys()):
        _check_there(name, card, catalog)
        keys[name] = catalog.edition(name).key
    wears = schedules(loras, complete.stages, keys)
    return Job(
        replace(complete, loras=loras),
        complete.canvas,
        complete.stages,
        wears,
        tuple(keys.values()),
        manners,
    )


def _check_target(lora: Lora, card: Card) -> None:
    """Return if the model has the component that is to wear an adapter.

    Raises:
        AdapterMismatchError: it has not.
    """
    if lora.target not in {None, *card.family.wears}:
        raise AdapterMismatchError(
            f"adapter {lora.name!r} is for component {lora.target!r}, model {card.name!r} has "
            f"{', '.join(card.family.wears)}"
        )


def _check_there(name: str, card: Card, catalog: Catalog) -> None:
    """Return if an adapter that a stage wears is in the catalogue.

    Raises:
        ModelError: it is the distilled one, which comes with the model as a rule.
        UnknownAdapterError: it is another one.
    """
    if name not in catalog.names():
        if name == DISTILLED:
            find.distilled(card)
        raise UnknownAdapterError(name, catalog.names())


def schedules(
    loras: Sequence[Lora], stages: Stages, keys: Mapping[str, AdapterKey]
) -> tuple[Schedule, ...]:
    """What is worn in every stage: its own adapters and ``loras``, which go before its own."""
    named = {lora.name for lora in loras}
    return tuple(
        schedule(
            [
                *(own for own in stage.wears if own.name not in named),
                *(_in_stage(lora, index) for lora in loras),
            ],
            keys,
        )
        for index, stage in enumerate(stages)
    )


def _check_strengths(loras: Sequence[Lora], stages: Stages) -> None:
    for lora in loras:
        if lora.stages and len(lora.stages) != len(stages):
            raise InvalidStageError(
                f"adapter {lora.name!r} has strengths for {len(lora.stages)} stages, there "
                f"{'is' if len(stages) == 1 else 'are'} {len(stages)}: "
                f"{', '.join(stage.name for stage in stages)}"
            )


def _in_stage(lora: Lora, index: int) -> Lora:
    if not lora.stages:
        return lora
    factor = finite(lora.stages[index], f"{lora.name} in stage {index + 1}")
    return replace(lora, strength=finite(lora.strength, lora.name) * factor, stages=())


def schedule(loras: Sequence[Lora], keys: Mapping[str, AdapterKey]) -> Schedule:
    """What ``loras`` are by the keys of their adapters, which ``keys`` has by name."""
    return Schedule.of(
        Turn(Part(keys[lora.name], lora.strength, lora.scopes, lora.target), lora.curve)
        for lora in loras
    )


def fits(stages: Stages, canvas: Canvas, card: Card) -> None:
    """Return if a model can run a canvas through ``stages``.

    Raises:
        InvalidRequestError: it cannot; nothing was loaded or moved to know that.
        ModelError: it lacks an upsampler, or comes with one of another model.
    """
    check(stages)
    card.check(canvas)
    for before, stage in zip((None, *stages), stages, strict=False):
        if stage.size != 1:
            card.check(stage.canvas(canvas), f"stage {stage.name!r}")
        if stage.sigmas and not stage.sigmas.given and stage.sigmas.steps < card.grid.steps:
            raise InvalidStageError(
                f"the number of steps of stage {stage.name!r} is {stage.sigmas.steps}, want a "
                f"whole number from {card.grid.steps}"
            )
        if before and stage.size != before.size:
            card.check_enlarging(before, stage)
            if card.family.abilities.enlarging == "upsampler":
                find.upsampler(card)
    card.check_stages(stages)


def _check_request(request: Request) -> None:
    if not request.prompt.strip():
        raise InvalidRequestError("a prompt is empty, want some words")
    if not isinstance(request.seed, int) or not 0 <= request.seed < 2**63:
        raise InvalidRequestError(f"the seed is {request.seed!r}, want 0 to 2**63 - 1")
