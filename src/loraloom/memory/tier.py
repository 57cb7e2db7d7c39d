"""Values that many threads share under a budget of bytes: made once, kept while used. No torch."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition, RLock, get_ident
from time import perf_counter
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from loraloom.errors import BudgetError

from .seats import Failed, Made, Seats

if TYPE_CHECKING:
    from collections.abc import Container, Hashable, Iterable, Iterator, Mapping

    from .seats import Seat, Tally, Want

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")


class TierMeter(Protocol):
    """Who counts what a tier does. Any thread calls it, and holds no lock of the tier then."""

    def loaded(self, seconds: float, source: str) -> None:
        """A value was made; ``source`` is that of :class:`Want`."""

    def evicted(self) -> None:
        """A value had to leave for another."""


class Unmetered:
    """Nobody counts."""

    def loaded(self, seconds: float, source: str) -> None:
        """Nothing."""

    def evicted(self) -> None:
        """Nothing."""


UNMETERED = Unmetered()


@dataclass(slots=True, eq=False)
class Waiter(Generic[K, V]):
    """Who waits for seats; ``answer`` is them, or why there will never be any."""

    wants: Mapping[K, Want[V]]
    owner: int
    answered: Condition
    answer: dict[K, Seat[V]] | BudgetError | None = None


class Tier(Generic[K, V]):
    """The most recently used values whose bytes, with those being made, never exceed a budget.

    Every method may be called from any thread. A value is made once, outside of the lock, however
    many want it; what making it raises reaches all who wait for it, and leaves nothing. What is
    held or pinned does not leave. Who does not fit waits until others let go, first come, first
    served; only who holds something goes before those who hold nothing, for they may wait for it.

    Args:
        budget: in bytes; ``None`` is without end.
        what: the values, in the plural, for errors.
    """

    def __init__(self, budget: int | None, what: str, meter: TierMeter = UNMETERED) -> None:
        self._seats: Seats[K, V] = Seats(budget, what)
        self._meter = meter
        self._told = 0  # evictions that the meter knows of
        self._queue: deque[Waiter[K, V]] = deque()
        self._lock = RLock()

    @contextmanager
    def hold(self, key: K, want: Want[V]) -> Iterator[V]:
        """The value of ``key``, for the block; see :meth:`hold_all`."""
        with self.hold_all({key: want}) as values:
            yield values[key]

    @contextmanager
    def hold_all(self, wants: Mapping[K, Want[V]]) -> Iterator[Mapping[K, V]]:
        """The values of all of ``wants``, for the block. They get room together or not at all.

        Raises:
            BudgetError: they will never fit, beside what is pinned, and beside what is held by
                this thread and by others that wait for more themselves.
        """
        owner = get_ident()
        seats = self._enter(wants, owner)
        try:
            yield {key: self._value(key, seats, want) for key, want in wants.items()}
        finally:
            self._leave(seats, owner)

    def prefetch(self, key: K, want: Want[V], spare: Container[K] = ()) -> None:
        """Make a value that will be wanted, if there is room without waiting.

        Idle values leave for it, but none of ``spare``. What making it raises is raised.
        """
        owner = get_ident()
        with self._lock:
            fits = key not in self._seats.by_key and not self._queue
            if not (fits and self._seats.make_room({key: want}, spare)):
                return
            seats = self._seats.take({key: want}, owner, self._condition)
        try:
            self._value(key, seats, want)
        finally:
            self._leave(seats, owner)

    def pin(self, keys: Iterable[K]) -> None:
        """From now on the values of these keys, and no others, stay once they are there."""
        with self._lock:
            self._seats.pinned = frozenset(keys)
            self._admit()
        self._tell()

    def drop(self, key: K) -> None:
        """Nobody finds the value of ``key`` any more; it stays for those who hold it.

        If it is wanted again it is made anew.
        """
        with self._lock:
            self._seats.drop(key)
            self._admit()
        self._tell()

    def rename(self, old: K, new: K) -> None:
        """Keep the value of ``old`` as that of ``new``, unless there is one already."""
        with self._lock:
            self._seats.rename(old, new)
            self._admit()
        self._tell()

    def __contains__(self, key: K) -> bool:
        """Whether the value is there, not only wanted."""
        with self._lock:
            seat = self._seats.by_key.get(key)
            return seat is not None and isinstance(seat.outcome, Made)

    def __len__(self) -> int:
        """How many values are there, held after they were dropped, or on their way."""
        with self._lock:
            return sum(1 for _ in self._seats)

    @property
    def budget(self) -> int | None:
        return self._seats.budget

    @property
    def nbytes(self) -> int:
        """Of all values that are there or on their way."""
        with self._lock:
            return self._seats.nbytes

    @property
    def tally(self) -> Tally:
        return self._seats.tally

    def _condition(self) -> Condition:
        return Condition(self._lock)

    def _enter(self, wants: Mapping[K, Want[V]], owner: int) -> dict[K, Seat[V]]:
        """Seats for all of ``wants``, when it is the turn of who asks."""
        waiter = Waiter(wants, owner, self._condition())
        with self._lock:
            if self._holds(waiter):
                self._queue.appendleft(waiter)
            else:
                self._queue.append(waiter)
            try:
                self._admit()
                while waiter.answer is None:
                    waiter.answered.wait()
            except BaseException:  # an interrupt: those behind it must not wait for it
                self._give_up(waiter)
                raise
        self._tell()
        if isinstance(waiter.answer, BudgetError):
            raise waiter.answer
        return waiter.answer

    def _give_up(self, waiter: Waiter[K, V]) -> None:
        if waiter in self._queue:
            self._queue.remove(waiter)
            self._admit()
        elif isinstance(waiter.answer, dict):
            self._leave(waiter.answer, waiter.owner)

    def _admit(self) -> None:
        """Answer those who wait, until all of them have to wait on."""
        while self._queue:
            head, *others = self._queue
            if any(self._seated(each) for each in (head, *filter(self._holds, others))):
                continue
            refusal = self._refusal(head)
            if refusal is None:
                return
            self._answer(head, refusal)

    def _refusal(self, head: Waiter[K, V]) -> BudgetError | None:
        """Why the first will never get room. Who waits lets go only once it is served."""
        stuck = {each.owner for each in self._queue}
        holders = [each for each in self._queue if each is not head and self._holds(each)]
        while refusal := self._seats.refusal(head.wants, stuck):
            served = [each for each in holders if not self._seats.refusal(each.wants, stuck)]
            if not stuck.intersection(each.owner for each in served):
                return refusal
            stuck.difference_update(each.owner for each in served)
        return None

    def _seated(self, waiter: Waiter[K, V]) -> bool:
        """Whether there was room for a waiter, who has it now."""
        if not self._seats.make_room(waiter.wants):
            return False
        self._answer(waiter, self._seats.take(waiter.wants, waiter.owner, self._condition))
        return True

    def _answer(self, waiter: Waiter[K, V], answer: dict[K, Seat[V]] | BudgetError) -> None:
        self._queue.remove(waiter)
        waiter.answer = answer
        waiter.answered.notify_all()

    def _holds(self, waiter: Waiter[K, V]) -> bool:
        return any(waiter.owner in seat.users for seat in self._seats)

    def _leave(self, seats: dict[K, Seat[V]], owner: int) -> None:
        with self._lock:
            while seats:  # emptied: frames that an error remembers must not keep values alive
                self._seats.leave(*seats.popitem(), owner)
            self._admit()
        self._tell()

    def _value(self, key: K, seats: Mapping[K, Seat[V]], want: Want[V]) -> V:
        """The value of ``key``, made by this thread unless another is about it."""
        seat = seats[key]
        try:
            with self._lock:
                while seat.making:
                    seat.changed.wait()
                mine = seat.making = seat.outcome is None
            if mine:
                self._make(key, seats, want)
            if isinstance(seat.outcome, Failed):
                raise seat.outcome.error
            assert isinstance(seat.outcome, Made)
            return seat.outcome.value
        finally:
            del seat  # or an error would lead to itself by this frame

    def _make(self, key: K, seats: Mapping[K, Seat[V]], want: Want[V]) -> None:
        before = perf_counter()
        outcome: Made[V] | Failed | None = None
        try:
            outcome = Made(want.make())
        except Exception as error:
            outcome = Failed(error)
            raise
        finally:  # after an interrupt there is no outcome, and another who waits for it makes it
            with self._lock:
                self._seats.settle(key, seats[key], outcome)
                self._admit()
            del outcome  # likewise
            self._tell()
        self._meter.loaded(perf_counter() - before, want.source)

    def _tell(self) -> None:
        """Tell the meter what left since it was told last."""
        with self._lock:
            news = self._seats.tally.evictions - self._told
            self._told += news
        for _ in range(news):
            self._meter.evicted()
