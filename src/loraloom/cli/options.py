"""What the options of the command line mean: from text to values, without torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from loraloom.engine.wishes import lies, strength_of
from loraloom.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height in pixels."""

    width: int
    height: int


def parse_size(text: str) -> Size:
    """``WIDTHxHEIGHT`` in pixels.

    Raises:
        InvalidRequestError: it is spelled otherwise.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,5})[xX]([1-9][0-9]{0,5})", text.strip())
    if found is None:
        raise InvalidRequestError(f"--size is {text!r}, want WIDTHxHEIGHT in pixels, e.g. 128x96")
    return Size(int(found[1]), int(found[2]))


STILL = re.compile(r"(.+)@(-?[0-9]+)(?::([0-9.]+))?")


@dataclass(frozen=True, slots=True)
class Spot:
    """One ``--image``: its file, and where and how strongly it is shown if that is given."""

    path: Path
    frame: int | None = None
    strength: float | None = None


def parse_spot(text: str) -> Spot:
    """``FILE``, ``FILE@FRAME`` or ``FILE@FRAME:STRENGTH``; a file of that very name goes first.

    Raises:
        InvalidStrengthError: the strength is not a finite number.
    """
    found = STILL.fullmatch(text)
    if found is None or lies(Path(text)):
        return Spot(Path(text))
    strength = None if found[3] is None else strength_of(found[3], text)
    return Spot(Path(found[1]), int(found[2]), strength)


SEEN = re.compile(r"(.+)@([0-9.]+)")


def parse_seen(text: str) -> Spot:
    """``FILE`` or ``FILE@STRENGTH`` of ``--reference``; a file of that very name goes first.

    Raises:
        InvalidStrengthError: the strength is not a finite number.
    """
    found = SEEN.fullmatch(text)
    if found is None or lies(Path(text)):
        return Spot(Path(text))
    return Spot(Path(found[1]), strength=strength_of(found[2], text))


def targets(path: Path, count: int) -> tuple[Path, ...]:
    """Where ``count`` results go: one to ``path``, several to ``path`` with ``-1``, ``-2`` …"""
    if count == 1:
        return (path,)
    return tuple(path.with_name(f"{path.stem}-{i + 1}{path.suffix}") for i in range(count))
