"""The one tree of errors: one class per cause, each message says who, where, got and wanted."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_LONGEST, _MOST = 512, 300
"""Characters of a name and names that are compared letter by letter."""

_WORD = re.compile(r"[a-z]+|\d+")


class LoraloomError(Exception):
    """Base of everything Loraloom raises for a cause outside its own code."""


class InvalidRequestError(LoraloomError):
    """A request asks for something that no model could do: an empty list, a wrong size."""


class InvalidStrengthError(InvalidRequestError):
    """A strength that is not a finite number."""


class InvalidMixError(InvalidRequestError):
    """A mix that names one adapter twice."""


class InvalidScheduleError(InvalidRequestError):
    """A curve of strength whose knots are not in order, or a pattern that is none."""


class InvalidStageError(InvalidRequestError):
    """Stages that no run can go through, or that a request does not fit."""


class RecordError(LoraloomError):
    """A JSON value that is not the record it should be."""


class UnknownAdapterError(LoraloomError):
    """A name or key that the catalogue does not hold; ``close`` are similar names."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name = name
        self.close = tuple(closest(name, known))
        super().__init__(f"adapter {name!r} is not known{hint(self.close, known)}")


class DigestMismatchError(LoraloomError):
    """The bytes of an adapter are not the bytes that were asked for."""


class AdapterFileError(LoraloomError):
    """An adapter file that cannot be read: absent, truncated, a pickle, no adapter at all."""


class AdapterConfigError(AdapterFileError):
    """An adapter's configuration is malformed or contradicts its tensors."""


class AdapterValueError(AdapterFileError):
    """Tensors that hold NaN or infinity, or an adapter of zeros only."""


class AdapterCoverageError(AdapterFileError):
    """Keys of an adapter file that the model has no place for, or places that they do not fit."""


class AdapterMismatchError(LoraloomError):
    """An adapter that does not fit the component it is put on."""


class BudgetError(LoraloomError):
    """Something that does not fit in the bytes that it may take."""


class RestoreError(LoraloomError):
    """A weight whose pristine bytes are not those that it had when an adapter was fused."""


class RowsError(LoraloomError):
    """The rows that reach a layer cannot be assigned to the requests of the batch."""


class ModelError(LoraloomError):
    """A model that cannot be loaded: unknown, incomplete, of another family."""


class MediaError(LoraloomError):
    """A picture or video file that cannot be read or written."""


class SettingsError(LoraloomError):
    """A setting that cannot be: of another type, out of its range, unknown."""


class SourceError(LoraloomError):
    """An adapter's source that may not be fetched or cannot be: not allowed, absent, too large."""


class SourceUnavailableError(SourceError):
    """A hub that does not answer, or that has no such thing for us."""


class SourceTooLargeError(SourceError):
    """An adapter of more bytes than one may have."""


class StorageFullError(SourceError):
    """The disk has no room for an adapter."""


class AdapterChangedError(AdapterFileError):
    """The file of a published adapter is gone, or holds other bytes than were published."""


class QueueFullError(LoraloomError):
    """More is waiting than may wait; ``retry_after`` is a guess in seconds."""

    def __init__(self, waiting: int, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(f"{waiting} jobs are waiting, which is all that may; try again later")


class NotReadyError(LoraloomError):
    """The engine takes nothing yet, or nothing any more."""


class UnknownTicketError(LoraloomError):
    """A job that there is not, or not any more, or not for this caller."""


class ResultGoneError(LoraloomError):
    """The result of a job has expired."""


class ApiError(LoraloomError):
    """A server refused a call of :class:`loraloom.Client`, or could not be reached.

    ``status`` is that of HTTP, 0 where there was no answer; ``code`` and ``param`` are the
    server's words for what is wrong, and for the field that is.
    """

    def __init__(self, status: int, code: str, message: str, param: str | None) -> None:
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        super().__init__(f"{message} ({code}, {status})" if status else message)


def closest(name: str, known: Iterable[str]) -> Sequence[str]:
    """At most three of ``known`` that look like ``name``, the nearest first.

    Comparing takes time with the product of the lengths: a name much longer than any is near to
    none, and of many only those that begin alike or share a word are compared.
    """
    if len(name) > _LONGEST:
        return []
    names = [each for each in known if len(each) <= _LONGEST]
    if len(names) > _MOST:
        words = set(_WORD.findall(name.lower()))
        names.sort(key=lambda each: _apart(name, words, each))
    return get_close_matches(name, names[:_MOST], n=3, cutoff=0.5)


def _apart(name: str, words: set[str], other: str) -> tuple[int, int]:
    """Small for what shares much with ``name``, at the cost of reading both once."""
    shared = len(words.intersection(_WORD.findall(other.lower())))
    begin = next((i for i, (a, b) in enumerate(zip(name, other, strict=False)) if a != b), 1000)
    return -2 * shared - begin, abs(len(name) - len(other))


def hint(close: Sequence[str], known: Iterable[str]) -> str:
    """The end of a sentence that helps somebody who mistyped a name."""
    if close:
        return "; did you mean " + " or ".join(repr(name) for name in close) + "?"
    some = sorted(known)
    if not some:
        return "; none is loaded"
    shown = ", ".join(some[:8]) + (f" and {len(some) - 8} more" if len(some) > 8 else "")
    return f"; known are {shown}"
