"""Adapters of one component that are ready to be worn live, kept under a budget of bytes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from loraloom.core.mix import AdapterKey
from loraloom.memory.cache import Cache

from .live import BARE, Fitted, Joined, Live

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loraloom.core.mix import Segment

    from .fitter import Fitter
    from .live import Where

LIVES = 1024
"""Descriptions of batches that are kept; some kilobytes each."""

Key: TypeAlias = "AdapterKey | tuple[AdapterKey, ...]"


class Wardrobe:
    """What was worn lies ready to be worn again: as long as the budget lasts, at no cost.

    ``kept`` holds adapters by key, and joined ones by their keys.
    """

    def __init__(self, budget: int, what: str, fitter: Fitter) -> None:
        self.kept: Cache[Key, Fitted | Joined] = Cache(budget, what)
        self.fitter = fitter
        self._where: Where | None = None
        self._lives: dict[tuple[Segment, ...], Live] = {(): BARE}

    def ready(self, segments: tuple[Segment, ...], where: Where) -> Live | None:
        """What ``segments`` wear, if it was worn before and all of it is still there."""
        live = self._lives.get(segments) if where == self._where else None
        if live is not None:
            self.kept.touch(live.needs)
        return live

    def live(self, segments: tuple[Segment, ...], where: Where) -> Live:
        """What ``segments`` wear, made ready if it is not.

        Raises:
            BudgetError: the adapters together exceed the budget.
            InvalidStrengthError: a strength times its scale is beyond float32.
        """
        if where != self._where:
            self.clear()
            self._where = where
        if segments not in self._lives:
            dropped = self.kept.dropped
            try:
                live = self._make(segments)
            finally:
                if self.kept.dropped != dropped or len(self._lives) >= LIVES:
                    self._forget()
            self._lives[segments] = live
        return self._lives[segments]

    def bring(self, keys: Iterable[AdapterKey], worn: Live) -> None:
        """Make ``keys`` ready where the last batch computed, the first before the others.

        Each only if it has room beside ``worn`` and beside those before it, which would come and
        go for each other otherwise.
        """
        if self._where is None:
            return
        device, _ = self._where
        stay, dropped = list(worn.needs), self.kept.dropped
        try:
            for key in keys:
                if key not in self.kept:
                    fitted = partial(self.fitter.fit, key, device)
                    self.kept.bring(key, self.fitter.size(key), fitted, stay)
                stay.append(key)
        finally:
            if self.kept.dropped != dropped:
                self._forget()

    @property
    def keys(self) -> frozenset[AdapterKey]:
        """The adapters that lie ready."""
        return frozenset(key for key in self.kept if isinstance(key, AdapterKey))

    def clear(self) -> None:
        """Keep nothing; what is worn now stays worn."""
        self.kept = Cache(self.kept.budget, self.kept.what)
        self._lives = {(): BARE}

    def _make(self, segments: tuple[Segment, ...]) -> Live:
        assert self._where is not None
        device, _ = self._where
        parts = [part for segment in segments for part in segment.mix.parts]
        keys = tuple(sorted({part.key for part in parts}))
        sizes: dict[Key, int] = {key: self._size(key) for key in keys}
        together = sum(sizes.values())
        if len(keys) > 1 and 2 * together <= self.kept.budget:
            sizes[keys] = together

        def fitted(key: AdapterKey) -> Fitted:
            one = self.kept.find(key)
            assert isinstance(one, Fitted)
            return one

        def make(key: Key) -> Fitted | Joined:
            if isinstance(key, tuple):
                return Joined({each: fitted(each) for each in key})
            return self.fitter.fit(key, device)

        taken = self.kept.take(sizes, make)
        worn = {key: fitted(key) for key in keys}
        for part in parts:
            worn[part.key].check(part)
        joined = taken.get(keys)
        return Live(segments, worn, joined if isinstance(joined, Joined) else None)

    def _size(self, key: AdapterKey) -> int:
        ready = self.kept.find(key)
        return self.fitter.size(key) if ready is None else ready.nbytes

    def _forget(self) -> None:
        """Let go of descriptions whose adapters are gone, or of all where they are too many."""
        there = set(self.kept) if len(self._lives) < LIVES else set[Key]()
        self._lives = {
            segments: live for segments, live in self._lives.items() if there.issuperset(live.needs)
        }
