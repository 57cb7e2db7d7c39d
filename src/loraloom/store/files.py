"""The files of editions: whether they are as they were read, and how copies of ours go away."""

from __future__ import annotations

import shutil
from time import time_ns
from typing import TYPE_CHECKING

from loraloom.formats.source import CONFIG

from .editions import Stamp

if TYPE_CHECKING:
    from pathlib import Path

TICK = 2 * 10**9
"""Nanoseconds: the coarsest clock of common file systems, that of FAT."""


def stamp_of(path: Path) -> Stamp | None:
    """The stamp of an adapter file and the configuration beside it; ``None`` without a file."""
    now, said, last = time_ns(), [], 0
    for each in (path, path.parent / CONFIG):
        try:
            stat = each.stat()
        except OSError:
            said.append("none")
            continue
        said.append(f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}")
        last = max(last, stat.st_mtime_ns)
    return None if said[0] == "none" else Stamp(", ".join(said), now - last > TICK)


def remove_copy(path: Path, folder: Path) -> None:
    """Remove an adapter file that lies in ``folder``, with what belongs to it alone.

    Its own folder goes out of sight in one step, so that nobody finds a file without its
    configuration. What was interrupted may be done again.
    """
    own = path.parent
    if folder not in own.parents:
        return
    gone = own.with_name(f"gone-{own.name}")
    shutil.rmtree(gone, ignore_errors=True)
    if not own.is_dir():
        return
    if {each.name for each in own.iterdir()} <= {path.name, CONFIG}:
        own.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
