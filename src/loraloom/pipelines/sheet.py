"""A labelled sheet of pictures, to compare what adapters do at one glance."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Sequence

PAPER = (252, 252, 250)
INK = (28, 30, 34)
PALE = (112, 116, 124)
EDGE = (222, 222, 218)
MARGIN, GAP, LABEL_WIDTH = 36, 18, 190
TITLE, LABEL, CAPTION = 26, 18, 14  # font sizes in pixels
LEADING = 1.3  # from one line of text to the next, in font sizes


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """One picture and what is written below it."""

    image: Image.Image
    caption: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Strip:
    """Pictures side by side, with a label to their left and a smaller note below the label."""

    label: str
    tiles: tuple[Tile, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Text:
    """Lines of text of one size; what measures it is what draws it."""

    lines: tuple[str, ...]
    size: int
    colour: tuple[int, int, int]

    @classmethod
    def wrapped(cls, text: str, size: int, colour: tuple[int, int, int], width: int) -> _Text:
        """``text`` broken between words wherever it would be wider than ``width`` pixels."""
        lines: list[str] = []
        for word in text.split():
            longer = f"{lines[-1]} {word}" if lines else word
            if lines and _font(size).getlength(longer) <= width:
                lines[-1] = longer
            else:
                lines.append(word)
        return cls(tuple(lines), size, colour)

    @property
    def height(self) -> int:
        return round(len(self.lines) * self.size * LEADING)

    def draw(self, pen: ImageDraw.ImageDraw, left: int, top: int) -> None:
        for index, line in enumerate(self.lines):
            place = (left, top + round(index * self.size * LEADING))
            pen.text(place, line, fill=self.colour, font=_font(self.size))


@dataclass(frozen=True, slots=True)
class _Grid:
    """Where the tiles lie: ``wide`` pixels each, their pictures enlarged ``scale`` times."""

    wide: int
    scale: int

    def left(self, column: int) -> int:
        return MARGIN + LABEL_WIDTH + column * (GAP + self.wide) + GAP

    def height(self, strip: Strip) -> int:
        beside = sum(text.height for text in _beside(strip)) + 4
        return max(beside, *(self._tile_height(tile) for tile in strip.tiles))

    def draw(self, sheet: Image.Image, strip: Strip, top: int) -> None:
        pen = ImageDraw.Draw(sheet)
        label, note = _beside(strip)
        label.draw(pen, MARGIN, top)
        note.draw(pen, MARGIN, top + label.height + 4)
        for column, tile in enumerate(strip.tiles):
            picture = _enlarged(tile.image, self.scale)
            left, bottom = self.left(column), top + picture.height
            edge = (left - 1, top - 1, left + picture.width, bottom)
            pen.rectangle(edge, outline=EDGE)
            sheet.paste(picture, (left, top))
            self._caption(tile).draw(pen, left, bottom + 6)

    def _tile_height(self, tile: Tile) -> int:
        return self.scale * tile.image.height + 6 + self._caption(tile).height

    def _caption(self, tile: Tile) -> _Text:
        return _Text.wrapped(tile.caption, CAPTION, PALE, self.wide)


def contact_sheet(
    strips: Sequence[Strip], *, title: str, columns: Sequence[str] = (), scale: int = 2
) -> Image.Image:
    """``strips`` as one RGB picture of even width and height.

    The pictures are enlarged ``scale`` times without smoothing, so every pixel stays visible.
    ``columns`` are written above the first strip.
    """
    assert strips
    assert all(strip.tiles for strip in strips)
    grid = _Grid(scale * max(tile.image.width for strip in strips for tile in strip.tiles), scale)
    width = grid.left(max(len(strip.tiles) for strip in strips)) - GAP + MARGIN
    heading = _Text.wrapped(title, TITLE, INK, width - 2 * MARGIN)
    heads = [_Text.wrapped(text, CAPTION, PALE, grid.wide) for text in columns]
    above = MARGIN + heading.height + GAP
    tops = [above + max((head.height + 4 for head in heads), default=0)]
    for strip in strips:
        tops.append(tops[-1] + grid.height(strip) + GAP)
    height = tops[-1] - GAP + MARGIN
    sheet = Image.new("RGB", (width + width % 2, height + height % 2), PAPER)
    pen = ImageDraw.Draw(sheet)
    heading.draw(pen, MARGIN, MARGIN)
    for column, head in enumerate(heads):
        head.draw(pen, grid.left(column), above)
    for strip, top in zip(strips, tops[:-1], strict=True):
        grid.draw(sheet, strip, top)
    return sheet


def _beside(strip: Strip) -> tuple[_Text, _Text]:
    room = LABEL_WIDTH - GAP
    return (
        _Text.wrapped(strip.label, LABEL, INK, room),
        _Text.wrapped(strip.note, CAPTION, PALE, room),
    )


def _enlarged(image: Image.Image, scale: int) -> Image.Image:
    size = (scale * image.width, scale * image.height)
    return image.convert("RGB").resize(size, Image.Resampling.NEAREST)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
