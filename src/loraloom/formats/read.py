"""From a path to a reading: exactly one reader claims a file, and every key of it lands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from loraloom.errors import AdapterCoverageError, AdapterFileError

from . import diffusers, peft
from .pairs import Format, read_pairs
from .reading import refusal
from .source import source_of

if TYPE_CHECKING:
    from .names import NameTable
    from .reading import Reading
    from .source import Source


class Reader(Protocol):
    """A module that reads one format."""

    def claims(self, source: Source) -> bool: ...

    def read(self, source: Source, names: NameTable, alpha: float | None) -> Reading: ...


READERS: tuple[Reader, ...] = (peft, diffusers)


def survey(
    path: str | Path,
    names: NameTable,
    *,
    alpha: float | None = None,
    allow_partial: bool = False,
) -> Reading:
    """What the adapter at ``path`` would do to the model of ``names``; no tensor is read.

    ``alpha`` is for layers that carry none of their own. With ``allow_partial`` the reading may
    have problems, but never no entry at all.

    Raises:
        AdapterFileError: nothing there is readable.
        AdapterConfigError: what is said of ranks and alphas is malformed or contradictory.
        AdapterCoverageError: a key has no place, or no key has one.
    """
    reading = understood(path, names, alpha=alpha)
    if not reading.entries or (reading.problems and not allow_partial):
        raise AdapterCoverageError(refusal(reading, names))
    return reading


def understood(path: str | Path, names: NameTable, *, alpha: float | None = None) -> Reading:
    """The same without a verdict: every key has an entry or a problem, and all may have problems.

    Raises:
        AdapterFileError: nothing there is readable.
        AdapterConfigError: what is said of ranks and alphas is malformed or contradictory.
    """
    source = source_of(Path(path))
    if not source.header.tensors:
        raise AdapterFileError(f"adapter file '{source.path}' holds no tensors")
    claimants = [reader for reader in READERS if reader.claims(source)]
    assert len(claimants) <= 1, f"two readers claim '{source.path}'"
    if not claimants:
        return read_pairs(Format("no known format", lambda _: None), source, names, None)
    return claimants[0].read(source, names, alpha)
