"""What waits and what runs: who may come in, whose turn it is, and the one way that a job ends."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from threading import Condition
from typing import TYPE_CHECKING

from loraloom.errors import NotReadyError, QueueFullError, UnknownTicketError

from .queue import Queue
from .ticket import NO_TIME, Outcome, Spent, Step
from .trouble import CANCELLED, INTERRUPTED, timed_out

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from loraloom.core.mix import AdapterKey
    from loraloom.store.claim import Claim

    from .board import Board
    from .meter import Meter
    from .queue import Row
    from .run import Tick
    from .ticket import Encoding, Output, State, Task, Trouble

logger = logging.getLogger(__name__)

AHEAD = 4
"""So many tickets that wait have their adapters brought to the device meanwhile."""

REMEMBER = 0.8
"""Of the seconds that rows took so far, when another batch is done."""


@dataclass(slots=True, eq=False)
class Errand:
    """A ticket under way.

    Attributes:
        claim: what it wears stays until it ends.
        since: when it was queued, as :func:`time.monotonic` tells.
        outputs: the results that are written, by index.
        computed: rows whose steps are all done.
    """

    id: str
    task: Task
    claim: Claim
    since: float = field(default_factory=time.monotonic)
    outputs: dict[int, Output] = field(default_factory=dict)
    spent: Spent = NO_TIME
    computed: int = 0

    @property
    def deadline(self) -> float:
        assert self.task.timeout is not None
        return self.since + self.task.timeout


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may wait, in tickets, and how much runs together, in rows."""

    queue: int
    batch: int


class Abandoned(Exception):  # noqa: N818 - nothing went wrong
    """Nobody waits any more for what is being made."""


