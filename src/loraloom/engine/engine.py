"""The engine: takes tasks, says how far they are, and keeps what became of them."""

from __future__ import annotations

import secrets
import sqlite3
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from loraloom.errors import (
    AdapterChangedError,
    InvalidRequestError,
    MediaError,
    NotReadyError,
    RecordError,
    StorageFullError,
    UnknownAdapterError,
    UnknownTicketError,
)

from .batch import alike
from .board import Board
from .crier import Crier
from .desk import Bounds, Desk, Errand
from .intake import jobs_of, pinned
from .keeper import Keeper, Retention
from .meter import SILENT
from .press import Press
from .queue import Row
from .ticket import Ticket, Times
from .trouble import FULL, trouble_of
from .warm import warm_up
from .worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from loraloom.core.mix import AdapterKey
    from loraloom.core.request import Policy
    from loraloom.store.catalog import Catalog
    from loraloom.store.claim import Claim

    from .archive import Archive, Page
    from .crier import Listener
    from .job import Job
    from .loom import Loom
    from .meter import Meter
    from .ticket import Task

TRIES = 100
"""So often a task is admitted anew, while what it wears is replaced under its hands."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much at a time, and for how long.

    Attributes:
        max_queue: tickets that wait.
        max_batch: rows that run together.
        timeout: seconds that a task may take, waiting and running.
        work: frames × pixels × steps of one request; ``None`` is as many as somebody wants.
        max_age: seconds for which results are kept.
        max_bytes: of results on disk.
        grace: seconds for which a result that is new, or just asked for, stays although there
            are too many bytes.
    """

    max_queue: int = 256
    max_batch: int = 8
    timeout: float = 600.0
    work: int | None = None
    max_age: float = 24 * 3600.0
    max_bytes: int = 10 * 2**30
    grace: float = 60.0


USUAL = Limits()


@dataclass(frozen=True, slots=True)
class Status:
    """Whether requests are taken, and how many tickets wait and run."""

    ready: bool
    waiting: int
    running: int


