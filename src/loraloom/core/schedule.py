"""Strength as a function of denoising progress: what is worn at a step is a mix again."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loraloom.errors import InvalidScheduleError

from .mix import Mix, Part, finite

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, order=True)
class Knot:
    """At ``progress``, 0 before the first step and 1 after the last, the strength times this."""

    progress: float
    factor: float


@dataclass(frozen=True, slots=True, order=True)
class Curve:
    """A factor over progress: straight between knots, level before the first and after the last.

    Two knots at one progress are a jump; at the jump the later one counts.
    """

    knots: tuple[Knot, ...]

    def __post_init__(self) -> None:
        if not self.knots:
            raise InvalidScheduleError("a curve has no knots, want one or more")
        for knot in self.knots:
            if not math.isfinite(knot.progress) or not math.isfinite(knot.factor):
                raise InvalidScheduleError(f"a curve has {knot}, want finite numbers")
        places = [knot.progress for knot in self.knots]
        if places != sorted(places) or not 0 <= places[0] <= places[-1] <= 1:
            raise InvalidScheduleError(
                f"the knots of a curve are at {places}, want rising numbers from 0 to 1"
            )

    @classmethod
    def window(cls, start: float, stop: float, ramp: float = 0.0) -> Curve:
        """1 from ``start`` to ``stop`` and 0 elsewhere, rising and falling over ``ramp`` inside.

        Raises:
            InvalidScheduleError: not ``0 ≤ start < stop ≤ 1``, or the ramps do not fit between.
        """
        if not 0 <= start < stop <= 1 or not 0 <= 2 * ramp <= stop - start:
            raise InvalidScheduleError(
                f"a window is from {start} to {stop} with ramps of {ramp}, "
                "want 0 <= from < to <= 1 and room for both ramps"
            )
        rise = [Knot(start, 0.0), Knot(start + ramp, 1.0)] if start or ramp else [Knot(0.0, 1.0)]
        fall = [Knot(stop - ramp, 1.0), Knot(stop, 0.0)] if stop < 1 or ramp else [Knot(1.0, 1.0)]
        return cls((*rise, *fall))

    def at(self, progress: float) -> float:
        """The factor at ``progress``."""
        after = bisect_right(self.knots, progress, key=lambda knot: knot.progress)
        if after == 0:
            return self.knots[0].factor
        if after == len(self.knots):
            return self.knots[-1].factor
        low, high = self.knots[after - 1], self.knots[after]
        share = (progress - low.progress) / (high.progress - low.progress)
        return low.factor + share * (high.factor - low.factor)


ALWAYS = Curve((Knot(0.0, 1.0),))


@dataclass(frozen=True, slots=True, order=True)
class Turn:
    """One adapter of a schedule: its part at full strength, and when it acts."""

    part: Part
    curve: Curve = ALWAYS


@dataclass(frozen=True, slots=True)
class Schedule:
    """What a request wears from its first step to its last; canonical like :class:`Mix`."""

    turns: tuple[Turn, ...] = ()

    @classmethod
    def of(cls, turns: Iterable[Turn]) -> Schedule:
        """The canonical schedule of ``turns``.

        Raises:
            InvalidStrengthError, InvalidMixError: as :meth:`Mix.of`.
        """
        given = list(turns)
        kept = Mix.of([turn.part for turn in given])
        return cls(tuple(sorted(turn for turn in given if kept.strength(turn.part.key))))

    def at(self, progress: float) -> Mix:
        """The mix that acts in a step that begins at ``progress``, 0 ≤ progress < 1."""
        return Mix.of(
            Part(
                turn.part.key,
                finite(turn.part.strength * turn.curve.at(progress), str(turn.part.key)),
                turn.part.scopes,
                turn.part.target,
            )
            for turn in self.turns
        )

    @property
    def full(self) -> Mix:
        """Every part at its full strength."""
        return Mix.of(turn.part for turn in self.turns)