class Desk:
    """Errands by ticket; every method may be called by any thread."""

    def __init__(self, board: Board, bounds: Bounds) -> None:
        self.board = board
        self.bounds = bounds
        self._queue = Queue()
        self._errands: dict[str, Errand] = {}
        self._changed = Condition()
        self._closed = False
        self._pace = 1.0  # seconds that a row takes

    def check(self, owner: str) -> None:
        """Return if another ticket of this owner may wait.

        An owner of whom nothing waits gets in all the same: nobody is kept out by others.

        Raises:
            QueueFullError, NotReadyError: it may not, for the time being or for good.
        """
        with self._changed:
            self._check_open()
            waiting = len(self._queue)
            if waiting >= self.bounds.queue and self._queue.of(owner):
                raise QueueFullError(waiting, min(max(self._pace * self.bounds.batch, 1.0), 60.0))

    def put(self, errand: Errand, rows: Sequence[Row]) -> None:
        """Let the rows of an errand wait; its ticket is queued already.

        Raises:
            QueueFullError, NotReadyError: see :meth:`check`.
        """
        with self._changed:
            self.check(errand.task.owner)
            self.put_back(errand, rows)

    def put_back(self, errand: Errand, rows: Sequence[Row]) -> None:
        """Let rows wait that waited before; whether there is room was asked then.

        Raises:
            NotReadyError: nothing is taken any more.
        """
        with self._changed:
            self._check_open()
            self._errands[errand.id] = errand
            self._queue.put(errand.task.owner, rows)
            self._changed.notify_all()

    def take(self) -> list[Row]:
        """The next batch; waits for one. None when all is done for good."""
        with self._changed:
            while not (rows := self._queue.take(self.bounds.batch)):
                if self._closed:
                    return []
                self._changed.wait()
            return rows

    def begin(self, rows: Iterable[Row], meter: Meter) -> None:
        """The tickets of a batch are running now, those that were not before."""
        begun = self.board.begin(dict.fromkeys(row.ticket for row in rows))
        for ticket in begun:
            with self._changed:
                errand = self._errands.get(ticket.id)
                if errand:
                    seconds = time.monotonic() - errand.since
                    errand.spent = replace(errand.spent, queue=seconds)
                    meter.queued(seconds)

    def present(self, rows: Iterable[Row]) -> list[Row]:
        """The rows that somebody still waits for."""
        return [row for row in rows if row.ticket in self._errands]

    def encoding(self, row: Row) -> Encoding | None:
        """How a result is to be written; ``None`` if nobody waits for it."""
        errand = self._errands.get(row.ticket)
        return errand.task.encoding if errand else None

    def stepped(self, rows: Sequence[Row], tick: Tick) -> None:
        """Tell how far the rows of a batch are.

        Raises:
            Abandoned: nobody waits for any of them.
        """
        self.expire()
        together: dict[str, list[Row]] = {}
        for row in self.present(rows):
            together.setdefault(row.ticket, []).append(row)
        if not together:
            raise Abandoned
        for ticket, own in together.items():
            errand = self._errands.get(ticket)
            if errand:
                of = own[0].job.steps
                done = errand.computed * of + len(own) * tick.done * of // tick.of
                step = Step(done // len(errand.task.requests), of, tick.stage)
                self.board.step(ticket, step)

    def computed(self, rows: Sequence[Row], spent: Spent, seconds: float) -> None:
        """A batch is done, which took so long in all; its results are yet to be written."""
        with self._changed:
            self._pace = REMEMBER * self._pace + (1 - REMEMBER) * seconds / len(rows)
            for row in rows:
                errand = self._errands.get(row.ticket)
                if errand:
                    errand.computed += 1
            for ticket in {row.ticket for row in rows}:
                errand = self._errands.get(ticket)
                if errand:
                    errand.spent = _sum(errand.spent, spent)

    def hand_in(self, row: Row, output: Output, seconds: float) -> bool:
        """A result is written; says whether somebody waited for it.

        With the last one the ticket is completed.

        Raises:
            sqlite3.Error: it cannot be written that it is.
        """
        with self._changed:
            errand = self._errands.get(row.ticket)
            if errand is None:
                return False
            errand.outputs[row.index] = output
            errand.spent = replace(errand.spent, encode=errand.spent.encode + seconds)
            whole = len(errand.outputs) == len(errand.task.requests)
            outputs = tuple(errand.outputs[index] for index in sorted(errand.outputs))
            outcome = Outcome(outputs, spent=errand.spent)
        return not whole or self._end(row.ticket, "completed", outcome)

    def fail(self, ticket: str, trouble: Trouble) -> None:
        """It has no result."""
        self._stop(ticket, "failed", trouble)

    def cancel(self, ticket: str) -> None:
        """Nobody wants it any more; of a batch that runs, only this one ends."""
        self._stop(ticket, "cancelled", CANCELLED)

    def expire(self) -> None:
        """End what takes longer than it may."""
        now = time.monotonic()
        late = [errand for errand in list(self._errands.values()) if errand.deadline <= now]
        for errand in late:
            self.fail(errand.id, timed_out(errand.task.timeout or 0.0))

    def close(self) -> bool:
        """Take nothing more and hand back what has not begun; says whether that is new."""
        with self._changed:
            before, self._closed = self._closed, True
            waiting = list(self._errands)
            self._changed.notify_all()
        for ticket in waiting:
            if self.board.state(ticket) == "queued":
                self._stop(ticket, "interrupted", INTERRUPTED)
        return not before

    def cut(self) -> None:
        """Hand back everything; what runs ends after its step."""
        for ticket in list(self._errands):
            self._stop(ticket, "interrupted", INTERRUPTED)

    @property
    def closed(self) -> bool:
        """Whether nothing more is taken."""
        return self._closed

    def upcoming(self) -> list[AdapterKey]:
        """The adapters of what comes next."""
        with self._changed:
            rows = list(self._queue.upcoming(AHEAD))
        return list(dict.fromkeys(key for row in rows for key in row.job.named))

    def position(self, ticket: str) -> int | None:
        """How many tickets come before it, about; ``None`` if it does not wait."""
        with self._changed:
            return self._queue.position(ticket)

    @property
    def waiting(self) -> int:
        """Tickets that wait."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Tickets that have begun."""
        return max(len(self._errands) - len(self._queue), 0)

    def _stop(self, ticket: str, state: State, trouble: Trouble) -> None:
        errand = self._errands.get(ticket)
        spent = errand.spent if errand else NO_TIME
        self._end(ticket, state, Outcome(trouble=trouble, spent=spent))

    def _end(self, ticket: str, state: State, outcome: Outcome) -> bool:
        """The one way in which what is under way ends; says whether it had not ended before.

        Whatever the ticket says, and also if it was deleted at this moment: it is not under way
        any more.
        """
        errand, ended = self._errands.get(ticket), None
        with suppress(UnknownTicketError):
            ended = self.board.move(ticket, state, outcome)
        if errand:
            with self._changed:
                if self._errands.get(ticket) is errand:
                    del self._errands[ticket]
                    self._queue.drop(ticket)
                    self._changed.notify_all()
            if state == "interrupted":
                errand.claim.bequeath()
            else:
                errand.claim.release()
        return ended is not None

    def _check_open(self) -> None:
        if self._closed:
            raise NotReadyError("the server stops and takes no more jobs")


def _sum(one: Spent, other: Spent) -> Spent:
    return Spent(
        queue=one.queue + other.queue,
        load=one.load + other.load,
        switch=one.switch + other.switch,
        steps=one.steps + other.steps,
        decode=one.decode + other.decode,
        encode=one.encode + other.encode,
    )
