"""The catalogue on disk: editions, and what names mean, in SQLite."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

from loraloom.core.mix import AdapterKey
from loraloom.core.records import record
from loraloom.errors import SettingsError, StorageFullError

from .editions import Edition, Facts, Fit, Label, Stamp

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from os import PathLike

MEMORY = ":memory:"
VERSION = 1

SCHEMA = """
CREATE TABLE IF NOT EXISTS editions (
    model TEXT NOT NULL,
    name TEXT NOT NULL,
    digest TEXT NOT NULL,
    path BLOB NOT NULL,
    source TEXT NOT NULL,
    fit TEXT NOT NULL,
    facts TEXT NOT NULL,
    published REAL NOT NULL,
    stamp TEXT NOT NULL,
    PRIMARY KEY (model, name, digest)
);
CREATE TABLE IF NOT EXISTS names (
    model TEXT NOT NULL,
    name TEXT NOT NULL,
    digest TEXT,
    label TEXT NOT NULL,
    PRIMARY KEY (model, name)
);
"""

PATHS = "SELECT path FROM editions"


@dataclass(frozen=True, slots=True)
class Entry:
    """What a name means: the digest of its current edition; ``None`` says that it is withdrawn."""

    digest: str | None
    label: Label


@dataclass(frozen=True, slots=True)
class Contents:
    """All of a section at one moment: what names mean, and every edition that is still there."""

    names: Mapping[str, Entry]
    editions: Mapping[AdapterKey, Edition]

    def canonical(self, name: str) -> str:
        """The name of which ``name`` is an alias, else ``name`` itself."""
        if name in self.names:
            return name
        owners = (own for own, entry in self.names.items() if name in entry.label.aliases)
        return next(owners, name)

    def current(self, name: str) -> Edition | None:
        """The edition that a name means now."""
        entry = self.names.get(name)
        if entry is None or entry.digest is None:
            return None
        return self.editions[AdapterKey(name, entry.digest)]

    def past(self) -> list[AdapterKey]:
        """The editions that no name means any more."""
        return [key for key in self.editions if self.current(key.name) != self.editions[key]]


class Shelf:
    """A database of adapters, for one process; ``:memory:`` lasts as long as the object.

    What was written is there after the process was killed at any time, and nothing by halves.

    Raises:
        SettingsError: the file cannot be used, or is of another version.
    """

    def __init__(self, path: str | PathLike[str] = MEMORY) -> None:
        self.folder = None if str(path) == MEMORY else Path(path).absolute().parent
        self._lock = RLock()
        try:
            if self.folder is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
            self._sql = _connect(path)
        except (OSError, sqlite3.Error) as error:
            raise SettingsError(f"the adapters in '{path}' cannot be used: {error}") from error

    def section(self, model: str) -> Section:
        """The adapters of one model."""
        return Section(self, model)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all that the block writes, or nothing where it raises.

        Raises:
            StorageFullError: the disk has no room.
        """
        with self._lock:
            try:
                self._sql.execute("BEGIN IMMEDIATE")
                try:
                    yield self._sql
                    self._sql.execute("COMMIT")
                except BaseException:
                    if self._sql.in_transaction:  # a full disk has ended it already
                        self._sql.execute("ROLLBACK")
                    raise
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                    raise
                raise StorageFullError("the disk has no room for the catalogue") from error

    def rows(self, query: str, *values: object) -> list[Any]:
        """The rows of an answer."""
        with self._lock:
            return self._sql.execute(query, values).fetchall()

    def paths(self) -> frozenset[Path]:
        """The files of all editions of all models."""
        return frozenset(Path(os.fsdecode(path)) for (path,) in self.rows(PATHS))

    def close(self) -> None:
        with self._lock:
            self._sql.close()


