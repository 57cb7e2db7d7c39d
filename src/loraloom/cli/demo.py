"""``loraloom demo``: what the bundled model and its adapters do, on one sheet and in one video."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loraloom.core.request import Request
from loraloom.errors import MediaError
from loraloom.models import find
from loraloom.pipelines import media
from loraloom.pipelines.sheet import Strip, Tile, contact_sheet

from .console import counting
from .flags import MODEL
from .loading import load
from .showcase import PICTURES, TITLE, VIDEO, Shelf

if TYPE_CHECKING:
    from PIL.Image import Image

    from loraloom.engine.loom import Loom

TILE = 256
"""Pixels that a picture of the sheet is about wide."""


def demo(
    *,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The folder to write to; made if absent.")
    ] = Path("demo"),
) -> None:
    """Make a sheet of pictures and a video with the bundled model and its adapters."""
    sheet, film = output / "pictures.png", output / "video.mp4"
    _make_folder(output)
    media.check_target(sheet, "picture")
    media.check_target(film, "video")
    canvas = find.card(MODEL).defaults.picture
    started = time.perf_counter()
    loom = load(MODEL)
    _took(f"loaded {MODEL}", started)
    started = time.perf_counter()
    scale = max(TILE // canvas.width, 1)
    strips = [_strip(loom, shelf) for shelf in PICTURES]
    media.save_sheet(contact_sheet(strips, title=TITLE, scale=scale), sheet)
    _took(str(sheet), started)
    started = time.perf_counter()
    frames, rate = _film(loom, VIDEO)
    media.save_video(frames, film, rate, None)
    _took(str(film), started)


def _strip(loom: Loom, shelf: Shelf) -> Strip:
    started = time.perf_counter()
    with counting(shelf.label) as progress:
        results = loom.images(_requests(shelf), progress=progress)
    _took(f"  {shelf.label}: {len(results)} pictures as one batch", started)
    made = zip(results, shelf.exhibits, strict=True)
    tiles = tuple(Tile(result.frames[0], exhibit.caption) for result, exhibit in made)
    return Strip(shelf.label, tiles, shelf.note)


def _film(loom: Loom, shelf: Shelf) -> tuple[list[Image], float]:
    """Sheets that show the videos of a shelf side by side, frame by frame; and their rate."""
    with counting("video") as progress:
        results = loom.videos(_requests(shelf), progress=progress)
    canvas = results[0].request.canvas
    assert canvas
    scale = max(TILE // canvas.width, 1)
    sheets = []
    for pictures in zip(*(result.frames for result in results), strict=True):
        made = zip(pictures, shelf.exhibits, strict=True)
        tiles = tuple(Tile(picture, exhibit.caption) for picture, exhibit in made)
        strip = Strip(shelf.label, tiles, shelf.note)
        sheets.append(contact_sheet([strip], title=TITLE, scale=scale))
    return sheets, canvas.rate


def _requests(shelf: Shelf) -> list[Request]:
    return [Request(each.prompt, each.seed, each.loras) for each in shelf.exhibits]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f"folder {folder} cannot be made: {error.strerror}") from error


def _took(what: str, started: float) -> None:
    typer.echo(f"{what}  {time.perf_counter() - started:.1f} s")
