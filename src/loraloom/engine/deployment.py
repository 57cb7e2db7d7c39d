"""The command that serves a model with its adapters on a machine, and why. No torch here."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from loraloom.core.request import Request
from loraloom.errors import BudgetError
from loraloom.memory.staging import BESIDE
from loraloom.models.sizes import working

from .job import completed
from .resources import Resources, explained, in_words, known_type, plans_for, readings
from .wishes import parse_published

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from loraloom.core.request import Canvas
    from loraloom.core.stage import Stages
    from loraloom.memory.staging import Plan, Room, Sizes
    from loraloom.models.card import Card

MOST_ROWS = 8
"""Results that a server computes together where there is room for more of them."""

SYSTEM = 4
"""One part in so many of the host's memory is left to everything else."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be served, and on what machine.

    Attributes:
        loras: as ``--lora`` spells them, ``NAME[=PATH][:STRENGTH]``. A path is read.
        pipeline: that memory is counted for; ``None`` for the model's first.
        canvas: the largest that is asked for; ``None`` for the model's own.
        resources: modes to choose among, and the room that there is on the machine.
        files: adapters that are published, by the names that ``loras`` may give without a path.
    """

    card: Card
    resources: Resources
    loras: tuple[str, ...] = ()
    pipeline: str | None = None
    canvas: Canvas | None = None
    dtype: str = "bfloat16"
    files: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Deployment:
    """The command line, and the plan of memory behind it in words for a person."""

    command: str
    plan: str


@dataclass(frozen=True, slots=True)
class Shares:
    """What of a machine is not weights: rows computed together, bytes for adapters."""

    rows: int
    device: int
    host: int


def deployment(wanted: Wanted) -> Deployment:
    """The command for what is wanted. Bytes are counted from the headers of files.

    Raises:
        LoraloomError: something does not go together, does not fit the model, or has no room.
    """
    card, kind = wanted.card, known_type(wanted.dtype)
    wishes, canvas = parse_published(wanted.loras), wanted.canvas or usual_canvas(card)
    stages = stages_of(card, wanted.pipeline)
    loras = tuple(wish.worn() for wish in wishes)
    completed(Request("PROMPT", loras=loras, canvas=canvas, stages=stages), card)
    there = replace(card, adapters={**card.adapters, **wanted.files})
    every = plans_for(card, stages, readings(there, wishes), kind)
    assert wanted.resources.room is not None
    spare = working(card, canvas, kind)
    room = room_for_weights(replace(wanted.resources.room, spare=spare), every[0].sizes)
    chosen = replace(wanted.resources, room=room).chosen(every)
    command = _command(wanted, chosen, shared(chosen, room))
    return Deployment(command, explained(every, chosen, room))


def stages_of(card: Card, pipeline: str | None) -> Stages:
    """Those of a pipeline of that name, or of the model's first.

    Raises:
        InvalidStageError: there is none of that name.
    """
    return card.defaults.usual if pipeline is None else card.defaults.pipeline(pipeline)


def usual_canvas(card: Card) -> Canvas:
    """The larger one of those that requests get: a video's, where the model makes any."""
    return card.defaults.video if card.grid.frames else card.defaults.picture


def room_for_weights(room: Room, sizes: Sizes) -> Room:
    """What of a host plans may take: not what others get, nor what the adapters lie in.

    Raises:
        BudgetError: the host has no room for the adapters.
    """
    left, adapters = room.host - room.host // SYSTEM, sizes.adapters + sizes.own
    if left < adapters:
        raise BudgetError(
            f"the adapters take {in_words(adapters)} of the host, there are {in_words(left)} when "
            "a quarter is left to everything else"
        )
    return replace(room, host=left - adapters)


def shared(plan: Plan, room: Room) -> Shares:
    """What is left beside a plan in :func:`room_for_weights`: rows go first, then adapters."""
    left, rows = room.device - plan.peak, MOST_ROWS
    if room.spare:
        rows = max(1, min(MOST_ROWS, left // room.spare))
    ready = plan.on_device(plan.acts[0]).get(BESIDE, 0)
    adapters = plan.sizes.adapters + plan.sizes.own
    return Shares(rows, ready + left - rows * room.spare, adapters + room.host - plan.host)


def _command(wanted: Wanted, plan: Plan, shares: Shares) -> str:
    """The command line, with what is not as it would be anyway."""
    words = ["loraloom", "serve", wanted.card.name]
    if wanted.pipeline is not None:
        words += ["--pipeline", wanted.pipeline]
    for text in wanted.loras:
        words += ["--lora", text]
    words += ["--device", "cuda", "--dtype", wanted.dtype]
    words += ["--residency", plan.mode, "--offload", plan.order]
    words += ["--device-budget", _spelled(shares.device), "--host-budget", _spelled(shares.host)]
    if shares.rows != MOST_ROWS:
        words += ["--max-batch", str(shares.rows)]
    return shlex.join(words)


def _spelled(count: int) -> str:
    """Bytes as options spell them, in whole MiB where that leaves nearly all of them."""
    return str(count) if count < 100 * 2**20 else f"{count // 2**20}M"