class Section:
    """The adapters of one model. ``contents`` is what the shelf holds of them.

    Only one thread at a time may write; any may read ``contents``, a value that changes whole.
    """

    def __init__(self, shelf: Shelf, model: str) -> None:
        self.shelf = shelf
        self.model = model
        self.contents = Contents(
            {
                name: Entry(digest, record(Label, json.loads(label), "label"))
                for name, digest, label in shelf.rows(
                    "SELECT name, digest, label FROM names WHERE model = ?", model
                )
            },
            {
                edition.key: edition
                for edition in map(
                    _edition,
                    shelf.rows(
                        "SELECT name, digest, path, source, fit, facts, published, stamp "
                        "FROM editions WHERE model = ?",
                        model,
                    ),
                )
            },
        )

    def alone(self, edition: Edition) -> bool:
        """Whether no other edition, of any model, has its file."""
        return len(self.shelf.rows(f"{PATHS} WHERE path = ?", os.fsencode(edition.path))) < 2

    def publish(self, edition: Edition, label: Label) -> None:
        """Have ``edition`` be what its name means."""
        key, entry = edition.key, Entry(edition.key.digest, label)
        with self.shelf.writing() as sql:
            sql.execute(
                "INSERT OR REPLACE INTO editions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (self.model, *_row(edition)),
            )
            self._write(sql, key.name, entry)
        self.contents = Contents(
            {**self.contents.names, key.name: entry}, {**self.contents.editions, key: edition}
        )

    def name(self, name: str, entry: Entry) -> None:
        """Have ``name`` mean ``entry``."""
        with self.shelf.writing() as sql:
            self._write(sql, name, entry)
        self.contents = replace(self.contents, names={**self.contents.names, name: entry})

    def forget(self, name: str) -> None:
        """Have ``name`` mean nothing."""
        with self.shelf.writing() as sql:
            sql.execute("DELETE FROM names WHERE (model, name) = (?, ?)", (self.model, name))
        names = {other: entry for other, entry in self.contents.names.items() if other != name}
        self.contents = replace(self.contents, names=names)

    def remove(self, key: AdapterKey) -> None:
        """Remove an edition that no name means."""
        with self.shelf.writing() as sql:
            sql.execute(
                "DELETE FROM editions WHERE (model, name, digest) = (?, ?, ?)",
                (self.model, key.name, key.digest),
            )
        editions = {other: each for other, each in self.contents.editions.items() if other != key}
        self.contents = replace(self.contents, editions=editions)

    def _write(self, sql: sqlite3.Connection, name: str, entry: Entry) -> None:
        sql.execute(
            "INSERT OR REPLACE INTO names VALUES (?, ?, ?, ?)",
            (self.model, name, entry.digest, json.dumps(asdict(entry.label))),
        )


def _connect(path: str | PathLike[str]) -> sqlite3.Connection:
    """A connection for any thread, under a lock. What is committed outlasts a loss of power."""
    sql = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    try:
        sql.execute("PRAGMA journal_mode = WAL")
        sql.execute("PRAGMA synchronous = FULL")
        (version,) = sql.execute("PRAGMA user_version").fetchone()
        if version in {0, VERSION}:
            sql.executescript(SCHEMA)
            sql.execute(f"PRAGMA user_version = {VERSION}")
    except BaseException:
        sql.close()
        raise
    if version not in {0, VERSION}:
        sql.close()
        raise sqlite3.DatabaseError(f"they are of version {version}, want {VERSION}")
    return sql


def _row(edition: Edition) -> tuple[object, ...]:
    """Its columns from ``name`` on."""
    values = (json.dumps(asdict(value)) for value in (edition.fit, edition.facts))
    where = os.fsencode(edition.path), edition.source
    when = edition.published, json.dumps(asdict(edition.stamp))
    return edition.key.name, edition.key.digest, *where, *values, *when


def _edition(row: tuple[Any, ...]) -> Edition:
    name, digest, path, source, fit, facts, published, stamp = row
    return Edition(
        AdapterKey(name, digest),
        Path(os.fsdecode(path)),
        source,
        record(Fit, json.loads(fit), "fit"),
        record(Facts, json.loads(facts), "facts"),
        published,
        record(Stamp, json.loads(stamp), "stamp"),
    )
