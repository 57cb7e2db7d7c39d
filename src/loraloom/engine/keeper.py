"""What has to happen by the clock: timeouts, and results that are old or take too much room."""

from __future__ import annotations

import logging
import sqlite3
import time
from contextlib import suppress
from dataclasses import dataclass
from threading import Event, Thread
from typing import TYPE_CHECKING

from loraloom.errors import UnknownTicketError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from .archive import Archive, Kept
    from .desk import Desk

logger = logging.getLogger(__name__)

OFTEN = 0.1
"""Seconds between two looks at the clock."""

TICKETS = 100_000
"""So many tickets are known, those without results included."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How long results are kept, in seconds, and how many bytes of them.

    ``grace`` are the seconds for which a result that is new, or that somebody just asked for,
    stays although there are too many bytes.
    """

    age: float
    nbytes: int
    grace: float


def too_much(
    kept: Sequence[Kept], retention: Retention, now: float, read: Collection[str] = ()
) -> list[str]:
    """The tickets whose results have to go, those that ended first before the others.

    ``kept`` is in that order; ``read`` are those that somebody reads now, who may end it.
    """

    def old(each: Kept) -> bool:
        more = retention.grace if each.ticket in read else 0.0
        return each.ended < now - retention.age - more

    gone = [each.ticket for each in kept if old(each)]
    left = [each for each in kept if not old(each)]
    room = retention.nbytes - sum(each.nbytes for each in left)
    for each in left:
        if room >= 0:
            break
        if each.ended < now - retention.grace and each.ticket not in read:
            gone.append(each.ticket)
            room += each.nbytes
    return gone


class Keeper:
    """The thread that looks at the clock."""

    def __init__(self, desk: Desk, archive: Archive, retention: Retention) -> None:
        self._desk = desk
        self._archive = archive
        self._retention = retention
        self._read: dict[str, float] = {}
        self._stop = Event()
        self._thread = Thread(target=self._run, name="loraloom-keeper", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self, patience: float) -> None:
        """End."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(patience)

    def reading(self, ticket: str) -> None:
        """Somebody asks for a result of it; it stays for a while."""
        self._read[ticket] = time.time()

    def sweep(self) -> None:
        """Let results expire, and forget tickets that have none any more."""
        now, board = time.time(), self._desk.board
        board.save()
        for ticket, when in list(self._read.items()):
            if when < now - self._retention.grace:
                self._read.pop(ticket, None)
        for ticket in too_much(self._archive.kept(), self._retention, now, self._read):
            with suppress(UnknownTicketError):  # deleted at this moment
                board.move(ticket, "expired")
        board.forget(self._archive.ended(now - 2 * self._retention.age, TICKETS))

    def _run(self) -> None:
        often = min(max(self._retention.age / 4, OFTEN), 10.0)
        swept = -often
        while not self._stop.wait(OFTEN):
            self._desk.expire()
            if time.monotonic() - swept >= often:
                try:
                    self.sweep()
                except (OSError, sqlite3.Error):  # a full disk, as a rule; it is tried again
                    logger.exception("results cannot be tidied up")
                swept = time.monotonic()
