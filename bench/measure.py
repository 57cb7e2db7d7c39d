"""Times several ways of doing one thing in turn, and compares their medians."""

from __future__ import annotations

import gc
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class AtLeast:
    """A goal for ``peer / ours``: how many times better ours has to be."""

    value: float


@dataclass(frozen=True, slots=True)
class AtMost:
    """A goal for ours alone, in the unit of the row."""

    value: float


Goal: TypeAlias = AtLeast | AtMost | None
"""None: the row is for information."""

Unit: TypeAlias = Literal["s", "share"]

FLOOR = 0.01
"""The least share that two runs of one thing tell apart."""


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison.

    Attributes:
        name: what is measured; "a | b" where the peer does something else, or is ours elsewhere.
        ours: median seconds, or a share of 1; less is better.
        peer: likewise; None where nothing is compared.
        spread: slowest over fastest run of ours; 1 where it was measured once.
    """

    name: str
    ours: float
    peer: float | None
    goal: Goal
    spread: float = 1.0
    unit: Unit = "s"

    @property
    def ratio(self) -> float | None:
        """How many times better ours is; None where the goal is for ours alone.

        A share below ``FLOOR`` counts as ``FLOOR``: what a clock cannot tell from nothing is not
        a thousand times better than something.
        """
        if self.peer is None or isinstance(self.goal, AtMost):
            return None
        return self.peer / (max(self.ours, FLOOR) if self.unit == "share" else self.ours)

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is None:
            return None
        if isinstance(self.goal, AtMost):
            return self.ours <= self.goal.value
        assert self.ratio is not None, f"{self.name!r} has nothing to be compared with"
        return self.ratio >= self.goal.value


def nothing() -> None:
    """Nothing has to be done around what is timed."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way of doing a thing: ``run`` is timed, what comes before and after it is not.

    ``calls``: how often ``run`` is called in a row, where once is too short for a clock.
    """

    run: Callable[[], object]
    before: Callable[[], object] = nothing
    after: Callable[[], object] = nothing
    calls: int = 1


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of one call of a way, run by run."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        return max(self.seconds) / min(self.seconds)

    def over(self, other: Times) -> float:
        """By what share this takes longer: the median over the runs of both in one round."""
        pairs = zip(self.seconds, other.seconds, strict=True)
        return statistics.median(mine / base for mine, base in pairs) - 1


@dataclass(frozen=True, slots=True)
class Clock:
    """Measures on one device, every way ``runs`` times."""

    device: str
    runs: int

    def often(self) -> Clock:
        """Ten times as many runs, for what takes almost no time and is easily disturbed."""
        return Clock(self.device, 10 * self.runs)

    def race(self, *ways: Way) -> list[Times]:
        """Run all in turn, there and back, so that a slow spell slows all.

        The first round is dropped.
        """
        gc.collect()
        measured: list[list[float]] = [[] for _ in ways]
        for number in range(self.runs + 1):
            for seconds, way in list(zip(measured, ways, strict=True))[:: -1 if number % 2 else 1]:
                seconds.append(self.time(way))
        return [Times(tuple(seconds[1:])) for seconds in measured]

    def compare(self, name: str, ours: Way, peer: Way, goal: Goal) -> Row:
        """The row of two ways."""
        mine, other = self.race(ours, peer)
        return row(name, mine, other, goal)

    def time(self, way: Way) -> float:
        """Seconds of one call, once."""
        way.before()
        self._wait()
        gc.disable()
        try:
            start = time.perf_counter()
            for _ in range(way.calls):
                way.run()
            self._wait()
            seconds = time.perf_counter() - start
        finally:
            gc.enable()
        way.after()
        return seconds / way.calls

    def _wait(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)


def row(name: str, ours: Times, peer: Times, goal: Goal) -> Row:
    return Row(name, ours.median, peer.median, goal, ours.spread)
