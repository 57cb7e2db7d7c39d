"""Pictures and videos as files that say how they were made; a file is there whole or not at all."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING

from PIL import Image, ImageOps, PngImagePlugin

import loraloom
from loraloom.core.provenance import Asked, Drawn, Provenance, Seen, Shown, Versions
from loraloom.errors import MediaError

from .files import KINDS, UNREADABLE, Kind, cause, check_kind, check_target, kind_of, replacing
from .jpeg import commented, comments_of
from .sound import Sound, save_sound
from .video import comment_of, load_frames, save_video

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from loraloom.core.request import Request

__all__ = [
    "KINDS",
    "Kind",
    "Sound",
    "asked_of",
    "check_target",
    "digest_of_frames",
    "digest_of_image",
    "kind_of",
    "load_frames",
    "load_image",
    "load_shown",
    "read_provenance",
    "save_image",
    "save_sheet",
    "save_sound",
    "save_video",
    "versions",
]

KEY = "loraloom"
IMAGE_DESCRIPTION = 0x010E  # the EXIF tag for text about an image


def save_image(
    frame: Image.Image, path: Path, provenance: Provenance, quality: int | None = None
) -> None:
    """Write a PNG, a WebP or a JPEG, as the suffix says.

    A WebP without ``quality`` is lossless, a JPEG without it has 95; a PNG always is lossless.

    Raises:
        MediaError: it cannot be written there.
    """
    check_kind(path, "picture")
    assert quality is None or 0 <= quality <= 100
    rgb, said = frame.convert("RGB"), provenance.to_json()
    with replacing(path) as draft:
        match path.suffix.lower():
            case ".png":
                notes = PngImagePlugin.PngInfo()
                notes.add_text(KEY, said)
                notes.add_text("parameters", provenance.describe())
                rgb.save(draft, "PNG", pnginfo=notes)
            case ".webp":
                exif = Image.Exif()
                exif[IMAGE_DESCRIPTION] = said
                # effort, not loss, where it is lossless: 100 takes thrice as long for the same size
                how = {"lossless": quality is None, "quality": 50 if quality is None else quality}
                rgb.save(draft, "WEBP", exif=exif, **how)
            case _:
                draft.write_bytes(commented(rgb, said, 95 if quality is None else quality))


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Write a picture that many requests made, and that therefore has no provenance of its own.

    Raises:
        MediaError: it cannot be written there.
    """
    with replacing(path) as draft:
        sheet.save(draft, "PNG", optimize=True)


def read_provenance(path: Path) -> Provenance:
    """How a file that Loraloom wrote was made.

    Raises:
        MediaError: no such file, not readable, or it does not say how it was made.
    """
    read = comment_of if kind_of(path) == "video" else _picture_text
    try:
        text = read(path)
    except UNREADABLE as error:
        raise MediaError(f"{path} cannot be read: {cause(error)}") from error
    if not text:
        raise MediaError(f"{path} does not say how it was made")
    try:
        return Provenance.from_json(text)
    except MediaError as error:
        raise MediaError(f"{path}: {error}") from error


def load_image(path: Path) -> Image.Image:
    """A picture file as RGB, turned as its camera says.

    Raises:
        MediaError: no such file, or not a picture.
    """
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except UNREADABLE as error:
        raise MediaError(f"{path} cannot be read as a picture: {cause(error)}") from error


FRAMES = 1000
"""The most frames that are read of a video to look at."""


def load_shown(path: Path) -> list[Image.Image]:
    """The frames of a video, or the one picture.

    Raises:
        MediaError: no such file, or it is neither.
    """
    if path.suffix.lower() in {".mp4", ".mov", ".mkv", ".webm", ".gif"}:
        return load_frames(path, FRAMES)[0]
    return [load_image(path)]


def digest_of_image(image: Image.Image) -> str:
    """SHA-256 of the size and the RGB pixels, 64 hex digits; its file format does not matter."""
    rgb = image.convert("RGB")
    return hashlib.sha256(f"{rgb.width}x{rgb.height}\0".encode() + rgb.tobytes()).hexdigest()


def digest_of_frames(frames: Sequence[Image.Image]) -> str:
    """That of the one image, or of all digests in their order."""
    digests = [digest_of_image(frame) for frame in frames]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def asked_of(request: Request) -> Asked:
    """What a provenance holds of a request in which everything is filled in."""
    assert request.canvas
    assert request.stages
    assert request.negative_prompt is not None
    origin = request.origin
    return Asked(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        seed=request.seed,
        canvas=request.canvas,
        stages=request.stages,
        audio=bool(request.audio),
        images=tuple(
            Shown(digest_of_frames((each.image, *each.following)), each.frame, each.strength)
            for each in request.conditions
        ),
        references=tuple(
            Seen(digest_of_frames(each.frames), each.strength, each.downscale, each.attention)
            for each in request.references
        ),
        origin=Drawn(digest_of_image(origin.image), origin.redrawn) if origin else None,
    )


@cache
def versions() -> Versions:
    """The installed packages that pictures depend on."""
    return Versions(loraloom.__version__, version("torch"), version("diffusers"))


def _picture_text(path: Path) -> str | None:
    with Image.open(path) as image:
        image.load()
        if image.format == "JPEG":
            return comments_of(image)
        found = image.info.get(KEY) or image.getexif().get(IMAGE_DESCRIPTION)
    return found if isinstance(found, str) else None
