"""From bodies to tasks: sizes become canvases, seconds become frames, pictures conditions."""

from __future__ import annotations

import secrets
from dataclasses import replace
from math import isfinite, sqrt
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps

from loraloom.core.request import Canvas, Condition, Origin, Request, Sampling
from loraloom.engine.ticket import Encoding, Task

from .errors import Refusal
from .models import model_id
from .schemas import MOST_FRAMES
from .wearing import about, facts, loras_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loraloom.models.card import Card

    from .schemas import EditBody, ImageBody, Strict, VideoBody, Wanted
    from .wearing import Asking

REDRAWN = 0.6
"""How much of a picture an edit redraws that does not say."""


def images(body: ImageBody, asking: Asking) -> Task:
    """The task of pictures.

    Raises:
        Refusal, LoraloomError: something of it cannot be.
    """
    canvas = _canvas(body.size, asking, asking.card.defaults.picture)
    return _pictures(body, asking, _request(body, asking, canvas))


def edits(body: EditBody, shown: Image.Image, asking: Asking) -> Task:
    """The task of pictures that are made of ``shown``: image to image.

    Raises:
        Refusal, LoraloomError: something of it cannot be.
    """
    usual = _like(shown, asking.card.defaults.picture, asking.card.grid.pixels)
    canvas = _canvas(body.size, asking, usual)
    redrawn = REDRAWN if body.strength is None else body.strength
    # what is queued is as large as what is made, however large the picture that was sent
    whole = ImageOps.fit(shown, (canvas.width, canvas.height), Image.Resampling.BICUBIC)
    request = replace(_request(body, asking, canvas), origin=Origin(whole, redrawn))
    return replace(_pictures(body, asking, request), kind="edits")


def video(body: VideoBody, ends: Mapping[int, Image.Image], asking: Asking) -> Task:
    """The task of a video that begins and ends with images, by their frames.

    Raises:
        Refusal, LoraloomError: something of it cannot be.
    """
    card = asking.card
    canvas = _length(body, card, _canvas(body.size, asking, card.defaults.video))
    with about("frames"):
        card.check(canvas)
        card.check_video(canvas)
    request = replace(
        _request(body, asking, canvas),
        conditions=tuple(_condition(image, frame, canvas, 1.0) for frame, image in ends.items()),
        audio=body.audio,
    )
    note = _note(body, asking, [request])
    return Task("video", asking.owner, (request,), Encoding("mp4"), note, body.timeout)


def _pictures(body: ImageBody, asking: Asking, first: Request) -> Task:
    if body.mixes is None:
        requests = _counted(body.n or 1, first, asking.service.settings.max_batch)
    else:
        worn = [
            loras_of(mix, f"mixes[{index}]", body.model, asking)
            for index, mix in enumerate(body.mixes)
        ]
        requests = [replace(first, loras=each) for each in worn]
    quality = None if body.output_compression is None else max(1, body.output_compression)
    return Task(
        "images",
        asking.owner,
        tuple(requests),
        Encoding(body.output_format or "png", quality),
        _note(body, asking, requests),
        body.timeout,
    )


def _counted(count: int, first: Request, most: int) -> list[Request]:
    """``count`` requests whose seeds count up."""
    if count > most:
        raise Refusal("invalid_value", f"n is {count}, want at most {most}", "n")
    if first.seed + count > 2**63:
        raise Refusal("invalid_value", f"seeds from {first.seed} on go beyond 2**63 - 1", "seed")
    return [replace(first, seed=first.seed + index) for index in range(count)]


def _request(body: Wanted, asking: Asking, canvas: Canvas) -> Request:
    """What all tasks have in common."""
    stages, pipeline = None, body.pipeline or asking.service.settings.pipeline
    if pipeline is not None:
        with about("pipeline"):
            stages = asking.card.defaults.pipeline(pipeline)
    seed = secrets.randbelow(2**32) if body.seed is None else body.seed
    return Request(
        prompt=body.prompt,
        seed=seed,
        loras=loras_of(body.loras, "loras", body.model, asking),
        negative_prompt=body.negative_prompt,
        canvas=canvas,
        sampling=Sampling(body.steps, body.guidance_scale),
        stages=stages,
    )


def _canvas(size: str | None, asking: Asking, usual: Canvas) -> Canvas:
    """The canvas of a size, or the usual one.

    Raises:
        Refusal: it is too large, or the model cannot make it.
    """
    canvas, most = usual, asking.service.settings.max_pixels
    if size not in {None, "auto"}:
        width, height = map(int, str(size).split("x"))
        canvas = replace(usual, width=width, height=height)
    if canvas.width * canvas.height > most:
        raise Refusal(
            "invalid_value",
            f"size is {canvas.width}x{canvas.height}, want at most {most} pixels",
            "size",
        )
    with about("size"):
        asking.card.check(canvas)
    return canvas


def _like(image: Image.Image, usual: Canvas, grid: int) -> Canvas:
    """As many pixels as usual in the shape of ``image``; no side is four times the other."""
    ratio = min(max(image.width / image.height, 1 / 4), 4.0)
    height = sqrt(usual.width * usual.height / ratio)
    width, height = (max(1, round(side / grid)) * grid for side in (height * ratio, height))
    return replace(usual, width=width, height=height)


def _condition(image: Image.Image, frame: int, canvas: Canvas, strength: float) -> Condition:
    """The image fills the canvas, cut at its edges; the rest of its pixels need not be kept."""
    size = (canvas.width, canvas.height)
    return Condition(ImageOps.fit(image, size, Image.Resampling.BICUBIC), frame, strength)


def _length(body: VideoBody, card: Card, canvas: Canvas) -> Canvas:
    """``canvas`` with the rate and the frames that are asked for; of seconds, the nearest."""
    canvas = replace(canvas, rate=body.fps or canvas.rate)
    if body.frames is not None:
        return replace(canvas, frames=body.frames)
    if body.seconds is None or not card.grid.frames:
        return canvas
    step = card.grid.frames
    frames = round((_seconds(body.seconds) * canvas.rate - 1) / step) * step + 1
    if frames > MOST_FRAMES:
        said = f"seconds is {body.seconds}, which is {frames} frames, want at most {MOST_FRAMES}"
        raise Refusal("invalid_value", said, "seconds")
    return replace(canvas, frames=max(frames, step + 1))


def _seconds(given: str | float) -> float:
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not isfinite(seconds) or seconds <= 0:
        raise Refusal(
            "invalid_value", f"seconds is {str(given)[:40]!r}, want a number above 0", "seconds"
        )
    return seconds


def _note(body: Strict, asking: Asking, requests: Sequence[Request]) -> dict[str, Any]:
    """What answers repeat: the call's own words, what it became, and what is worn."""
    asked = body.model_dump(mode="json", by_alias=True, exclude_unset=True)
    asked.update(dict.fromkeys({"input_reference", "last_image"} & asked.keys(), "(a picture)"))
    canvas = requests[0].canvas
    assert canvas
    return {
        "asked": asked,
        "model": asked.get("model") or model_id(asking.card),
        "size": f"{canvas.width}x{canvas.height}",
        "seconds": f"{canvas.frames / canvas.rate:g}",
        "seeds": [request.seed for request in requests],
        "facts": facts(asking, requests),
    }
