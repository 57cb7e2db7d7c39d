"""Which values of a tier are there, and which may leave for others. It decides, and never waits."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field, replace
from threading import Condition
from typing import TYPE_CHECKING, Generic, TypeVar

from loraloom.errors import BudgetError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Hashable, Iterator, Mapping, Set

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Want(Generic[V]):
    """A value that is wanted: its bytes, how it is made, and for meters where it comes from."""

    size: int
    make: Callable[[], V]
    source: str = ""


@dataclass(frozen=True, slots=True)
class Made(Generic[V]):
    """A value that is there."""

    value: V


@dataclass(frozen=True, slots=True)
class Failed:
    """A value that could not be made."""

    error: Exception


@dataclass(slots=True, eq=False)
class Seat(Generic[V]):
    """The place of one value, whose bytes count from here on: also before it is made.

    Attributes:
        changed: tells those who wait for the value; under the lock of the tier.
        users: how often each thread holds it.
        outcome: the value, or why there is none; ``None`` until then.
        making: whether a thread makes it now.
    """

    size: int
    changed: Condition
    users: Counter[int] = field(default_factory=Counter)
    outcome: Made[V] | Failed | None = None
    making: bool = False


@dataclass(frozen=True, slots=True)
class Tally:
    """What happened so far.

    Attributes:
        hits: values that were wanted and there, or on their way.
        loads: values that were made.
        evictions: values that had to leave for others.
    """

    hits: int = 0
    loads: int = 0
    evictions: int = 0


class Seats(Generic[K, V]):
    """Seats by key, the least recently used first, whose bytes never exceed ``budget``.

    Attributes:
        pinned: keys whose values do not leave for others.
        leaving: seats that nobody finds any more, but somebody holds.
    """

    def __init__(self, budget: int | None, what: str) -> None:
        assert budget is None or budget >= 0
        self.budget = budget
        self.what = what
        self.pinned: frozenset[K] = frozenset()
        self.tally = Tally()
        self.by_key: OrderedDict[K, Seat[V]] = OrderedDict()
        self.leaving: list[Seat[V]] = []

    def __iter__(self) -> Iterator[Seat[V]]:
        yield from self.by_key.values()
        yield from self.leaving

    @property
    def nbytes(self) -> int:
        """Of every seat; summed, so that no interrupt can part it from what is there."""
        return sum(seat.size for seat in self)

    def take(
        self, wants: Mapping[K, Want[V]], owner: int, changed: Callable[[], Condition]
    ) -> dict[K, Seat[V]]:
        """Seats for all of ``wants``, which fit, held by ``owner``."""
        there = sum(key in self.by_key for key in wants)
        self.tally = replace(self.tally, hits=self.tally.hits + there)
        taken: dict[K, Seat[V]] = {}
        for key, want in wants.items():
            if key not in self.by_key:
                self.by_key[key] = Seat(want.size, changed())
            self.by_key.move_to_end(key)
            taken[key] = self.by_key[key]
            taken[key].users[owner] += 1
        assert self.budget is None or self.nbytes <= self.budget
        return taken

    def make_room(self, wants: Mapping[K, Want[V]], spare: Container[K] = ()) -> bool:
        """Whether all of ``wants`` fit now; if so, idle values have left, but none of ``spare``."""
        if self.budget is None:
            return True
        missing = self.nbytes - self.budget
        missing += sum(want.size for key, want in wants.items() if key not in self.by_key)
        idle: list[K] = []
        for key, seat in self.by_key.items():
            if missing <= 0:
                break
            if not (seat.users or key in self.pinned or key in wants or key in spare):
                idle.append(key)
                missing -= seat.size
        if missing > 0:
            return False
        for key in idle:
            del self.by_key[key]
        self.tally = replace(self.tally, evictions=self.tally.evictions + len(idle))
        return True

    def refusal(self, wants: Mapping[K, Want[V]], stuck: Set[int]) -> BudgetError | None:
        """Why ``wants`` will never fit, whoever lets go; threads that are ``stuck`` do not."""
        if self.budget is None:
            return None
        need = sum(
            self.by_key[key].size if key in self.by_key else want.size
            for key, want in wants.items()
        )
        others = {key: seat for key, seat in self.by_key.items() if key not in wants}
        pinned = sum(seat.size for key, seat in others.items() if key in self.pinned)
        held = sum(seat.size for seat in self.leaving if stuck & seat.users.keys())
        held += sum(
            seat.size
            for key, seat in others.items()
            if key not in self.pinned and stuck & seat.users.keys()
        )
        if need + pinned + held <= self.budget:
            return None
        beside = f" beside {pinned} of pinned ones" if pinned else ""
        beside += f" beside {held} that are held by who waits for more" if held else ""
        return BudgetError(f"{self.what} take {need} bytes{beside}, the budget is {self.budget}")

    def settle(self, key: K, seat: Seat[V], outcome: Made[V] | Failed | None) -> None:
        """Making a value came to its end; of what failed nothing stays."""
        seat.making = False
        seat.outcome = outcome
        seat.changed.notify_all()
        if isinstance(outcome, Made):
            self.tally = replace(self.tally, loads=self.tally.loads + 1)
        elif isinstance(outcome, Failed):
            self._forget(key, seat)

    def leave(self, key: K, seat: Seat[V], owner: int) -> None:
        """``owner`` holds ``seat`` once less."""
        seat.users[owner] -= 1
        if not seat.users[owner]:
            del seat.users[owner]
        found = self.by_key.get(key) is seat
        if not seat.users and not (found and isinstance(seat.outcome, Made)):
            self._forget(key, seat)

    def drop(self, key: K) -> None:
        """Nobody finds the value of ``key`` any more; its bytes count until the last lets go."""
        seat = self.by_key.pop(key, None)
        if seat is not None and seat.users:
            self.leaving.append(seat)

    def rename(self, old: K, new: K) -> None:
        """The value of ``old`` is that of ``new``, unless there is one already."""
        if new in self.by_key:
            self.drop(old)
        elif old in self.by_key:
            self.by_key[new] = self.by_key.pop(old)

    def _forget(self, key: K, seat: Seat[V]) -> None:
        self.leaving = [other for other in self.leaving if other is not seat]
        if self.by_key.get(key) is seat:
            del self.by_key[key]
