"""What a disk complains of while something is written, as errors of a store."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from loraloom.errors import SourceError, StorageFullError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def keeping(who: str) -> Iterator[None]:
    """For a block that writes; messages name ``who`` and no path.

    Raises:
        StorageFullError: the disk, or what may be used of it, is full.
        SourceError: something else is wrong with the disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:  # not the disk's: a network library's
            raise
        if error.errno in FULL:
            raise StorageFullError(f"{who} cannot be kept: the disk is full") from error
        raise SourceError(f"{who} cannot be kept: {os.strerror(error.errno)}") from error


def settle(folder: Path) -> None:
    """Wait until the names in ``folder`` are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
