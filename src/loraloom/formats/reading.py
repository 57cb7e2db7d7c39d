"""What a reader found in a file: every key is in an entry or in a problem."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from .names import WRAPPED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loraloom.core.mix import Component, Shape, Site

    from .names import NameTable, Place
    from .source import Source

SHOWN = 3
"""Keys that a message shows of each reason."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The two factors of one layer, by their keys, and the scale of their product."""

    place: Place
    down_key: str
    up_key: str
    rank: int
    scale: float
    alpha: float


@dataclass(frozen=True, slots=True)
class Problem:
    """A key that is not used: why, in words that other keys share, and what is particular to it."""

    key: str
    reason: str
    near: tuple[str, ...] = ()
    detail: str = ""

    def __str__(self) -> str:
        near = "near are " + " and ".join(map(repr, self.near)) if self.near else ""
        said = ", ".join(filter(None, (self.detail, near)))
        return f"{self.key!r} ({said})" if said else repr(self.key)


@dataclass(frozen=True, slots=True)
class Reading:
    """An adapter file understood: the entries are what :func:`loraloom.formats.load.load` loads.

    Attributes:
        of: how many layers the model has.
        notes: what a user should know of an adapter that loads.
        about: what the file says of itself; shown, never used.
    """

    source: Source
    format: str
    entries: tuple[Entry, ...]
    problems: tuple[Problem, ...]
    of: int
    notes: tuple[str, ...]
    about: Mapping[str, str]

    @property
    def sites(self) -> int:
        """How many layers the adapter changes."""
        return len(self.entries)

    @property
    def keys(self) -> int:
        """How many keys the file has; all but ``len(problems)`` are used."""
        return len(self.source.header.tensors)

    def summary(self) -> str:
        """One paragraph: the counts, ranks, scales, notes and problems."""
        lines = [f"'{self.source.path}' ({self.format}): {self.counts()}"]
        if self.entries:
            ranks = span([entry.rank for entry in self.entries])
            scales = span([entry.scale for entry in self.entries])
            lines.append(f"rank {ranks}, scale {scales}")
        lines.extend(self.notes)
        lines.extend(by_reason(self.problems))
        return "\n".join(lines)

    def counts(self) -> str:
        used = self.keys - len(self.problems)
        return f"{used} of {self.keys} keys used, {self.sites} of {self.of} layers matched"

    def as_dict(self) -> dict[str, object]:
        """The same as plain values, for JSON."""
        return {
            "path": str(self.source.path),
            "format": self.format,
            "keys": self.keys,
            "sites": self.sites,
            "of": self.of,
            "entries": [asdict(entry) for entry in self.entries],
            "problems": [asdict(problem) for problem in self.problems],
            "notes": list(self.notes),
            "about": dict(self.about),
        }


def refusal(reading: Reading, names: NameTable) -> str:
    """Why a reading is not loaded: the counts, the keys by reason, and what was expected."""
    component, sites = next((c, s) for c, s in _default_first(names) if s)
    layer = f"{component}.{next(iter(sites))}"
    prefixes = ", ".join(f"'{c}.'" for c in names.components)
    parts = [
        f"adapter file '{reading.source.path}' ({reading.format}): {reading.counts()}",
        *by_reason(reading.problems),
        f"wanted are layers such as {layer!r}, after {prefixes}, '{WRAPPED}' or nothing",
    ]
    if reading.entries:
        parts.append("allow_partial loads the matched layers alone")
    else:
        parts.append("nothing matched, so that allow_partial cannot help")
    return "; ".join(parts)


def by_reason(problems: Sequence[Problem]) -> list[str]:
    """One line for each reason: how many keys, and the first of them."""
    grouped: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        grouped[problem.reason].append(problem)
    return [
        f"{reason}: {counted(len(some), 'key')}: {', '.join(map(str, some[:SHOWN]))}"
        + (f" and {len(some) - SHOWN} more" if len(some) > SHOWN else "")
        for reason, some in grouped.items()
    ]


def counted(number: int, noun: str) -> str:
    """``1 key`` or ``2 keys``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def span(values: Sequence[float]) -> str:
    """``4`` or ``4 to 16``."""
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _default_first(names: NameTable) -> list[tuple[Component, Mapping[Site, Shape]]]:
    return sorted(names.components.items(), key=lambda item: item[0] != names.default)
