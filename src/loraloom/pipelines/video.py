"""Videos as files, with sound or silent; films as frames."""

from __future__ import annotations

import heapq
import math
from fractions import Fraction
from itertools import islice
from typing import IO, TYPE_CHECKING

import av
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import Image, ImageSequence, UnidentifiedImageError

from loraloom.errors import MediaError

from .files import UNREADABLE, cause, check_kind, replacing
from .sound import rate_for_aac

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from loraloom.core.provenance import Provenance

    from .sound import Sound

QUALITY = "12"  # of H.264's 0 (lossless) to 51: small pictures show the loss first
BITS_PER_CHANNEL = 96_000  # a second, of AAC: music stays clear


def save_video(
    frames: Sequence[Image.Image],
    path: Path,
    rate: float,
    provenance: Provenance | None,
    sound: Sound | None = None,
) -> None:
    """Write an MP4 (H.264, 4:2:0, BT.709) that plays while it loads; ``rate`` is kept exactly.

    Sound is written as AAC, cut or followed by silence to last as long as the frames.

    Raises:
        MediaError: no frames, frames of several or of odd sizes, or it cannot be written there.
    """
    check_kind(path, "video")
    width, height = _frame_size(frames, path)
    if not (math.isfinite(rate) and rate > 0):
        raise MediaError(f"the rate of {path} is {rate!r} frames per second, want more than 0")
    speed = Fraction(rate).limit_denominator(1001)
    # faststart rewrites the file once it is complete, so it cannot be written into memory; the
    # default timescale of milliseconds would cut the last frame short
    options = {"movflags": "+faststart", "movie_timescale": str(speed.numerator)}
    with (
        replacing(path) as draft,
        av.open(str(draft), "w", format="mp4", container_options=options) as container,
    ):
        if provenance is not None:
            container.metadata["comment"] = provenance.to_json()
        pictures = _picture_stream(container, speed, (width, height))
        shown = (_encodable(frame, index, 1 / speed) for index, frame in enumerate(frames))
        tracks = [_packets(pictures, shown)]
        if sound is not None:
            heard = sound.at(rate_for_aac(sound.rate)).lasting(len(frames) / speed)
            tracks.append(_packets(_sound_stream(container, heard), [heard.frame()]))
        # in the order of their times, so that a player finds sound beside the pictures it is for
        for packet in heapq.merge(*tracks, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)


def load_frames(path: Path, limit: int) -> tuple[list[Image.Image], float]:
    """At most the first ``limit`` frames of a video or an animated image, and their rate.

    Frames are RGB, turned as the camera says. Where they last unequally long, the rate is the mean.

    Raises:
        MediaError: no such file, not readable, one picture, or nothing to see in it.
    """
    assert limit > 0
    try:
        with path.open("rb") as file:
            try:
                frames, rate = _frames_of_image(file, limit)
            except UnidentifiedImageError:
                file.seek(0)
                frames, rate = _frames_of_video(file, limit)
    except UNREADABLE as error:
        raise MediaError(f"{path} cannot be read as a video: {cause(error)}") from error
    if rate is None:
        raise MediaError(f"{path} holds no moving picture, want a video or an animated image")
    return frames, rate


def comment_of(path: Path) -> str | None:
    """The text that a video carries."""
    with av.open(str(path)) as container:
        text: str | None = container.metadata.get("comment")
    return text


def _frame_size(frames: Sequence[Image.Image], path: Path) -> tuple[int, int]:
    sizes = {frame.size for frame in frames}
    if len(sizes) != 1:
        said = "no frames" if not sizes else f"frames of {len(sizes)} sizes"
        raise MediaError(f"{path} would hold {said}, want frames of one size")
    width, height = sizes.pop()
    if width % 2 or height % 2:
        raise MediaError(f"{path} would be {width}x{height}, an MP4 wants even sizes")
    return width, height


def _picture_stream(
    container: av.container.OutputContainer, speed: Fraction, size: tuple[int, int]
) -> av.VideoStream:
    stream = container.add_stream("libx264", rate=speed)
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    # x264's macroblock tree reads memory that it never wrote where frames are small
    stream.options = {"crf": QUALITY, "preset": "medium", "x264-params": "mbtree=0"}
    context = stream.codec_context
    context.thread_count = 1  # the encoder's threads would show in its bytes
    context.color_range = ColorRange.MPEG
    context.colorspace = Colorspace.ITU709
    context.color_primaries = ColorPrimaries.BT709
    context.color_trc = ColorTrc.BT709
    return stream


def _sound_stream(container: av.container.OutputContainer, sound: Sound) -> av.AudioStream:
    stream = container.add_stream("aac", rate=sound.rate, layout=sound.layout)
    stream.bit_rate = BITS_PER_CHANNEL * len(sound.samples)
    stream.codec_context.thread_count = 1
    return stream


def _packets(
    stream: av.VideoStream | av.AudioStream, frames: Iterable[av.VideoFrame | av.AudioFrame]
) -> Iterator[av.Packet]:
    for frame in frames:
        yield from stream.encode(frame)
    yield from stream.encode(None)


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


def _frames_of_image(file: IO[bytes], limit: int) -> tuple[list[Image.Image], float | None]:
    frames, lasted = [], 0.0
    with Image.open(file) as image:
        moves = getattr(image, "is_animated", False)
        for shown in islice(ImageSequence.Iterator(image), limit):
            frames.append(shown.convert("RGB"))
            lasted += shown.info.get("duration", 0) / 1000
    return frames, len(frames) / lasted if moves and lasted else None


def _frames_of_video(file: IO[bytes], limit: int) -> tuple[list[Image.Image], float | None]:
    with av.open(file) as container:
        if not container.streams.video:
            return [], None
        stream = container.streams.video[0]
        shown = islice(container.decode(stream), limit)
        frames = [frame.to_image().rotate(frame.rotation, expand=True) for frame in shown]
        rate = stream.average_rate or stream.guessed_rate
    return frames, float(rate) if frames and rate else None
