"""Tickets and results on disk: what is told as finished is there, whatever happens to the process.

A row of SQLite for a ticket, a folder for its files. A result is written beside its place and
moved there whole, then the row says so; what no row speaks of is swept away at the next opening.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from loraloom.errors import ResultGoneError, UnknownTicketError
from loraloom.pipelines.files import replacing
from loraloom.pipelines.media import load_image

from .database import Database
from .record import read_task, read_ticket, worn_in, write_task, write_ticket
from .ticket import Event

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL.Image import Image

    from loraloom.core.mix import AdapterKey

    from .ticket import Format, Kind, State, Task, Ticket

Order: TypeAlias = Literal["desc", "asc"]
"""The newest first, or the oldest."""

SUFFIX: dict[Format, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "mp4": ".mp4"}

ASKED = "asked-"
"""How the names of images begin that a task shows."""


@dataclass(frozen=True, slots=True)
class Page:
    """Which tickets to list: of one kind, of one owner, those behind the one called ``after``."""

    kind: Kind | None = None
    owner: str | None = None
    after: str | None = None
    limit: int = 20
    order: Order = "desc"


@dataclass(frozen=True, slots=True)
class Kept:
    """The results of a ticket on disk: since when, and how many bytes."""

    ticket: str
    ended: float
    nbytes: int


class Archive:
    """A folder of tickets, for one process at a time; every method may be called by any thread.

    Args:
        folder: made where it is not there.

    Raises:
        SettingsError: another process has it open, or it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._database = Database(folder)
        self._files = folder / "jobs"
        self._files.mkdir(exist_ok=True)
        self._sweep()

    def close(self) -> None:
        """Let another process have it."""
        self._database.close()

    def add(self, event: Event, task: Task) -> None:
        """Keep a new ticket, and of its task all that it takes to run it again.

        Raises:
            MediaError, OSError, sqlite3.Error: it cannot be written; nothing of it is left.
        """
        ticket, written = event.ticket, write_task(task)
        try:
            if written.images:
                self._home(ticket.id).mkdir(exist_ok=True)
            for number, image in enumerate(written.images):
                with replacing(self._asked(ticket.id, number)) as draft:
                    image.convert("RGB").save(draft, "PNG", compress_level=1)
            with self._database.changing() as database:
                database.execute(
                    "INSERT INTO tickets (id, kind, owner, state, ended, nbytes, number, ticket,"
                    " task) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (ticket.id, ticket.kind, ticket.owner, *_columns(event), written.text),
                )
        except BaseException:
            shutil.rmtree(self._home(ticket.id), ignore_errors=True)
            raise

    def save(self, events: Sequence[Event]) -> None:
        """Keep what became of tickets, all of them or none.

        Raises:
            sqlite3.Error: it cannot be written.
        """
        rows = [(*_columns(event), event.ticket.id) for event in events]
        with self._database.changing() as database:
            database.executemany(
                "UPDATE tickets SET state = ?, ended = ?, nbytes = ?, number = ?, ticket = ?"
                " WHERE id = ?",
                rows,
            )

    def find(self, ticket: str) -> Event:
        """What was saved last of a ticket.

        Raises:
            UnknownTicketError: nothing was, or it was forgotten.
        """
        row = self._database.one("SELECT number, ticket FROM tickets WHERE id = ?", ticket)
        if row is None:
            raise UnknownTicketError(f"there is no job {ticket!r}, or not any more")
        return Event(row[0], read_ticket(row[1]))

    def task(self, ticket: str) -> Task:
        """What was asked for, to run it again.

        Raises:
            UnknownTicketError: there is no such ticket.
            RecordError, MediaError: it, or an image of it, cannot be read any more.
        """
        text = self._task(ticket)
        images: dict[int, Image] = {}

        def image(number: int) -> Image:
            if number not in images:
                images[number] = load_image(self._asked(ticket, number))
            return images[number]

        return read_task(text, image)

    def worn(self, ticket: str) -> frozenset[AdapterKey]:
        """The versions of adapters that its task names.

        Raises:
            UnknownTicketError: there is no such ticket.
            RecordError: it cannot be read any more.
        """
        return worn_in(self._task(ticket))

    def page(self, page: Page) -> list[Ticket]:
        """Tickets as they were saved.

        Raises:
            UnknownTicketError: there is none called ``after``.
        """
        asked: dict[str, object] = {"kind": page.kind, "owner": page.owner}
        wanted = {name: value for name, value in asked.items() if value is not None}
        where = [f"{name} = ?" for name in wanted]
        values = list(wanted.values())
        if page.after is not None:
            row = self._database.one("SELECT age FROM tickets WHERE id = ?", page.after)
            if row is None:
                raise UnknownTicketError(f"there is no job {page.after!r}, or not any more")
            where.append(f"age {'<' if page.order == 'desc' else '>'} ?")
            values.append(row[0])
        rows = self._database.all(
            "SELECT ticket FROM tickets"
            + (f" WHERE {' AND '.join(where)}" if where else "")
            + f" ORDER BY age {'DESC' if page.order == 'desc' else 'ASC'} LIMIT ?",
            *values,
            page.limit,
        )
        return [read_ticket(text) for (text,) in rows]

    def of(self, *states: State) -> list[str]:
        """The tickets in one of ``states``, the oldest first."""
        marks = ", ".join("?" * len(states))
        rows = self._database.all(
            f"SELECT id FROM tickets WHERE state IN ({marks}) ORDER BY age", *states
        )
        return [ticket for (ticket,) in rows]

    def kept(self) -> list[Kept]:
        """Tickets whose results are here, those that ended first before the others."""
        rows = self._database.all(
            "SELECT id, ended, nbytes FROM tickets WHERE state = 'completed' ORDER BY ended, age"
        )
        return [Kept(*row) for row in rows]

    def ended(self, before: float, most: int) -> list[str]:
        """Tickets without results that ended before a time, or are older than the ``most`` newest.

        Those that are under way and those whose results are here are never among them.
        """
        rows = self._database.all(
            "SELECT id FROM tickets WHERE state IN ('failed', 'cancelled', 'interrupted',"
            " 'expired') AND (ended < ? OR age <= (SELECT max(age) FROM tickets) - ?)"
            " ORDER BY age",
            before,
            most,
        )
        return [ticket for (ticket,) in rows]

    def place(self, ticket: str, index: int, format: Format) -> Path:  # noqa: A002 - its one name
        """Where a result is to be written; its folder is there."""
        home = self._home(ticket)
        home.mkdir(exist_ok=True)
        return home / f"{index}{SUFFIX[format]}"

    def file(self, ticket: Ticket, index: int) -> Path:
        """The file of a result, which is whole.

        Raises:
            ResultGoneError: it has expired, was removed by hand, or there never was one.
        """
        outputs = ticket.outcome.outputs
        if ticket.state == "completed" and 0 <= index < len(outputs):
            path = self._home(ticket.id) / outputs[index].file
            if path.is_file() and path.stat().st_size == outputs[index].nbytes:
                return path
        raise ResultGoneError(f"job {ticket.id!r} has no result {index}, or not any more")

    def tidy(self, ticket: str, state: State) -> None:
        """Remove the files that a ticket in this state does not need any more."""
        home = self._home(ticket)
        if state in {"queued", "running"} or not home.exists():
            return
        if state not in {"completed", "interrupted"}:
            shutil.rmtree(home, ignore_errors=True)
            return
        with suppress(OSError):  # what is left is swept away at the next opening
            for path in home.iterdir():
                asked = path.name.startswith(ASKED)
                if path.name.startswith(".") or asked == (state == "completed"):
                    path.unlink(missing_ok=True)
            if not any(home.iterdir()):
                home.rmdir()

    def forget(self, tickets: Sequence[str]) -> None:
        """Remove tickets and all their files."""
        with self._database.changing() as database:
            database.executemany("DELETE FROM tickets WHERE id = ?", [(each,) for each in tickets])
        for each in tickets:
            shutil.rmtree(self._home(each), ignore_errors=True)

    def _task(self, ticket: str) -> str:
        row = self._database.one("SELECT task FROM tickets WHERE id = ?", ticket)
        if row is None:
            raise UnknownTicketError(f"there is no job {ticket!r}, or not any more")
        text: str = row[0]
        return text

    def _home(self, ticket: str) -> Path:
        return self._files / ticket

    def _asked(self, ticket: str, number: int) -> Path:
        return self._home(ticket) / f"{ASKED}{number}.png"

    def _sweep(self) -> None:
        """Remove files that no row speaks of: their writing was cut short, or their removal."""
        states: dict[str, State] = dict(self._database.all("SELECT id, state FROM tickets"))
        for home in self._files.iterdir():
            state = states.get(home.name, "failed")
            self.tidy(home.name, "interrupted" if state in {"queued", "running"} else state)


def _columns(event: Event) -> tuple[str, float | None, int, int, str]:
    ticket = event.ticket
    kept = ticket.outcome.outputs if ticket.state == "completed" else ()
    nbytes = sum(output.nbytes for output in kept)
    return ticket.state, ticket.times.ended, nbytes, event.number, write_ticket(ticket)
