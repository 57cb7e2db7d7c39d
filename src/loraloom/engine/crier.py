"""Events to those who listen, on a thread of their own: whoever listens slowly holds up nobody."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Event as Flag
from threading import Lock, Thread
from typing import TYPE_CHECKING, TypeAlias

from .ticket import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Listener: TypeAlias = Callable[[Event], None]

logger = logging.getLogger(__name__)


class Watcher:
    """Somebody who listens, and the events that are yet to be told.

    Of steps only the last one waits, so what waits is bounded by the changes of state.
    """

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.gone = False
        self._pending: deque[Event] = deque()
        self._lock = Lock()
        self._telling = False

    def add(self, events: Iterable[Event]) -> bool:
        """Let events wait; says whether somebody has to come and tell them."""
        with self._lock:
            for event in events:
                if event.is_step and self._pending and self._pending[-1].is_step:
                    self._pending.pop()
                self._pending.append(event)
            wanted = bool(self._pending) and not self._telling
            self._telling = self._telling or wanted
            return wanted

    def tell(self) -> None:
        """Tell what waits, until nothing does."""
        while (event := self._next()) is not None:
            try:
                self.listener(event)
            except Exception:
                # its failure is its own; it hears no more, and the others hear on
                self.gone = True
                logger.exception("a listener of job %s failed", event.ticket.id)

    def _next(self) -> Event | None:
        with self._lock:
            self._telling = bool(self._pending) and not self.gone
            return self._pending.popleft() if self._telling else None


class Crier:
    """The thread that tells."""

    def __init__(self) -> None:
        self._due: SimpleQueue[Watcher | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._ended = Flag()

    def start(self) -> None:
        """Begin to tell."""
        self._thread = Thread(target=self._run, name="loraloom-crier", daemon=True)
        self._thread.start()

    def tell(self, watcher: Watcher, events: Iterable[Event]) -> None:
        """Have ``events`` told soon, behind those that already wait."""
        if watcher.add(events):
            self._due.put(watcher)
            if self._ended.is_set():
                self._rest()

    def close(self, patience: float) -> None:
        """Tell what waits and end; what comes later is told at once."""
        if self._thread is None:
            self._ended.set()
            self._rest()
            return
        self._due.put(None)
        self._thread.join(patience)

    def _run(self) -> None:
        while (watcher := self._due.get()) is not None:
            watcher.tell()
        self._ended.set()
        self._rest()  # what came in between would wait without end

    def _rest(self) -> None:
        with suppress(Empty):
            while True:
                watcher = self._due.get_nowait()
                if watcher is not None:
                    watcher.tell()
