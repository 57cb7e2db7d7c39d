"""Tickets and tasks as JSON, and the images of a task as files beside it. No torch here."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loraloom.core.canvas import Canvas
from loraloom.core.lora import Lora
from loraloom.core.mix import AdapterKey
from loraloom.core.records import record
from loraloom.core.request import Condition, Origin, Reference, Request
from loraloom.core.stage import Stage
from loraloom.errors import RecordError

from .ticket import Encoding, Format, Kind, Outcome, State, Task, Ticket, Times

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Shot:
    """A condition; its images by number, those that follow behind the first."""

    images: tuple[int, ...]
    frame: int
    strength: float


@dataclass(frozen=True, slots=True)
class Sketch:
    """An origin; its image by number."""

    image: int
    redrawn: float


@dataclass(frozen=True, slots=True)
class Glance:
    """A reference; its frames by number."""

    images: tuple[int, ...]
    strength: float
    downscale: int
    attention: float


@dataclass(frozen=True, slots=True)
class Words:
    """What a completed request says without images."""

    prompt: str
    seed: int
    loras: tuple[Lora, ...]
    negative_prompt: str | None
    canvas: Canvas | None
    stages: tuple[Stage, ...] | None
    audio: bool | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request as it is written down."""

    words: Words
    shots: tuple[Shot, ...]
    glances: tuple[Glance, ...]
    sketch: Sketch | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A task as it is written down, but for its note."""

    kind: Kind
    owner: str
    requests: tuple[Wanted, ...]
    encoding: Encoding
    timeout: float | None


@dataclass(frozen=True, slots=True)
class Progress:
    """A ticket as it is written down, but for its note; a step is not, it is gone in a moment."""

    id: str
    kind: Kind
    owner: str
    format: Format
    state: State
    times: Times
    outcome: Outcome


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """A task in JSON, and the images that the JSON means by their numbers."""

    text: str
    images: tuple[Image, ...]


def write_task(task: Task) -> Written:
    """What :func:`read_task` makes the task of again; its requests are complete ones.

    An image that several requests show is there once.
    """
    numbers: dict[int, int] = {}
    images: list[Image] = []

    def number(image: Image) -> int:
        if id(image) not in numbers:
            numbers[id(image)] = len(images)
            images.append(image)
        return numbers[id(image)]

    wanted = tuple(_wanted(request, number) for request in task.requests)
    call = Call(task.kind, task.owner, wanted, task.encoding, task.timeout)
    return Written(_text(call, task.note), tuple(images))


def read_task(text: str, image: Callable[[int], Image]) -> Task:
    """The task that was written; ``image`` gives one by its number.

    Raises:
        RecordError: it is not what :func:`write_task` writes now.
    """
    data, note = _parse(text)
    call = record(Call, data, "task")
    requests = tuple(_request(each, image) for each in call.requests)
    return Task(call.kind, call.owner, requests, call.encoding, note, call.timeout)


def worn_in(text: str) -> frozenset[AdapterKey]:
    """The versions of adapters that a written task names.

    Raises:
        RecordError: it is not what :func:`write_task` writes now.
    """
    data, _ = _parse(text)
    loras = (lora for each in record(Call, data, "task").requests for lora in each.words.loras)
    return frozenset(AdapterKey(lora.name, lora.version) for lora in loras if lora.version)


def write_ticket(ticket: Ticket) -> str:
    """One line of JSON."""
    return _text(
        Progress(
            ticket.id,
            ticket.kind,
            ticket.owner,
            ticket.format,
            ticket.state,
            ticket.times,
            ticket.outcome,
        ),
        ticket.note,
    )


def read_ticket(text: str) -> Ticket:
    """The ticket that was written.

    Raises:
        RecordError: it is not what :func:`write_ticket` writes now.
    """
    data, note = _parse(text)
    kept = record(Progress, data, "ticket")
    return Ticket(
        id=kept.id,
        kind=kept.kind,
        owner=kept.owner,
        format=kept.format,
        state=kept.state,
        times=kept.times,
        outcome=kept.outcome,
        note=note,
    )


def _wanted(request: Request, number: Callable[[Image], int]) -> Wanted:
    assert request.sampling is None, "only complete requests are written"
    origin = request.origin
    return Wanted(
        Words(
            request.prompt,
            request.seed,
            request.loras,
            request.negative_prompt,
            request.canvas,
            request.stages,
            request.audio,
        ),
        tuple(
            Shot(tuple(map(number, (each.image, *each.following))), each.frame, each.strength)
            for each in request.conditions
        ),
        tuple(
            Glance(tuple(map(number, each.frames)), each.strength, each.downscale, each.attention)
            for each in request.references
        ),
        Sketch(number(origin.image), origin.redrawn) if origin else None,
    )


def _request(wanted: Wanted, image: Callable[[int], Image]) -> Request:
    words, sketch = wanted.words, wanted.sketch
    conditions = []
    for shot in wanted.shots:
        first, *following = map(image, shot.images)
        conditions.append(Condition(first, shot.frame, shot.strength, tuple(following)))
    return Request(
        prompt=words.prompt,
        seed=words.seed,
        loras=words.loras,
        negative_prompt=words.negative_prompt,
        canvas=words.canvas,
        stages=words.stages,
        audio=words.audio,
        conditions=tuple(conditions),
        references=tuple(
            Reference(tuple(map(image, each.images)), each.strength, each.downscale, each.attention)
            for each in wanted.glances
        ),
        origin=Origin(image(sketch.image), sketch.redrawn) if sketch else None,
    )


def _text(value: Call | Progress, note: Any) -> str:
    data = dataclasses.asdict(value)
    return json.dumps({"value": data, "note": dict(note)}, allow_nan=False)


def _parse(text: str) -> tuple[Any, dict[str, Any]]:
    try:
        data = json.loads(text)
        return data["value"], data["note"]
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{text[:40]!r} is no record: {error}") from error
