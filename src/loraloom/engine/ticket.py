"""What somebody asks the engine for, how far it is, and what became of it. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from loraloom.core.provenance import Worn

if TYPE_CHECKING:
    from loraloom.core.request import Request

State: TypeAlias = Literal[
    "queued", "running", "completed", "failed", "cancelled", "interrupted", "expired"
]

MOVES: Mapping[State, frozenset[State]] = {
    "queued": frozenset({"running", "failed", "cancelled", "interrupted"}),
    "running": frozenset({"completed", "failed", "cancelled", "interrupted"}),
    "interrupted": frozenset({"queued", "cancelled"}),
    "completed": frozenset({"expired"}),
    "failed": frozenset(),
    "cancelled": frozenset(),
    "expired": frozenset(),
}
"""From every state, those that may follow. What was interrupted may be run again; of what has
expired the results are gone.
"""

Kind: TypeAlias = Literal["images", "edits", "video"]
Format: TypeAlias = Literal["png", "jpeg", "webp", "mp4"]

MIME: Mapping[Format, str] = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "mp4": "video/mp4",
}


@dataclass(frozen=True, slots=True)
class Encoding:
    """How results are written; ``quality`` is 1 to 100 of a lossy one, ``None`` the format's."""

    format: Format
    quality: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Requests that one call asks for together.

    Attributes:
        owner: whose they are, not a secret; empty where nobody is told apart.
        requests: one result each; alike in canvas and stages, not in seeds and in what they wear.
        note: the call's own words, JSON values that answers repeat.
        timeout: seconds that they may take, waiting and running.
    """

    kind: Kind
    owner: str
    requests: tuple[Request, ...]
    encoding: Encoding
    note: Mapping[str, Any] = field(default_factory=dict)
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Times:
    """When something was asked for, began and ended, in seconds since 1970."""

    created: float
    started: float | None = None
    ended: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """How far the steps are; ``stage`` is the name of the one under way."""

    done: int
    of: int
    stage: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why there is no result; ``code`` is that of the HTTP interface's errors."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Output:
    """One result: its file in the archive, and what was worn."""

    file: str
    nbytes: int
    seed: int
    worn: tuple[Worn, ...]


@dataclass(frozen=True, slots=True)
class Spent:
    """Where the time went, in seconds; ``encode`` is of prompts, and of results to files."""

    queue: float = 0.0
    load: float = 0.0
    switch: float = 0.0
    steps: float = 0.0
    decode: float = 0.0
    encode: float = 0.0


NO_TIME = Spent()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a task: results, or why there are none, and where the time went."""

    outputs: tuple[Output, ...] = ()
    trouble: Trouble | None = None
    spent: Spent = NO_TIME


@dataclass(frozen=True, slots=True)
class Ticket:
    """The state of a task.

    Attributes:
        id: 128 random bits in hex.
        format: of the results.
        note: see :class:`Task`.
    """

    id: str
    kind: Kind
    owner: str
    format: Format
    state: State
    times: Times
    step: Step | None = None
    outcome: Outcome = Outcome()
    note: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether nothing more happens by itself."""
        return self.state not in {"queued", "running"}

    def moved(self, state: State, **changes: Any) -> Ticket:
        """The ticket in its next state, with other fields as given."""
        assert state in MOVES[self.state], f"{self.id} cannot go from {self.state} to {state}"
        return replace(self, state=state, **changes)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a ticket; numbers of one ticket count up from 1."""

    number: int
    ticket: Ticket

    @property
    def is_step(self) -> bool:
        """Whether it is only that a step is done; the next one makes it out of date."""
        return self.ticket.state == "running" and self.ticket.step is not None
