"""What a file is by its suffix, and how it comes to its place: whole or not at all."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypeAlias

import av
from PIL import Image, UnidentifiedImageError

from loraloom.errors import MediaError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Kind: TypeAlias = Literal["picture", "video"]

KINDS: dict[str, Kind] = {
    ".png": "picture",
    ".webp": "picture",
    ".jpg": "picture",
    ".jpeg": "picture",
    ".mp4": "video",
}
"""What a file is, by its suffix."""

UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, av.FFmpegError)
"""What Pillow and PyAV raise for a file that they cannot make sense of."""


def kind_of(path: Path) -> Kind:
    """Whether ``path`` names a picture or a video.

    Raises:
        MediaError: its suffix is not one of :data:`KINDS`.
    """
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise MediaError(f"{path} ends in {path.suffix!r}, want one of {', '.join(KINDS)}")
    return kind


def check_kind(path: Path, kind: Kind) -> None:
    """Return if ``path`` names a file of this kind.

    Raises:
        MediaError: it has another suffix.
    """
    if kind_of(path) != kind:
        suffixes = [suffix for suffix, held in KINDS.items() if held == kind]
        raise MediaError(f"{path} cannot hold a {kind}, want {' or '.join(suffixes)}")


def check_target(path: Path, kind: Kind) -> None:
    """Return if a file of this kind can be written there; meant for before the long work.

    Raises:
        MediaError: another suffix, no such folder, a folder in its place, or no permission.
    """
    check_kind(path, kind)
    with replacing(path) as draft:
        draft.unlink()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty file beside ``path``, which it replaces if the block ends well and left it there."""
    draft = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    try:
        _check_place(path)
        draft.open("xb").close()
        try:
            yield draft
            if draft.exists():
                draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise MediaError(f"{path} cannot be written: {cause(error)}") from error


def cause(error: Exception) -> str:
    """The reason without the path, which the sentence has already named."""
    if isinstance(error, UnidentifiedImageError):
        return "its format is not known"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")


def _check_place(path: Path) -> None:
    folder = path.parent
    if not folder.is_dir():
        raise MediaError(f"{path} cannot be written, {folder} is not a folder")
    if path.is_dir():
        raise MediaError(f"{path} cannot be written, it is a folder")
