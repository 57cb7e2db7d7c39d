"""Pictures and videos as files that say how they were made; a file is there whole or not at all."""

from __future__ import annotations

import hashlib
import math
import secrets
from contextlib import contextmanager
from fractions import Fraction
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal, TypeAlias

import av
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

import loraloom
from loraloom.core.provenance import Asked, Provenance, Shown, Versions
from loraloom.errors import MediaError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from loraloom.core.request import Request

Kind: TypeAlias = Literal["picture", "video"]

KINDS: dict[str, Kind] = {".png": "picture", ".webp": "picture", ".mp4": "video"}
"""What a file is, by its suffix."""

KEY = "loraloom"
IMAGE_DESCRIPTION = 0x010E  # the EXIF tag for text about an image
QUALITY = "12"  # of H.264's 0 (lossless) to 51: small pictures show the loss first


def kind_of(path: Path) -> Kind:
    """Whether ``path`` names a picture or a video.

    Raises:
        MediaError: its suffix is not one of :data:`KINDS`.
    """
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise MediaError(f"{path} ends in {path.suffix!r}, want one of {', '.join(KINDS)}")
    return kind


def check_target(path: Path, kind: Kind) -> None:
    """Return if a file of this kind can be written there; meant for before the long work.

    Raises:
        MediaError: another suffix, no such folder, a folder in its place, or no permission.
    """
    if kind_of(path) != kind:
        raise MediaError(f"{path} cannot hold a {kind}, want {' or '.join(suffixes(kind))}")
    with _replacing(path) as draft:
        draft.unlink()


def suffixes(kind: Kind) -> list[str]:
    """The suffixes of the files of one kind."""
    return [suffix for suffix, held in KINDS.items() if held == kind]


def save_image(frame: Image.Image, path: Path, provenance: Provenance) -> None:
    """Write a PNG or a lossless WebP.

    Raises:
        MediaError: it cannot be written there.
    """
    if kind_of(path) != "picture":
        raise MediaError(f"{path} cannot hold a picture, want {' or '.join(suffixes('picture'))}")
    rgb = frame.convert("RGB")
    with _replacing(path) as draft:
        if path.suffix.lower() == ".png":
            notes = PngImagePlugin.PngInfo()
            notes.add_text(KEY, provenance.to_json())
            notes.add_text("parameters", provenance.describe())
            rgb.save(draft, "PNG", pnginfo=notes, optimize=True)
        else:
            exif = Image.Exif()
            exif[IMAGE_DESCRIPTION] = provenance.to_json()
            rgb.save(draft, "WEBP", lossless=True, quality=100, exif=exif)


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Write a picture that many requests made, and that therefore has no provenance of its own.

    Raises:
        MediaError: it cannot be written there.
    """
    with _replacing(path) as draft:
        sheet.save(draft, "PNG", optimize=True)


def save_video(
    frames: Sequence[Image.Image], path: Path, rate: float, provenance: Provenance | None
) -> None:
    """Write an MP4 (H.264, 4:2:0, BT.709) that plays while it loads; ``rate`` is kept exactly.

    Raises:
        MediaError: no frames, frames of several or of odd sizes, or it cannot be written there.
    """
    if kind_of(path) != "video":
        raise MediaError(f"{path} cannot hold a video, want {' or '.join(suffixes('video'))}")
    width, height = _frame_size(frames, path)
    if not (math.isfinite(rate) and rate > 0):
        raise MediaError(f"the rate of {path} is {rate!r} frames per second, want more than 0")
    speed = Fraction(rate).limit_denominator(1001)
    # faststart rewrites the file once it is complete, so it cannot be written into memory; the
    # default timescale of milliseconds would cut the last frame short
    options = {"movflags": "+faststart", "movie_timescale": str(speed.numerator)}
    with (
        _replacing(path) as draft,
        av.open(str(draft), "w", format="mp4", container_options=options) as container,
    ):
        if provenance is not None:
            container.metadata["comment"] = provenance.to_json()
        stream = container.add_stream("libx264", rate=speed)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": QUALITY, "preset": "medium"}
        context = stream.codec_context
        context.thread_count = 1  # the encoder's threads would show in its bytes
        context.color_range = ColorRange.MPEG
        context.colorspace = Colorspace.ITU709
        context.color_primaries = ColorPrimaries.BT709
        context.color_trc = ColorTrc.BT709
        for index, frame in enumerate(frames):
            container.mux(stream.encode(_encodable(frame, index, 1 / speed)))
        container.mux(stream.encode(None))


def read_provenance(path: Path) -> Provenance:
    """How a file that Loraloom wrote was made.

    Raises:
        MediaError: no such file, not readable, or it does not say how it was made.
    """
    read = _video_text if kind_of(path) == "video" else _picture_text
    try:
        text = read(path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MediaError(f"{path} cannot be read: {_cause(error)}") from error
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
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MediaError(f"{path} cannot be read as a picture: {_cause(error)}") from error


def digest_of_image(image: Image.Image) -> str:
    """SHA-256 of the size and the RGB pixels, 64 hex digits; its file format does not matter."""
    rgb = image.convert("RGB")
    return hashlib.sha256(f"{rgb.width}x{rgb.height}\0".encode() + rgb.tobytes()).hexdigest()


def asked_of(request: Request) -> Asked:
    """What a provenance holds of a request in which everything is filled in."""
    assert request.canvas
    assert request.sampling
    assert request.negative_prompt is not None
    return Asked(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        seed=request.seed,
        canvas=request.canvas,
        sampling=request.sampling,
        images=tuple(
            Shown(digest_of_image(each.image), each.frame, each.strength)
            for each in request.conditions
        ),
    )


def versions() -> Versions:
    """The installed packages that pictures depend on."""
    return Versions(loraloom.__version__, version("torch"), version("diffusers"))


def _frame_size(frames: Sequence[Image.Image], path: Path) -> tuple[int, int]:
    sizes = {frame.size for frame in frames}
    if len(sizes) != 1:
        said = "no frames" if not sizes else f"frames of {len(sizes)} sizes"
        raise MediaError(f"{path} would hold {said}, want frames of one size")
    width, height = sizes.pop()
    if width % 2 or height % 2:
        raise MediaError(f"{path} would be {width}x{height}, an MP4 wants even sizes")
    return width, height


def _encodable(frame: Image.Image, index: int, tick: Fraction) -> av.VideoFrame:
    made = av.VideoFrame.from_image(frame.convert("RGB")).reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        dst_color_primaries=ColorPrimaries.BT709,
        dst_color_trc=ColorTrc.BT709,
    )
    made.pts, made.duration, made.time_base = index, 1, tick
    return made


def _picture_text(path: Path) -> str | None:
    with Image.open(path) as image:
        image.load()
        found = image.info.get(KEY) or image.getexif().get(IMAGE_DESCRIPTION)
    return found if isinstance(found, str) else None


def _video_text(path: Path) -> str | None:
    with av.open(str(path)) as container:
        text: str | None = container.metadata.get("comment")
    return text


def _check_place(path: Path) -> None:
    folder = path.parent
    if not folder.is_dir():
        raise MediaError(f"{path} cannot be written, {folder} is not a folder")
    if path.is_dir():
        raise MediaError(f"{path} cannot be written, it is a folder")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
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
        raise MediaError(f"{path} cannot be written: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    """The reason without the path, which the sentence has already named."""
    if isinstance(error, UnidentifiedImageError):
        return "its format is not known"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")
