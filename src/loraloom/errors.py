"""The one tree of errors: one class per cause, each message says who, where, got and wanted."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


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


def closest(name: str, known: Iterable[str]) -> Sequence[str]:
    """At most three of ``known`` that look like ``name``, the nearest first."""
    return get_close_matches(name, list(known), n=3, cutoff=0.5)


def hint(close: Sequence[str], known: Iterable[str]) -> str:
    """The end of a sentence that helps somebody who mistyped a name."""
    if close:
        return "; did you mean " + " or ".join(repr(name) for name in close) + "?"
    some = sorted(known)
    if not some:
        return "; none is loaded"
    shown = ", ".join(some[:8]) + (f" and {len(some) - 8} more" if len(some) > 8 else "")
    return f"; known are {shown}"