class Engine:
    """One model as a service. Every method is thread-safe, and returns without waiting for it.

    One thread has the model and the device. Tickets that a process before this one had under way
    are interrupted from the beginning; :meth:`resume` runs them again.

    Args:
        load: called on that thread, gives the model.
        archive: of this engine alone; whoever opened it closes it, after :meth:`stop`.
    """

    def __init__(
        self,
        load: Callable[[], Loom],
        archive: Archive,
        limits: Limits = USUAL,
        *,
        policy: Policy = "live",
        meter: Meter = SILENT,
    ) -> None:
        self.limits = limits
        self._load = load
        self._archive = archive
        self._crier = Crier()
        bounds = Bounds(limits.max_queue, limits.max_batch)
        self._desk = Desk(Board(archive, self._crier, meter), bounds)
        self._worker = Worker(self._desk, Press(self._desk, archive, meter), policy, meter)
        self._keeper = Keeper(
            self._desk, archive, Retention(limits.max_age, limits.max_bytes, limits.grace)
        )

    def start(self, warm: Callable[[Loom], None] = warm_up) -> None:
        """Load the model, warm it up, then be ready; :meth:`settled` waits for that."""

        def prepare(loom: Loom) -> None:
            self._tidy(loom.adapters)
            warm(loom)

        self._crier.start()
        self._keeper.start()
        self._worker.start(self._load, prepare)

    def settled(self, timeout: float | None = None) -> bool:
        """Wait until the engine is ready or never will be; says whether that is known now."""
        return self._worker.opening.settled.wait(timeout)

    def stop(self, *, patience: float) -> None:
        """Take nothing more, hand back what waits as interrupted, and finish what runs.

        After ``patience`` seconds what runs is interrupted too, between two steps. A second call
        does that at once, and does not wait for the step; the first one then returns too.
        """
        if not self._desk.close():
            self._desk.cut()
            self._worker.hurry.set()
            return
        self._worker.finish(patience)
        left = 0.0 if self._worker.hurry.is_set() else 60.0
        self._keeper.close(left)
        self._crier.close(left)

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self._worker.opening.loom is not None and not self._desk.closed

    @property
    def failure(self) -> str | None:
        """Why the engine never became ready, in words for who runs the server."""
        return self._worker.opening.failure

    @property
    def loom(self) -> Loom:
        """The model.

        Raises:
            NotReadyError: it is not there yet, or never will be.
        """
        loom = self._worker.opening.loom
        if loom is None:
            raise NotReadyError(
                "the model cannot be loaded" if self.failure else "the model is being loaded"
            )
        return loom

    def submit(self, task: Task) -> Ticket:
        """Queue a task.

        Raises:
            NotReadyError: the engine takes nothing yet, or nothing any more.
            QueueFullError: too many wait.
            StorageFullError: there is no room to keep it.
            LoraloomError: the model could not do it; see :func:`admit`.
        """
        self._desk.check(task.owner)
        with ExitStack() as undo:
            errand, rows = self._prepare(task, secrets.token_hex(16), undo)
            task = errand.task
            ticket = Ticket(
                id=errand.id,
                kind=task.kind,
                owner=task.owner,
                format=task.encoding.format,
                state="queued",
                times=Times(time.time()),
                note=task.note,
            )
            self._keep(ticket, task)
            undo.callback(self.delete, ticket.id)
            self._desk.put(errand, rows)
            undo.pop_all()
        return ticket

    def resume(self, id: str) -> Ticket:  # noqa: A002 - its one name
        """Queue again what was interrupted; what it wears are the versions of before.

        They are there unless their adapter was withdrawn. It waits however many do.

        Raises:
            UnknownTicketError: there is no such ticket.
            InvalidRequestError: it was not interrupted.
            AdapterChangedError: the version of an adapter that it wore is gone.
            LoraloomError: as :meth:`submit`.
        """
        ticket = self.ticket(id)
        if ticket.state != "interrupted":
            raise InvalidRequestError(
                f"job {id!r} is {ticket.state}, want one that was interrupted to run it again"
            )
        with ExitStack() as undo:
            try:
                errand, rows = self._prepare(self._archive.task(id), id, undo)
            except UnknownAdapterError as error:
                name = error.name.partition("@")[0]
                raise AdapterChangedError(
                    f"job {id!r} wore a version of adapter {name!r} that is gone"
                ) from error
            queued = self._desk.board.move(id, "queued")
            if queued is None:
                raise InvalidRequestError(f"job {id!r} is run again already")
            undo.callback(self._desk.board.move, id, "interrupted", ticket.outcome)
            self._desk.put_back(errand, rows)
            undo.pop_all()
        return queued

    def interrupted(self) -> list[str]:
        """The tickets that can be resumed, the oldest first."""
        return self._archive.of("interrupted")

    def ticket(self, id: str) -> Ticket:  # noqa: A002 - its one name
        """As it is now.

        Raises:
            UnknownTicketError: there is none.
        """
        return self._desk.board.ticket(id)

    def tickets(self, page: Page) -> list[Ticket]:
        """Those of a page, as they are now.

        Raises:
            UnknownTicketError: there is none called ``page.after``.
        """
        return [self._desk.board.now(ticket) for ticket in self._archive.page(page)]

    def position(self, id: str) -> int | None:  # noqa: A002 - its one name
        """About how many tickets come before it; ``None`` if it does not wait."""
        return self._desk.position(id)

    def cancel(self, id: str) -> Ticket:  # noqa: A002 - its one name
        """End a ticket at once if it is under way; of a batch that runs, only this one ends.

        What was interrupted is not run again.

        Raises:
            UnknownTicketError: there is none.
        """
        self._desk.cancel(id)
        return self.ticket(id)

    def delete(self, id: str) -> None:  # noqa: A002 - its one name
        """Forget a ticket and its files; what is under way is cancelled first.

        Raises:
            UnknownTicketError: there is none.
        """
        self.cancel(id)
        self._desk.board.forget([id])

    def watch(
        self,
        id: str,  # noqa: A002 - its one name
        listener: Listener,
        *,
        after: int = 0,
    ) -> Callable[[], None]:
        """Tell a listener of the events behind number ``after``: those that were, those to come.

        They come in order, none twice, on a thread of the engine's that tells everybody: a
        listener returns at once. Of steps that follow each other only the last is told to who is
        slow. The last event is that of a state that has ended; who has heard of it already hears
        nothing. Returns what ends it.

        Raises:
            UnknownTicketError: there is no such ticket.
        """
        return self._desk.board.watch(id, listener, after)

    def file(self, id: str, index: int) -> Path:  # noqa: A002 - its one name
        """The file of a result; it stays for a while although there are too many bytes.

        Raises:
            UnknownTicketError: there is no such ticket.
            ResultGoneError: it has no such result, or not any more.
        """
        ticket = self.ticket(id)
        self._keeper.reading(id)
        return self._archive.file(ticket, index)

    def status(self) -> Status:
        """How it stands at this moment."""
        return Status(self.ready, self._desk.waiting, self._desk.running)

    def _prepare(self, task: Task, id: str, undo: ExitStack) -> tuple[Errand, list[Row]]:  # noqa: A002
        """An errand whose adapters are claimed and on their way, and its rows."""
        loom = self.loom
        jobs, claim = self._admitted(task, loom)
        undo.callback(claim.release)
        loom.adapters.prefetch(claim.keys)
        seconds = min(self.limits.timeout, task.timeout or self.limits.timeout)
        complete = replace(task, requests=tuple(map(pinned, jobs)), timeout=seconds)
        policy = self._worker.policy
        rows = [Row(id, index, job, alike(job, policy)) for index, job in enumerate(jobs)]
        return Errand(id, complete, claim), rows

    def _admitted(self, task: Task, loom: Loom) -> tuple[list[Job], Claim]:
        """The jobs of a task, and a claim on all that they wear."""
        for _ in range(TRIES):
            jobs = jobs_of(task, loom.card, loom.adapters, self.limits.work)
            # what is replaced at this moment is gone, and its name means another version
            with suppress(UnknownAdapterError):
                return jobs, loom.adapters.claim({key for job in jobs for key in job.named})
        raise NotReadyError("its adapters are published anew all the time, ask again")

    def _tidy(self, catalog: Catalog) -> None:
        """Have the versions stay that interrupted tickets wore, and no others without a name."""
        wanted: set[AdapterKey] = set()
        for ticket in self.interrupted():
            with suppress(UnknownTicketError, RecordError):  # then it does not run again
                wanted |= self._archive.worn(ticket)
        catalog.tidy(wanted)

    def _keep(self, ticket: Ticket, task: Task) -> None:
        try:
            self._desk.board.add(ticket, task)
        except (OSError, MediaError, sqlite3.Error) as error:
            if trouble_of(error) == FULL:
                raise StorageFullError(FULL.message) from error
            raise
