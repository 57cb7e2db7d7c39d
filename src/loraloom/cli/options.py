"""What the options of the command line mean: from text to values, without torch."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loraloom.core.mix import finite
from loraloom.core.schedule import Curve
from loraloom.errors import (
    AdapterFileError,
    InvalidMixError,
    InvalidRequestError,
    InvalidStrengthError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Wish:
    """One ``--lora``: a name, the file to add under it if any, strengths and time if given.

    ``strengths`` is one for all stages, or one for each; ``component`` is which one wears a file
    that names none.
    """

    name: str
    path: Path | None = None
    component: str | None = None
    strengths: tuple[float, ...] = ()
    curve: Curve | None = None


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height in pixels."""

    width: int
    height: int


def parse_wishes(texts: Sequence[str]) -> tuple[Wish, ...]:
    """Every ``--lora`` in its order.

    Raises:
        InvalidMixError: an adapter is named twice.
        LoraloomError: as :func:`parse_wish`.
    """
    wishes = tuple(parse_wish(text) for text in texts)
    for name, times in Counter(wish.name for wish in wishes).items():
        if times > 1:
            raise InvalidMixError(f"--lora names adapter {name!r} {times} times")
    return wishes


def parse_wish(text: str) -> Wish:
    """``NAME``, ``NAME:STRENGTH``, ``NAME=PATH`` or ``NAME=PATH:STRENGTH``, each with ``@FROM-TO``.

    ``NAME@COMPONENT=PATH`` puts a file that names no component on that one. ``:0.8,0.4`` is a
    strength for each stage. ``@0.2-0.7`` wears the adapter in that part of
    denoising, ``@0.2-0.7~0.1`` fades it in and out. A path may hold colons: what follows the last
    one is a strength unless it looks like the rest of a path, or the whole is there.

    Raises:
        InvalidRequestError: no name.
        InvalidStrengthError: the strength is not a finite number.
        InvalidScheduleError: the times are not in order between 0 and 1.
        AdapterFileError: nothing lies at the path.
    """
    text, curve = _cut_window(text)
    named, equals, rest = text.partition("=")
    body, strength = _cut_strength(rest if equals else named, is_path=bool(equals))
    name = (named if equals else body).strip()
    component = None
    if equals and "@" in name:
        name, _, component = name.rpartition("@")
    if not name:
        raise InvalidRequestError(f"--lora {text!r} has no name, want NAME[:STRENGTH]")
    numbers = () if strength is None else _strengths(strength, name)
    if not equals:
        return Wish(name, strengths=numbers, curve=curve)
    path = Path(body)
    if not body or not _lies(path):
        raise AdapterFileError(f"adapter {name!r} cannot be read, there is no {body!r}")
    return Wish(name, path, component, numbers, curve)


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
    if found is None or _lies(Path(text)):
        return Spot(Path(text))
    strength = None if found[3] is None else _strength(found[3], text)
    return Spot(Path(found[1]), int(found[2]), strength)


SEEN = re.compile(r"(.+)@([0-9.]+)")


def parse_seen(text: str) -> Spot:
    """``FILE`` or ``FILE@STRENGTH`` of ``--reference``; a file of that very name goes first.

    Raises:
        InvalidStrengthError: the strength is not a finite number.
    """
    found = SEEN.fullmatch(text)
    if found is None or _lies(Path(text)):
        return Spot(Path(text))
    return Spot(Path(found[1]), strength=_strength(found[2], text))


def targets(path: Path, count: int) -> tuple[Path, ...]:
    """Where ``count`` results go: one to ``path``, several to ``path`` with ``-1``, ``-2`` …"""
    if count == 1:
        return (path,)
    return tuple(path.with_name(f"{path.stem}-{i + 1}{path.suffix}") for i in range(count))


WINDOW = re.compile(r"(.*)@([0-9.]+)-([0-9.]+)(?:~([0-9.]+))?")


def _cut_window(text: str) -> tuple[str, Curve | None]:
    """What stands before ``@FROM-TO``, and the curve that it means if it is there."""
    found = WINDOW.fullmatch(text)
    if found is None:
        return text, None
    try:
        start, stop, ramp = (float(number or 0) for number in found.groups()[1:])
    except ValueError:
        return text, None
    return found[1], Curve.window(start, stop, ramp)


def _cut_strength(text: str, *, is_path: bool) -> tuple[str, str | None]:
    """What stands before the last colon, and the strength behind it if there is one."""
    body, colon, tail = text.rpartition(":")
    part_of_path = is_path and (re.search(r"[/\\]", tail) or _lies(Path(text)))
    if not colon or part_of_path:
        return text, None
    return body, tail


def _strengths(text: str, name: str) -> tuple[float, ...]:
    return tuple(_strength(part, name) for part in text.split(","))


def _strength(text: str, name: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise InvalidStrengthError(
            f"the strength of {name!r} is {text!r}, want a finite number"
        ) from None
    return finite(number, repr(name))


def _lies(path: Path) -> bool:
    """Whether something is there; a name that no file can have is a name that none has."""
    try:
        return path.exists()
    except OSError:
        return False
