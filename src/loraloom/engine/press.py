"""Results to files, on threads of their own: the device never waits for an encoder."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from queue import Full, Queue
from threading import Thread
from time import perf_counter
from typing import TYPE_CHECKING

from loraloom.core.provenance import Provenance
from loraloom.pipelines import media

from .ticket import Output
from .trouble import trouble_of

if TYPE_CHECKING:
    from pathlib import Path

    from loraloom.models.card import Card

    from .archive import Archive
    from .desk import Desk
    from .loom import Result
    from .meter import Meter
    from .queue import Row
    from .ticket import Encoding

logger = logging.getLogger(__name__)

THREADS = 2

WAITING = 64
"""Results that wait to be written; then the device does wait, for memory has an end."""


def provenance_of(result: Result, card: Card) -> Provenance:
    """What a result's file says of how it was made."""
    return Provenance(
        model=card.name,
        model_version=card.version,
        asked=media.asked_of(result.request),
        worn=result.worn,
        policy=result.policy,
        versions=media.versions(),
    )


def write(result: Result, path: Path, card: Card, quality: int | None = None) -> None:
    """Write a picture or a video as the suffix of ``path`` says.

    Raises:
        MediaError: it cannot be written there.
    """
    provenance = provenance_of(result, card)
    canvas = result.request.canvas
    if media.kind_of(path) == "video":
        assert canvas
        media.save_video(result.frames, path, canvas.rate, provenance, result.sound)
    else:
        media.save_image(result.frames[0], path, provenance, quality)


@dataclass(frozen=True, slots=True, eq=False)
class Print:
    """A result to write."""

    row: Row
    result: Result
    card: Card
    encoding: Encoding


class Press:
    """The threads that write results and say when a ticket has all of its own."""

    def __init__(self, desk: Desk, archive: Archive, meter: Meter) -> None:
        self._desk = desk
        self._archive = archive
        self._meter = meter
        self._prints: Queue[Print | None] = Queue(WAITING)
        self._threads = [
            Thread(target=self._run, name=f"loraloom-press-{number}", daemon=True)
            for number in range(THREADS)
        ]

    def start(self) -> None:
        """Begin to write."""
        for thread in self._threads:
            thread.start()

    def put(self, order: Print) -> None:
        """Have a result written soon."""
        self._prints.put(order)

    def close(self, patience: float) -> None:
        """Write what waits, and end."""
        alive = [thread for thread in self._threads if thread.is_alive()]
        for _ in alive:
            with suppress(Full):  # the threads end with the process
                self._prints.put(None, timeout=patience)
        for thread in alive:
            thread.join(patience)

    def _run(self) -> None:
        while (order := self._prints.get()) is not None:
            try:
                if self._desk.present([order.row]):
                    self._print(order)
            except Exception as error:
                # the one place where what went wrong in writing becomes the job's own failure
                if self._desk.present([order.row]):
                    logger.exception("the result of job %s cannot be written", order.row.ticket)
                    self._desk.fail(order.row.ticket, trouble_of(error))
                else:  # its folder went with it
                    self._tidy(order.row)
            del order  # frames of a video are not kept until the next one comes

    def _print(self, order: Print) -> None:
        row, before = order.row, perf_counter()
        path = self._archive.place(row.ticket, row.index, order.encoding.format)
        write(order.result, path, order.card, order.encoding.quality)
        seconds = perf_counter() - before
        self._meter.encoded(seconds)
        output = Output(
            path.name, path.stat().st_size, order.result.request.seed, order.result.worn
        )
        if not self._desk.hand_in(row, output, seconds):
            self._tidy(row)

    def _tidy(self, row: Row) -> None:
        """Nobody waits for it any more."""
        self._archive.tidy(row.ticket, self._desk.board.state(row.ticket))
