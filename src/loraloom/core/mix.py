"""What is worn, as frozen values: which adapters, how strongly, and by which rows of a batch."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, TypeAlias

from loraloom.errors import InvalidMixError, InvalidStrengthError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Site: TypeAlias = str
"""One adaptable layer of a component, spelled as ``named_modules()`` spells it."""

Shape: TypeAlias = tuple[int, ...]
"""Of a weight: ``(out, in)``, with the axes of a kernel behind where it has them."""

Component: TypeAlias = str
"""One module of a model that can wear adapters, e.g. ``transformer``."""


@dataclass(frozen=True, slots=True, order=True)
class AdapterKey:
    """The identity of an adapter: same bytes, same digest; other bytes, another key."""

    name: str
    digest: str

    def __str__(self) -> str:
        return f"{self.name}@{self.digest[:12]}"


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """One adapter of a mix and its strength."""

    key: AdapterKey
    strength: float


@dataclass(frozen=True, slots=True)
class Mix:
    """Which adapters act together and how strongly; canonical, so equal mixes are equal values.

    Build one with :meth:`of`: the order of the parts does not matter and a part of strength zero
    is no part.
    """

    parts: tuple[Part, ...] = ()

    @classmethod
    def of(cls, parts: Iterable[Part]) -> Mix:
        """The canonical mix of ``parts``.

        Raises:
            InvalidStrengthError: a strength is NaN, infinite or no number.
            InvalidMixError: an adapter is named twice.
        """
        given = [Part(part.key, finite(part.strength, str(part.key))) for part in parts]
        for name, times in Counter(part.key.name for part in given).items():
            if times > 1:
                raise InvalidMixError(f"adapter {name!r} is named {times} times in one mix")
        return cls(tuple(sorted(part for part in given if part.strength != 0)))

    def __bool__(self) -> bool:
        return bool(self.parts)

    def strength(self, key: AdapterKey) -> float:
        """How strongly ``key`` acts; 0 if it is no part of the mix."""
        return next((part.strength for part in self.parts if part.key == key), 0.0)

    def only(self, keys: Iterable[AdapterKey]) -> Mix:
        """The parts of this mix whose adapter is among ``keys``."""
        wanted = frozenset(keys)
        return Mix(tuple(part for part in self.parts if part.key in wanted))


NOTHING = Mix()


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of batch rows, ``start`` to ``stop`` exclusive, that wear one mix."""

    start: int
    stop: int
    mix: Mix


@dataclass(frozen=True, slots=True)
class Applied:
    """The whole LoRA state of a component: what is in its weights and what acts beside them.

    ``live`` describes the samples of a batch in their order. Canonical forms: no live segment at
    all when nobody wears anything; one segment of one row when everybody wears the same, for that
    holds whatever the size of the batch.
    """

    fused: Mix = NOTHING
    live: tuple[Segment, ...] = ()

    @classmethod
    def rows(cls, mixes: Sequence[Mix], *, fused: Mix = NOTHING) -> Applied:
        """What a batch wears whose sample *i* wears ``mixes[i]`` beside ``fused``."""
        runs = [(mix, len(list(run))) for mix, run in groupby(mixes)]
        if len(runs) == 1:
            runs = [(runs[0][0], 1)]
        segments: list[Segment] = []
        for mix, length in runs:
            start = segments[-1].stop if segments else 0
            segments.append(Segment(start, start + length, mix))
        worn = any(segment.mix for segment in segments)
        return cls(fused, tuple(segments) if worn else ())


def finite(strength: float, who: str) -> float:
    """``strength`` as a float.

    Raises:
        InvalidStrengthError: it is NaN, infinite or no number.
    """
    number = not isinstance(strength, bool) and isinstance(strength, int | float)
    if not number or not math.isfinite(strength):
        raise InvalidStrengthError(f"the strength of {who} is {strength!r}, want a finite number")
    return float(strength)
