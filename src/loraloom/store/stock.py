"""Adapter files that were uploaded: each is there whole, or not at all."""

from __future__ import annotations

import errno
import filecmp
import hashlib
import os
import re
import shutil
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from loraloom.errors import SourceTooLargeError
from loraloom.formats.source import CONFIG, LARGEST_CONFIG

from .disk import keeping, settle

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from typing import BinaryIO

WEIGHTS = "adapter.safetensors"
DRAFTS = "drafts"
UPLOAD = "an upload"
OURS = re.compile(r"(gone-)?[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Kept:
    """A file in stock; ``digest`` is of its bytes and its configuration's, and names its folder.

    ``new`` is whether it was not there before.
    """

    path: Path
    digest: str
    nbytes: int
    new: bool = field(default=True, compare=False)


class Draft:
    """A file that is on its way in."""

    def __init__(self, folder: Path, most_bytes: int | None) -> None:
        self.folder = folder
        self.nbytes = 0
        self._most = most_bytes
        self._sha = hashlib.sha256()
        self._file: BinaryIO = (folder / WEIGHTS).open("wb")

    def write(self, chunk: bytes) -> int:
        """More of the file.

        Raises:
            SourceTooLargeError: that is more than allowed.
            StorageFullError: the disk has no room.
        """
        self.nbytes += len(chunk)
        if self._most is not None and self.nbytes > self._most:
            raise SourceTooLargeError(
                f"an upload has more than {self._most} bytes, which is all that is allowed"
            )
        self._sha.update(chunk)
        with keeping(UPLOAD):
            return self._file.write(chunk)

    def finish(self, config: bytes | None) -> str:
        """All bytes on the disk, and the digest that names them."""
        with keeping(UPLOAD):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            if config is not None:
                self._sha.update(b"\0" + CONFIG.encode() + b"\0" + config)
                with (self.folder / CONFIG).open("wb") as beside:
                    beside.write(config)
                    beside.flush()
                    os.fsync(beside.fileno())
        return self._sha.hexdigest()

    def close(self) -> None:
        """Let go of the file; what is not written yet need not be, for the folder goes away."""
        with suppress(OSError):
            self._file.close()


class Stock:
    """Uploaded files by the digest of their bytes, in ``folder``."""

    def __init__(self, folder: Path, most_bytes: int | None = None) -> None:
        self.folder = folder
        self.most_bytes = most_bytes

    @contextmanager
    def draft(self) -> Iterator[Draft]:
        """A file to write; unless it is kept, nothing of it remains after the block.

        Raises:
            StorageFullError: the disk has no room.
        """
        with keeping(UPLOAD):
            drafts = self.folder / DRAFTS
            drafts.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(dir=drafts))
        try:
            with keeping(UPLOAD):
                draft = Draft(folder, self.most_bytes)
            try:
                yield draft
            finally:
                draft.close()
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, draft: Draft, config: bytes | None = None) -> Kept:
        """Put a whole draft into stock; ``config`` is its ``adapter_config.json``.

        The same bytes again are the same file.

        Raises:
            SourceTooLargeError: the configuration is too large.
            StorageFullError: the disk has no room.
        """
        if config is not None and len(config) > LARGEST_CONFIG:
            raise SourceTooLargeError(
                f"{CONFIG} has {len(config)} bytes, at most {LARGEST_CONFIG} are allowed"
            )
        digest = draft.finish(config)
        target, new = self.folder / digest, True
        with keeping(UPLOAD):
            try:
                draft.folder.rename(target)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                new = False
                # equal bytes are there, and others may be reading them: only what somebody has
                # spoilt is replaced
                for path in draft.folder.iterdir():
                    there = target / path.name
                    if not (there.is_file() and filecmp.cmp(path, there, shallow=False)):
                        path.replace(there)
            settle(self.folder)
        return Kept(target / WEIGHTS, digest, draft.nbytes, new)

    def holds(self, path: Path) -> bool:
        """Whether a path is of this stock."""
        return path.parent.parent == self.folder

    def remove(self, path: Path) -> None:
        """Forget a file that was kept, and what lies beside it; nothing if it is not there."""
        assert self.holds(path), path
        # first out of sight in one step: a folder without its file is never found
        gone = self.folder / DRAFTS / f"gone-{path.parent.name}"
        gone.parent.mkdir(exist_ok=True)
        shutil.rmtree(gone, ignore_errors=True)
        try:
            path.parent.rename(gone)
        except FileNotFoundError:
            return
        shutil.rmtree(gone, ignore_errors=True)

    def prune(self, wanted: Collection[Path]) -> None:
        """Keep files that are ``wanted`` and no others; for the start, when nobody is served.

        A process that was killed may have left what it had not published yet, or not removed.
        """
        digests = {path.parent.name for path in wanted}  # the folder may have another name by now
        for folder in self.folder.glob("*/"):
            if OURS.fullmatch(folder.name) and folder.name not in digests:
                shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove the drafts of a process that was killed; for the start, when there are none."""
        shutil.rmtree(self.folder / DRAFTS, ignore_errors=True)
