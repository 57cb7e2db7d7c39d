"""Where tickets stand: the one place that changes them, keeps that on disk, and tells of it."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections import deque
from dataclasses import dataclass, field, replace
from threading import RLock
from typing import TYPE_CHECKING

from loraloom.errors import UnknownTicketError

from .crier import Watcher
from .ticket import MOVES, Event, Outcome, Times
from .trouble import INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .archive import Archive
    from .crier import Crier, Listener
    from .meter import Meter
    from .ticket import State, Step, Task, Ticket

logger = logging.getLogger(__name__)

EVENTS = 64
"""Of one ticket, the last ones are kept while it is under way."""

GAP = 1_000_000
"""Steps are not kept on disk; after a restart numbers go on beyond any that was told."""


@dataclass(slots=True, eq=False)
class Log:
    """What happened to a ticket under way, and who watches it."""

    ticket: Ticket
    number: int
    events: deque[Event] = field(default_factory=lambda: deque(maxlen=EVENTS))
    watchers: list[Watcher] = field(default_factory=list)


class Board:
    """Tickets; every method may be called by any thread.

    A change is on disk before anybody is told of it. Where the disk does not take it, a result is
    none (:meth:`move` raises); any other change holds all the same, and is written when it can be.
    """

    def __init__(self, archive: Archive, crier: Crier, meter: Meter) -> None:
        self._archive = archive
        self._crier = crier
        self._meter = meter
        self._lock = RLock()
        self._logs: dict[str, Log] = {}
        self._unsaved: dict[str, Event] = {}
        for ticket in archive.of("queued", "running"):
            self._recover(ticket)

    def add(self, ticket: Ticket, task: Task) -> None:
        """A new ticket, which is queued.

        Raises:
            MediaError, OSError, sqlite3.Error: it cannot be written; there is no such ticket.
        """
        event = Event(1, ticket)
        self._archive.add(event, task)
        with self._lock:
            log = self._logs[ticket.id] = Log(ticket, 0)
            self._happen(log, event)
        self._meter.moved(ticket.state)

    def move(self, ticket: str, state: State, outcome: Outcome | None = None) -> Ticket | None:
        """Bring a ticket to another state; ``None`` if it is in one that this does not follow.

        Raises:
            UnknownTicketError: there is no such ticket.
            sqlite3.Error: it has its results and cannot be written; it stays as it was.
        """
        moved = self._move([ticket], state, outcome)
        return moved[0] if moved else None

    def begin(self, tickets: Iterable[str]) -> list[Ticket]:
        """Those of ``tickets`` that were queued are running now."""
        with self._lock:  # one may be deleted at any moment
            return self._move([each for each in tickets if each in self._logs], "running", None)

    def step(self, ticket: str, step: Step) -> None:
        """How far a ticket is that is running; steps never go back."""
        with self._lock:
            log = self._logs.get(ticket)
            if log is None or log.ticket.state != "running":
                return
            before = log.ticket.step
            if before is None or before.done < step.done or before.stage != step.stage:
                done = max(step.done, before.done) if before else step.done
                now = replace(log.ticket, step=replace(step, done=done))
                self._happen(log, Event(log.number + 1, now))

    def ticket(self, ticket: str) -> Ticket:
        """As it is now.

        Raises:
            UnknownTicketError: there is none.
        """
        log = self._logs.get(ticket)  # without the lock: a commit under way holds up no reader
        return log.ticket if log else self._last(ticket).ticket

    def state(self, ticket: str) -> State:
        """Where a ticket stands; one that there is not any more was cancelled."""
        try:
            return self.ticket(ticket).state
        except UnknownTicketError:
            return "cancelled"

    def now(self, ticket: Ticket) -> Ticket:
        """A ticket that was read from the disk, as it is now."""
        log = self._logs.get(ticket.id)
        unsaved = self._unsaved.get(ticket.id)
        return log.ticket if log else unsaved.ticket if unsaved else ticket

    def watch(self, ticket: str, listener: Listener, after: int) -> Callable[[], None]:
        """Tell of events behind number ``after``, those that were and those to come.

        Raises:
            UnknownTicketError: there is none.
        """
        watcher = Watcher(listener)
        with self._lock:
            log = self._logs.get(ticket)
            events = log.events if log else [self._last(ticket)]
            self._crier.tell(watcher, [each for each in events if each.number > after])
            if log:
                log.watchers.append(watcher)

        def end() -> None:
            watcher.gone = True
            with self._lock:
                if log and watcher in log.watchers:
                    log.watchers.remove(watcher)

        return end

    def save(self) -> None:
        """Write what could not be written before; what still cannot be is kept."""
        with self._lock:
            if not self._unsaved:
                return
            try:
                self._archive.save(list(self._unsaved.values()))
            except sqlite3.Error as error:
                logger.warning("%d jobs cannot be written yet: %s", len(self._unsaved), error)
            else:
                self._unsaved.clear()

    def forget(self, tickets: Iterable[str]) -> None:
        """There are no such tickets any more, but for those that are under way.

        Raises:
            sqlite3.Error: that cannot be written; they are there as before.
        """
        with self._lock:
            gone = [each for each in tickets if each not in self._logs]
            self._archive.forget(gone)
            for each in gone:
                self._unsaved.pop(each, None)

    def _move(self, tickets: Iterable[str], state: State, outcome: Outcome | None) -> list[Ticket]:
        with self._lock:
            found = [self._log(ticket) for ticket in tickets]
            logs = [log for log in found if state in MOVES[log.ticket.state]]
            events = [Event(log.number + 1, _moved(log.ticket, state, outcome)) for log in logs]
            self._save(events)
            for log, event in zip(logs, events, strict=True):
                self._logs[event.ticket.id] = log
                self._happen(log, event)
        for event in events:
            self._meter.moved(state)
            self._archive.tidy(event.ticket.id, state)
        return [event.ticket for event in events]

    def _save(self, events: list[Event]) -> None:
        if not events:
            return
        try:
            self._archive.save(events)
        except sqlite3.Error:
            if any(event.ticket.state == "completed" for event in events):
                raise
            logger.exception("%d jobs cannot be written", len(events))
            self._unsaved.update({event.ticket.id: event for event in events})
        else:
            for event in events:
                self._unsaved.pop(event.ticket.id, None)

    def _happen(self, log: Log, event: Event) -> None:
        log.ticket, log.number = event.ticket, event.number
        log.events.append(event)
        for watcher in log.watchers:
            self._crier.tell(watcher, [event])
        log.watchers = [watcher for watcher in log.watchers if not watcher.gone]
        if event.ticket.ended:
            del self._logs[event.ticket.id]

    def _log(self, ticket: str) -> Log:
        log = self._logs.get(ticket)
        if log is None:
            last = self._last(ticket)
            log = Log(last.ticket, last.number)
        return log

    def _last(self, ticket: str) -> Event:
        with self._lock:
            log = self._logs.get(ticket)  # it may have been queued again meanwhile
            if log:
                return log.events[-1]
            return self._unsaved.get(ticket) or self._archive.find(ticket)

    def _recover(self, ticket: str) -> None:
        """What a process that ended had under way is interrupted."""
        last = self._archive.find(ticket)
        log = Log(last.ticket, last.number + GAP)
        now = _moved(log.ticket, "interrupted", Outcome(trouble=INTERRUPTED))
        self._archive.save([Event(log.number, now)])
        self._meter.moved("interrupted")


def _moved(ticket: Ticket, state: State, outcome: Outcome | None) -> Ticket:
    """The ticket in another state, with the time that belongs to it."""
    now, times = time.time(), ticket.times
    if state == "queued":
        return ticket.moved(state, times=Times(times.created), step=None, outcome=Outcome())
    if state == "running":
        return ticket.moved(state, times=replace(times, started=now))
    if state != "expired":
        times = replace(times, ended=now)
    return ticket.moved(state, times=times, step=None, outcome=outcome or ticket.outcome)
