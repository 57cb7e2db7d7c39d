"""Adapters as a command line or a settings file spells them: ``NAME[=PATH][:STRENGTH]``."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from loraloom.core.lora import Lora
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


NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
"""What a server's adapters may be called: names are parts of addresses."""


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

    def worn(self, before: Lora | None = None) -> Lora:
        """The adapter as it is worn, where nothing is said of it as it was ``before``."""
        lora = before or Lora(self.name)
        if self.curve is not None:
            lora = replace(lora, curve=self.curve)
        if not self.strengths:
            return lora
        if len(self.strengths) == 1:
            return replace(lora, strength=self.strengths[0], stages=())
        # an adapter that a stage brings is not worn there at 0, so 0 is said, not left out
        return replace(lora, strength=1.0, stages=self.strengths)


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


def parse_published(texts: Sequence[str]) -> tuple[Wish, ...]:
    """Every ``--lora`` of a server: a name, its file if it is new, its default strength if given.

    Raises:
        InvalidRequestError: one has more than that, which is for requests to say, or a name that
            no address can hold.
        LoraloomError: as :func:`parse_wishes`.
    """
    wishes = parse_wishes(texts)
    for wish in wishes:
        if wish.curve is not None or len(wish.strengths) > 1:
            raise InvalidRequestError(
                f"--lora {wish.name!r} has more than one strength, which is for requests to say; "
                "want NAME[=PATH][:STRENGTH]"
            )
        if wish.path is not None and not NAME.fullmatch(wish.name):
            raise InvalidRequestError(
                f"--lora {wish.name!r} cannot be published under this name, want at most 100 "
                "letters and digits, or any of . _ -"
            )
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
    if not body or not lies(path):
        raise AdapterFileError(f"adapter {name!r} cannot be read, there is no {body!r}")
    return Wish(name, path, component, numbers, curve)


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
    part_of_path = is_path and (re.search(r"[/\\]", tail) or lies(Path(text)))
    if not colon or part_of_path:
        return text, None
    return body, tail


def _strengths(text: str, name: str) -> tuple[float, ...]:
    return tuple(strength_of(part, name) for part in text.split(","))


def strength_of(text: str, name: str) -> float:
    """A finite number.

    Raises:
        InvalidStrengthError: it is none; the message names what it is of.
    """
    try:
        number = float(text)
    except ValueError:
        raise InvalidStrengthError(
            f"the strength of {name!r} is {text!r}, want a finite number"
        ) from None
    return finite(number, repr(name))


def lies(path: Path) -> bool:
    """Whether something is there; a name that no file can have is a name that none has."""
    try:
        return path.exists()
    except OSError:
        return False
