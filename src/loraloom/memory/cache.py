"""Values that can be made again, kept under a budget of bytes. No torch here."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from loraloom.errors import BudgetError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping

K = TypeVar("K", bound="Hashable")


class Measured(Protocol):
    """A value that knows its size."""

    @property
    def nbytes(self) -> int: ...


V = TypeVar("V", bound=Measured)


@dataclass(frozen=True, slots=True)
class Entry(Generic[V]):
    """A value that is kept, and its bytes."""

    value: V
    size: int


class Cache(Generic[K, V]):
    """The most recently used values whose bytes together never exceed ``budget``.

    ``what`` names the values in errors. ``dropped`` counts the values that had to leave.
    """

    def __init__(self, budget: int, what: str) -> None:
        assert budget >= 0
        self.budget = budget
        self.what = what
        self.dropped = 0
        self._kept: OrderedDict[K, Entry[V]] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Of all that is kept; summed, so that no interrupt can part it from what is there."""
        # another thread may ask, and see keys come and go meanwhile
        entries = [self._kept.get(key) for key in list(self._kept)]
        return sum(entry.size for entry in entries if entry)

    def take(self, wanted: Mapping[K, int], make: Callable[[K], V]) -> dict[K, V]:
        """The values of all of ``wanted``, together; ``wanted`` gives the bytes of each.

        What is missing is made, and others leave first. What ``make`` raises leaves what was made
        before it.

        Raises:
            BudgetError: together they exceed the budget; nothing has changed.
        """
        total = sum(wanted.values())
        if total > self.budget:
            raise BudgetError(f"{self.what} take {total} bytes, the budget is {self.budget}")
        for key, size in wanted.items():
            if key in self._kept:
                self._kept.move_to_end(key)
                continue
            self._make_room(size, wanted)
            value = make(key)
            assert value.nbytes == size
            self._kept[key] = Entry(value, size)
        return {key: self._kept[key].value for key in wanted}

    def find(self, key: K) -> V | None:
        """The value of ``key`` if it is kept."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key].value

    def touch(self, keys: Iterable[K]) -> None:
        """Count these as used; all of them are kept."""
        for key in keys:
            self._kept.move_to_end(key)

    def offer(self, key: K, size: int, make: Callable[[], V]) -> None:
        """Keep the value of ``key`` if the budget has room for it at all."""
        if key not in self._kept and size <= self.budget:
            self.take({key: size}, lambda _key: make())

    def bring(self, key: K, size: int, make: Callable[[], V], keep: Iterable[K]) -> None:
        """Keep the value of ``key`` too, if the budget has room for it and ``keep`` together."""
        there = {each: self._kept[each].size for each in keep if each in self._kept}
        if key not in self._kept and size + sum(there.values()) <= self.budget:
            self.take({**there, key: size}, lambda _key: make())

    def drop(self, keys: Iterable[K]) -> None:
        """Keep these no longer."""
        for key in keys:
            if key in self._kept:
                del self._kept[key]
                self.dropped += 1

    def _make_room(self, size: int, wanted: Mapping[K, int]) -> None:
        """Drop the least recently used that nobody wants now, until ``size`` fits."""
        for key in list(self._kept):
            if self.nbytes + size <= self.budget:
                return
            if key not in wanted:
                self.drop([key])

    def __iter__(self) -> Iterator[K]:
        return iter(list(self._kept))  # in one step, for another thread may ask

    def __contains__(self, key: object) -> bool:
        return key in self._kept

    def __len__(self) -> int:
        return len(self._kept)
