"""Preview images of adapters: small, of one format, and named at random."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from loraloom.store.disk import keeping

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

SIDE = 512
"""Pixels of the longer side, at most."""

MIME = "image/webp"


class Pictures:
    """Files in ``folder``. What is kept is drawn anew, so that nothing else of a file is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, image: Image) -> str:
        """The name of a new file with ``image``, made small.

        Raises:
            SourceError: it cannot be written.
        """
        small = image.copy()
        small.thumbnail((SIDE, SIDE))
        name = f"{secrets.token_hex(16)}.webp"
        with keeping("a picture"):
            self.folder.mkdir(parents=True, exist_ok=True)
            draft = self.folder / f".{name}"
            try:
                small.save(draft, "WEBP", quality=85)
                draft.replace(self.folder / name)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
        return name

    def read(self, name: str) -> bytes | None:
        """The file of that name, if it is there."""
        path = self.folder / name
        return path.read_bytes() if path.is_file() else None

    def remove(self, name: str | None) -> None:
        """Forget a file; nothing where there is none."""
        if name is not None:
            (self.folder / name).unlink(missing_ok=True)
