"""Values that can be made again, kept under a budget of bytes. No torch here."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

K = TypeVar("K", bound="Hashable")


class Measured(Protocol):
    """A value that knows its size."""

    @property
    def nbytes(self) -> int: ...


V = TypeVar("V", bound=Measured)


class Cache(Generic[K, V]):
    """The most recently used values whose bytes together stay within ``budget``.

    A value larger than the whole budget is given out and not kept.
    """

    def __init__(self, budget: int) -> None:
        assert budget >= 0
        self.budget = budget
        self.nbytes = 0
        self._kept: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of ``key``, made if it is not kept; what ``make`` raises changes nothing."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        value = make()
        if value.nbytes <= self.budget:
            while self.nbytes + value.nbytes > self.budget:
                self.nbytes -= self._kept.popitem(last=False)[1].nbytes
            self._kept[key] = value
            self.nbytes += value.nbytes
        return value

    def __len__(self) -> int:
        return len(self._kept)
