"""What is worn, as frozen values: which adapters, how strongly, and by which rows of a batch."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby, pairwise
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
class Scope:
    """A factor for the sites whose names match ``pattern``, as shells match (``*.attn1.*``)."""

    pattern: str
    factor: float


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """One adapter of a mix and its strength.

    ``scopes`` change the strength by site: of those that match, the last counts; where none
    matches, the strength is as it is. ``target`` is the one component that wears it; ``None`` is
    every one that the adapter has updates for.
    """

    key: AdapterKey
    strength: float
    scopes: tuple[Scope, ...] = ()
    target: Component | None = None

    def at(self, site: Site) -> float:
        """The strength at one site."""
        factors = [s.factor for s in self.scopes if fnmatchcase(site, s.pattern)]
        return self.strength * factors[-1] if factors else self.strength


@dataclass(frozen=True, slots=True)
class Mix:
    """Which adapters act together and how strongly; canonical, so equal mixes are equal values.

    Build one with :meth:`of`: the order of the parts does not matter and a part of strength zero
    is no part.
    """

    parts: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        assert list(self.parts) == sorted(set(self.parts))
        assert all(part.strength and math.isfinite(part.strength) for part in self.parts)

    @classmethod
    def of(cls, parts: Iterable[Part]) -> Mix:
        """The canonical mix of ``parts``.

        Raises:
            InvalidStrengthError: a strength is NaN, infinite or no number.
            InvalidMixError: an adapter is named twice.
        """
        given = [_checked(part) for part in parts]
        for name, times in Counter(part.key.name for part in given).items():
            if times > 1:
                raise InvalidMixError(f"adapter {name!r} is named {times} times in one mix")
        return cls(tuple(sorted(part for part in given if part.strength != 0)))

    def __bool__(self) -> bool:
        return bool(self.parts)

    def strength(self, key: AdapterKey) -> float:
        """How strongly ``key`` acts where no scope says otherwise; 0 if it is no part."""
        return next((part.strength for part in self.parts if part.key == key), 0.0)

    def at(self, site: Site, key: AdapterKey) -> float:
        """How strongly ``key`` acts at ``site``; 0 if it is no part of the mix."""
        return next((part.at(site) for part in self.parts if part.key == key), 0.0)

    def on(self, component: Component) -> Mix:
        """The parts of this mix that ``component`` wears; the mix itself where those are all."""
        if all(part.target in {None, component} for part in self.parts):
            return self
        return Mix(tuple(part for part in self.parts if part.target in {None, component}))

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

    def __post_init__(self) -> None:
        starts, stops = ([getattr(s, end) for s in self.live] for end in ("start", "stop"))
        assert starts == [0, *stops][: len(starts)]
        assert all(segment.start < segment.stop for segment in self.live)
        assert all(a.mix != b.mix for a, b in pairwise(self.live))

    def on(self, component: Component) -> Applied:
        """What of this ``component`` wears; the value itself where that is all."""
        mixes = [segment.mix for segment in self.live]
        own = [mix.on(component) for mix in mixes]
        fused = self.fused.on(component)
        if fused is self.fused and all(a is b for a, b in zip(own, mixes, strict=True)):
            return self
        lengths = [segment.stop - segment.start for segment in self.live]
        rows = [mix for mix, length in zip(own, lengths, strict=True) for _ in range(length)]
        return Applied.rows(rows, fused=fused) if rows else Applied(fused)

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


def _checked(part: Part) -> Part:
    who = str(part.key)
    scopes = tuple(
        Scope(scope.pattern, finite(scope.factor, f"{who} at {scope.pattern!r}"))
        for scope in part.scopes
    )
    return Part(part.key, finite(part.strength, who), scopes, part.target)


def finite(strength: float, who: str) -> float:
    """``strength`` as a float.

    Raises:
        InvalidStrengthError: it is NaN, infinite or no number.
    """
    number = not isinstance(strength, bool) and isinstance(strength, int | float)
    if not number or not math.isfinite(strength):
        raise InvalidStrengthError(f"the strength of {who} is {strength!r}, want a finite number")
    return float(strength)
