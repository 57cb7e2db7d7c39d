"""The SQLite file of an archive: who has it open, one writer, one reader, whole transactions."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from loraloom.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VERSION = 1

SCHEMA = """
CREATE TABLE IF NOT EXISTS tickets (
    age INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    owner TEXT NOT NULL,
    state TEXT NOT NULL,
    ended REAL,
    nbytes INTEGER NOT NULL,
    number INTEGER NOT NULL,
    ticket TEXT NOT NULL,
    task TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS by_state ON tickets (state, ended);
CREATE INDEX IF NOT EXISTS by_owner ON tickets (owner, kind, age);
"""


class Database:
    """For one process at a time and any of its threads.

    Raises:
        SettingsError: another process has it open, it cannot be written, or it is of another
            version.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._taken = _take(folder)
            try:
                self._writing, self._reading = _connect(folder), _connect(folder)
            except BaseException:
                self._taken.close()
                raise
        except (OSError, sqlite3.Error) as error:
            raise SettingsError(f"state folder {folder} cannot be used: {error}") from error
        self._write_lock, self._read_lock = threading.Lock(), threading.Lock()

    def close(self) -> None:
        """Let another process have it."""
        with self._write_lock, self._read_lock:
            for connection in (self._writing, self._reading, self._taken):
                connection.close()

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or nothing."""
        with self._write_lock:
            self._writing.execute("BEGIN IMMEDIATE")
            try:
                yield self._writing
                self._writing.execute("COMMIT")
            except BaseException:
                if self._writing.in_transaction:  # a full disk has ended it already
                    self._writing.execute("ROLLBACK")
                raise

    def all(self, query: str, *values: object) -> list[Any]:
        """The rows of an answer, of what is committed."""
        with self._read_lock:
            return self._reading.execute(query, values).fetchall()

    def one(self, query: str, *values: object) -> Any:
        """Its first row, or ``None``."""
        rows = self.all(query, *values)
        return rows[0] if rows else None


def _connect(folder: Path) -> sqlite3.Connection:
    """One that any thread may use, under a lock; a commit waits for no disk but survives a kill."""
    database = sqlite3.connect(
        folder / "jobs.sqlite", isolation_level=None, check_same_thread=False, timeout=10
    )
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        _check_version(database)
        database.executescript(SCHEMA)
        database.execute(f"PRAGMA user_version = {VERSION}")
    except BaseException:
        database.close()
        raise
    return database


def _check_version(database: sqlite3.Connection) -> None:
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version not in {0, VERSION}:
        raise sqlite3.DatabaseError(
            f"its jobs.sqlite is of version {version}, this Loraloom knows {VERSION}"
        )


def _take(folder: Path) -> sqlite3.Connection:
    """A lock that the system gives back when the process ends, however it ends."""
    taken = sqlite3.connect(
        folder / "in-use.sqlite", isolation_level=None, check_same_thread=False, timeout=0
    )
    try:
        taken.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        taken.close()
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise
        raise SettingsError(f"state folder {folder} is in use by another process") from error
    return taken
