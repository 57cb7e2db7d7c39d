"""What the catalogue knows of adapters, as values: editions, how they are shown and worn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from loraloom.core.mix import AdapterKey, Component
from loraloom.formats.reading import by_reason, span

if TYPE_CHECKING:
    from loraloom.core.adapter import Adapter
    from loraloom.formats.reading import Reading


@dataclass(frozen=True, slots=True)
class Fit:
    """How a file is to be read.

    Attributes:
        component: that the whole file is for, where it names none or the main one.
        alpha: of layers that carry none of their own.
        allow_partial: whether a file is taken that fits only in part.
    """

    component: Component | None = None
    alpha: float | None = None
    allow_partial: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What an adapter's file holds, as its survey found it.

    Attributes:
        sites: layers that it changes, ``of`` so many that the model has.
        keys: tensors of the file, of which ``unmatched`` are not used.
        rank: a number, or ``4 to 16``; so is ``alpha``.
        nbytes: of the tensors that are used, as they lie in the file and on the host.
        components: those that it changes, sorted.
        notes: what a user should know.
        about: what the file says of itself; shown, never used.
    """

    format: str
    sites: int
    of: int
    keys: int
    unmatched: int
    rank: str
    alpha: str
    nbytes: int
    components: tuple[Component, ...] = ()
    notes: tuple[str, ...] = ()
    about: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_reading(cls, reading: Reading) -> Facts:
        """What a survey found."""
        return cls(
            format=reading.format,
            sites=reading.sites,
            of=reading.of,
            keys=reading.keys,
            unmatched=len(reading.problems),
            rank=span([entry.rank for entry in reading.entries]),
            alpha=span([entry.alpha for entry in reading.entries]),
            nbytes=nbytes(reading),
            components=tuple(sorted({entry.place.component for entry in reading.entries})),
            notes=(*reading.notes, *by_reason(reading.problems)),
            about=dict(reading.about),
        )

    @classmethod
    def of_adapter(cls, adapter: Adapter, of: int) -> Facts:
        """What an adapter holds that has no file."""
        updates = [update for sites in adapter.updates.values() for update in sites.values()]
        return cls(
            format="memory",
            sites=len(updates),
            of=of,
            keys=0,
            unmatched=0,
            rank=span([update.rank for update in updates]),
            alpha=span([update.scale * update.rank for update in updates]),
            nbytes=adapter.nbytes,
            components=tuple(sorted(adapter.updates)),
            about=dict(adapter.about),
        )


@dataclass(frozen=True, slots=True)
class Label:
    """How an adapter is offered; it belongs to the name and outlives versions.

    Attributes:
        strength: where a request says none.
        triggers: words that a prompt should hold.
        aliases: other names of it.
        pinned: whether it stays in the host's memory once it is there.
        picture: the file name of a preview image.
    """

    strength: float = 1.0
    triggers: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    pinned: bool = False
    picture: str | None = None


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a folder says of an adapter's files: equal text, equal files.

    ``settled`` is whether they had rested for a while: a file that was written just now may be
    written again within one tick of its clock, and would look the same.
    """

    text: str = ""
    settled: bool = False


@dataclass(frozen=True, slots=True)
class Edition:
    """One published version of an adapter.

    Attributes:
        path: of the file.
        source: where it came from, as it may be shown: ``upload``, ``hub:owner/name@commit/file``.
        published: seconds since 1970.
        stamp: of the file when it was read.
    """

    key: AdapterKey
    path: Path
    source: str
    fit: Fit
    facts: Facts
    published: float
    stamp: Stamp = Stamp()

    @property
    def name(self) -> str:
        return self.key.name


def nbytes(reading: Reading) -> int:
    """Of the tensors that a reading uses."""
    tensors = reading.source.header.tensors
    return sum(
        tensors[key].stop - tensors[key].start
        for entry in reading.entries
        for key in (entry.down_key, entry.up_key)
    )
