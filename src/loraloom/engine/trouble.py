"""Why a job failed, as its owner may read it: a code, and a sentence without our file names."""

from __future__ import annotations

import errno
import sqlite3
from typing import TYPE_CHECKING

from loraloom.errors import (
    AdapterChangedError,
    AdapterCoverageError,
    AdapterFileError,
    AdapterMismatchError,
    BudgetError,
    InvalidRequestError,
    UnknownAdapterError,
)

from .ticket import Trouble

if TYPE_CHECKING:
    from collections.abc import Iterator

CANCELLED = Trouble("cancelled", "the job was cancelled")
INTERRUPTED = Trouble("interrupted", "the server stopped before the job was done")
FULL = Trouble("storage_full", "the server has no room left to keep the result")
INTERNAL = Trouble("internal_error", "the job failed inside the server")
MEMORY = Trouble("out_of_memory", "the job needs more memory than there is")

TOLD: tuple[tuple[type[Exception], str], ...] = (
    (UnknownAdapterError, "lora_not_found"),
    (AdapterMismatchError, "lora_incompatible"),
    (InvalidRequestError, "invalid_value"),
    (BudgetError, "out_of_memory"),
)
"""Errors whose own sentence is for the owner, and their codes."""

UNTOLD: tuple[tuple[type[Exception], Trouble], ...] = (
    (
        AdapterChangedError,
        Trouble(
            "lora_changed",
            "the file of an adapter is gone, or holds other bytes than were published",
        ),
    ),
    (
        AdapterCoverageError,
        Trouble("lora_incompatible", "an adapter does not fit the model in all of its layers"),
    ),
    (AdapterFileError, Trouble("lora_invalid", "the file of an adapter cannot be read")),
    (MemoryError, MEMORY),
)
"""Errors whose sentence names files of the server, and what is said instead."""

NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


def trouble_of(error: BaseException) -> Trouble:
    """What is said of an error; whatever is nobody's fault but ours is an internal one."""
    if any(map(_is_full, _causes(error))):
        return FULL
    for kind, code in TOLD:
        if isinstance(error, kind):
            return Trouble(code, str(error))
    for kind, trouble in UNTOLD:
        if isinstance(error, kind):
            return trouble
    return MEMORY if _is_torch_memory(error) else INTERNAL


def timed_out(seconds: float) -> Trouble:
    """That of a job which took longer, waiting and running, than it may."""
    return Trouble("timeout", f"the job was not done within {seconds:g} seconds")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _is_full(error: BaseException) -> bool:
    if isinstance(error, sqlite3.OperationalError):
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return isinstance(error, OSError) and error.errno in NO_ROOM


def _is_torch_memory(error: BaseException) -> bool:
    """Torch says so by a class of its own on a device, and in words on a CPU."""
    import torch  # noqa: PLC0415 - the queue and the archive do without

    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
