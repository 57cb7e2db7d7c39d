"""Tiers: one flight, budgets that hold, nothing in use evicted, nobody left waiting."""

from __future__ import annotations

import gc
import random
import signal
import sys
import time
import weakref
from collections import Counter
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from threading import Barrier, Event, Lock, Thread
from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from loraloom.errors import BudgetError
from loraloom.memory.seats import Tally, Want
from loraloom.memory.tier import Tier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PATIENCE = 60
"""Seconds until a test says that somebody waits for ever."""


T = TypeVar("T")


class BoomError(Exception):
    """Injected."""


@dataclass(eq=False)
class Value:
    """Something that takes memory as long as it is alive."""

    key: str


class Memory:
    """Counts the bytes of values that are alive, not those that a tier believes to have."""

    def __init__(self, budget: int = 10**9) -> None:
        self.budget = budget
        self.alive = 0
        self.lock = Lock()

    def make(self, key: str, size: int) -> Value:
        value = Value(key)
        with self.lock:
            self.alive += size
            assert self.alive <= self.budget, "more is in memory than may be"
        weakref.finalize(value, self._gone, size)
        return value

    def want(self, key: str, size: int) -> Want[Value]:
        return Want(size, lambda: self.make(key, size))

    def _gone(self, size: int) -> None:
        with self.lock:
            self.alive -= size


def broken(size: int) -> Want[Value]:
    def fail() -> Value:
        raise BoomError

    return Want(size, fail)


def until(true: Callable[[], object]) -> None:
    """Wait until something is so, which it will be soon."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it never comes to that"
        time.sleep(0.001)


def begin(work: Callable[[], T]) -> Future[T]:
    """Run in a thread that ends with the process: one that waits for ever stops nobody else."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)
            if not isinstance(error, Exception | pytest.fail.Exception):
                raise

    Thread(target=run, daemon=True).start()
    return future


def together(works: Sequence[Callable[[], T]]) -> list[T]:
    """Run all at once; what one raises is raised, and one that never ends is told."""
    return [each.result(PATIENCE) for each in [begin(work) for work in works]]


def kept(tier: Tier[str, Value], keys: Sequence[str]) -> list[str]:
    return [key for key in keys if key in tier]


@pytest.fixture
def switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def test_a_thousand_at_once_make_a_value_once() -> None:
    tier: Tier[str, Value] = Tier(10, "values")
    start, made = Barrier(1000), list[Value]()

    def make() -> Value:
        made.append(Value("a"))
        time.sleep(0.05)
        return made[-1]

    def work() -> Value:
        start.wait(PATIENCE)
        with tier.hold("a", Want(10, make)) as value:
            return value

    assert set(map(id, together([work] * 1000))) == {id(made[0])}
    assert len(made) == 1
    assert tier.tally == Tally(hits=999, loads=1)


def test_an_error_reaches_all_who_wait_and_leaves_nothing() -> None:
    tier: Tier[str, Value] = Tier(10, "values")

    def fail() -> Value:
        until(lambda: tier.tally.hits == 7)
        raise BoomError

    def work() -> BaseException:
        with pytest.raises(BoomError) as caught, tier.hold("a", Want(10, fail)):
            pytest.fail("there is no value")
        return caught.value

    assert len(set(map(id, together([work] * 8)))) == 1
    assert (len(tier), tier.nbytes, tier.tally.loads) == (0, 0, 0)
    with tier.hold("a", Memory().want("a", 10)) as value:
        assert value.key == "a"


def test_an_error_keeps_nothing_alive() -> None:
    memory, tier = Memory(), Tier[str, Value](10, "values")
    gc.disable()
    try:
        try:
            with tier.hold_all({"a": memory.want("a", 5), "b": broken(5)}):
                pytest.fail("there is no value")
        except BoomError as error:
            tier.drop("a")
            assert memory.alive == 0
            there = weakref.ref(error)
        assert there() is None
    finally:
        gc.enable()


def test_who_is_interrupted_while_making_leaves_it_to_another() -> None:
    memory, tier = Memory(), Tier[str, Value](10, "values")

    def interrupted() -> Value:
        until(lambda: tier.tally.hits == 1)
        raise KeyboardInterrupt

    def first() -> None:
        with pytest.raises(KeyboardInterrupt), tier.hold("a", Want(10, interrupted)):
            pytest.fail("there is no value")

    def second() -> str:
        until(lambda: len(tier))
        with tier.hold("a", memory.want("a", 10)) as value:
            return value.key

    assert together([first, second]) == [None, "a"]
    assert kept(tier, ["a"]) == ["a"]


def test_who_is_interrupted_while_waiting_is_not_waited_for() -> None:
    memory, tier = Memory(), Tier[str, Value](10, "values")
    free = Event()

    def holder() -> None:
        with tier.hold("a", memory.want("a", 5)):
            free.wait(PATIENCE)

    def behind() -> str:
        until(lambda: len(tier._queue) == 1)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with tier.hold("c", memory.want("c", 5)) as value:
            return value.key

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        holding = begin(holder)
        until(lambda: "a" in tier)
        after = begin(behind)
        with pytest.raises(KeyboardInterrupt), tier.hold("b", memory.want("b", 10)):
            pytest.fail("there is no room")
        assert after.result(PATIENCE) == "c"
    finally:
        signal.signal(signal.SIGALRM, before)
        free.set()
    holding.result(PATIENCE)
    assert (sorted(kept(tier, "abc")), tier.nbytes) == (["a", "c"], 10)


def test_what_is_held_stays_and_the_least_recently_used_leaves_first() -> None:
    memory, tier = Memory(30), Tier[str, Value](30, "values")
    with tier.hold("a", memory.want("a", 10)):
        for key in "bcd":
            with tier.hold(key, memory.want(key, 10)):
                pass
        assert kept(tier, "abcd") == ["a", "c", "d"]
    with tier.hold("c", memory.want("c", 10)), tier.hold("e", memory.want("e", 10)):
        pass
    assert kept(tier, "abcde") == ["c", "d", "e"]
    assert tier.tally.evictions == 2


def test_what_is_pinned_stays_until_it_is_not() -> None:
    memory, tier = Memory(20), Tier[str, Value](20, "values")
    tier.pin(["a"])
    for key in "abc":
        with tier.hold(key, memory.want(key, 10)):
            pass
    assert kept(tier, "abc") == ["a", "c"]
    with (
        pytest.raises(
            BudgetError, match=r"values take 20 bytes beside 10 of pinned ones, the .* 20"
        ),
        tier.hold("d", memory.want("d", 20)),
    ):
        pytest.fail("there is no room")
    tier.pin([])
    with tier.hold("d", memory.want("d", 20)):
        assert kept(tier, "abcd") == ["d"]


def test_a_pin_that_takes_the_room_away_is_told_to_who_waits_for_it() -> None:
    memory, tier = Memory(20), Tier[str, Value](20, "values")

    def work() -> None:
        with pytest.raises(BudgetError, match="pinned"), tier.hold("b", memory.want("b", 20)):
            pytest.fail("there is no room")

    def pin() -> None:
        with tier.hold("a", memory.want("a", 10)):
            waiting = begin(work)
            until(lambda: tier._queue)
            tier.pin(["a"])
            waiting.result(PATIENCE)

    together([pin])


def test_what_can_never_fit_is_refused_at_once() -> None:
    tier: Tier[str, Value] = Tier(10, "adapters")
    want = Memory().want("a", 6)
    with (
        pytest.raises(BudgetError, match="adapters take 12 bytes, the budget is 10"),
        tier.hold_all({"a": want, "b": want}),
    ):
        pytest.fail("there is no room")
    assert len(tier) == 0


def test_room_is_given_in_the_order_of_asking_also_to_what_is_there() -> None:
    memory, tier = Memory(10), Tier[str, Value](10, "values")
    order = list[str]()

    def work(key: str, size: int) -> None:
        with tier.hold(key, memory.want(key, size)):
            order.append(key)

    with tier.hold("a", memory.want("a", 5)):
        waiting = []
        for number, (key, size) in enumerate((("b", 10), ("a", 5), ("c", 5)), 1):
            waiting.append(begin(partial(work, key, size)))
            until(lambda: len(tier._queue) == number)  # noqa: B023
        tier.prefetch("d", memory.want("d", 5))
        assert "d" not in tier
    for each in waiting:
        each.result(PATIENCE)
    assert order[0] == "b"
    assert sorted(order[1:]) == ["a", "c"]


def test_who_holds_goes_before_who_waits_for_it() -> None:
    memory, tier = Memory(10), Tier[str, Value](10, "values")

    def work() -> str:
        with tier.hold("b", memory.want("b", 10)) as value:
            return value.key

    with tier.hold("a", memory.want("a", 5)):
        waiting = begin(work)
        until(lambda: tier._queue)
        with tier.hold("a", memory.want("a", 5)), tier.hold("c", memory.want("c", 5)):
            assert not waiting.done()
    assert waiting.result(PATIENCE) == "b"


def test_who_could_only_be_served_by_itself_is_refused() -> None:
    memory, tier = Memory(10), Tier[str, Value](10, "values")
    with (
        tier.hold("a", memory.want("a", 6)),
        pytest.raises(BudgetError, match="6 that are held by who waits"),
        tier.hold("b", memory.want("b", 6)),
    ):
        pytest.fail("there is no room")


def test_of_two_that_wait_for_each_other_one_is_refused_and_the_other_served() -> None:
    memory, tier = Memory(10), Tier[str, Value](10, "values")
    both = Barrier(2)

    def work(first: str, then: str) -> str:
        try:
            with tier.hold(first, memory.want(first, 5)):
                both.wait(PATIENCE)
                with tier.hold(then, memory.want(then, 5)):
                    return "served"
        except BudgetError:
            return "refused"

    answers = together([lambda: work("a", "c"), lambda: work("b", "d")])
    assert sorted(map(str, answers)) == ["refused", "served"]


def test_who_is_served_when_a_third_lets_go_is_waited_for() -> None:
    memory, tier = Memory(100), Tier[str, Value](100, "values")
    third = Event()

    def first() -> None:
        with tier.hold("a", memory.want("a", 60)):
            until(lambda: tier.nbytes == 100)
            with tier.hold("b", memory.want("b", 10)):
                pass

    def second() -> None:
        with tier.hold("c", memory.want("c", 10)):
            until(lambda: len(tier._queue) == 1)
            with tier.hold("d", memory.want("d", 40)):
                pass

    def last() -> None:
        with tier.hold("e", memory.want("e", 30)):
            third.wait(PATIENCE)

    works = [begin(work) for work in (first, second, last)]
    until(lambda: len(tier._queue) == 2)
    third.set()
    for work in works:
        work.result(PATIENCE)


def test_what_is_fetched_ahead_takes_no_room_from_who_uses_it_and_from_what_is_spared() -> None:
    memory, tier = Memory(20), Tier[str, Value](20, "values")
    for key in "ab":
        tier.prefetch(key, memory.want(key, 10))
    assert kept(tier, "ab") == ["a", "b"]
    with tier.hold("a", memory.want("a", 10)):
        tier.prefetch("c", memory.want("c", 10), spare={"b"})
        assert kept(tier, "abc") == ["a", "b"]
        tier.prefetch("c", memory.want("c", 10))
        assert kept(tier, "abc") == ["a", "c"]
        tier.prefetch("d", memory.want("d", 20))
        assert kept(tier, "abcd") == ["a", "c"]
    with pytest.raises(BoomError):
        tier.prefetch("e", broken(10))
    assert kept(tier, "abcde") == ["c"] or kept(tier, "abcde") == ["a"]
    assert tier.nbytes == 10


def test_what_is_dropped_stays_for_who_holds_it_and_is_made_anew_for_others() -> None:
    memory, tier = Memory(20), Tier[str, Value](20, "values")
    with tier.hold("a", memory.want("a", 10)) as old:
        tier.drop("a")
        assert ("a" in tier, tier.nbytes) == (False, 10)
        with tier.hold("a", memory.want("a", 10)) as new:
            assert new is not old
            assert tier.nbytes == memory.alive == 20
    del old
    assert tier.nbytes == memory.alive == 10


def test_a_value_that_is_renamed_is_found_by_its_new_name_also_while_it_is_held() -> None:
    memory, tier = Memory(30), Tier[str, Value](30, "values")
    with tier.hold("draft", memory.want("a", 10)) as value:
        tier.rename("draft", "a")
        tier.drop("draft")
    with tier.hold("a", broken(10)) as found:
        assert found is value
    with tier.hold("draft", memory.want("a", 10)):
        tier.rename("draft", "a")  # there is one
    del found, value
    assert (kept(tier, ["a", "draft"]), tier.nbytes, memory.alive) == (["a"], 10, 10)


class Told:
    """Counts, and looks at the tier as a meter may."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.tier: Tier[str, Value] | None = None

    def loaded(self, seconds: float, source: str) -> None:
        assert seconds >= 0
        self.counts[source] += 1

    def evicted(self) -> None:
        assert self.tier is not None
        together([partial(len, self.tier)])  # the lock is free
        self.counts["evicted"] += 1


def test_a_meter_is_told_of_what_was_made_and_what_left() -> None:
    meter = Told()
    tier = meter.tier = Tier[str, Value](20, "values", meter)
    for key in "abca":
        with tier.hold(key, Want(10, lambda: Value("x"), f"from {key}")):
            pass
    with pytest.raises(BoomError), tier.hold("d", broken(10)):
        pytest.fail("there is no value")
    assert meter.counts == {"from a": 2, "from b": 1, "from c": 1, "evicted": 3}
    assert tier.tally == Tally(hits=0, loads=4, evictions=3)


SIZES = dict(zip("abcdefgh", (1, 3, 5, 8, 13, 21, 34, 50), strict=True))
KEYS = st.sampled_from(sorted(SIZES))


@dataclass
class Held:
    """A block that is open in the model."""

    keys: tuple[str, ...]
    values: dict[str, Value]
    stack: ExitStack


class Model(RuleBasedStateMachine):
    """One thread against a plain model of what is kept: nobody waits, for all holds are its own."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory(60)
        self.tier: Tier[str, Value] = Tier(60, "values")
        self.kept: list[str] = []  # the least recently used first
        self.held: list[Held] = []
        self.gone: list[tuple[Held, str]] = []  # dropped while held
        self.pinned: set[str] = set()
        self.evictions = 0

    def in_use(self) -> set[str]:
        gone = [(id(held), key) for held, key in self.gone]
        return {k for held in self.held for k in held.keys if (id(held), k) not in gone}

    def leaving(self) -> int:
        values = {id(held.values[key]): SIZES[key] for held, key in self.gone}
        return sum(values.values())

    def fits(self, keys: set[str], spare: set[str]) -> list[str] | None:
        """What has to leave for ``keys``, or None."""
        leave: list[str] = []
        total = sum(SIZES[key] for key in {*self.kept, *keys}) + self.leaving()
        for key in self.kept:
            if total <= 60:
                break
            if key not in self.in_use() | self.pinned | keys | spare:
                leave.append(key)
                total -= SIZES[key]
        return leave if total <= 60 else None

    def settle(self, keys: Sequence[str], leave: Sequence[str]) -> None:
        self.evictions += len(leave)
        self.kept = [key for key in self.kept if key not in {*leave, *keys}] + list(keys)

    @rule(keys=st.lists(KEYS, min_size=1, max_size=3, unique=True), fails=st.sets(KEYS))
    def hold(self, keys: list[str], fails: set[str]) -> None:
        leave = self.fits(set(keys), set())
        wants = {
            key: broken(SIZES[key]) if key in fails else self.memory.want(key, SIZES[key])
            for key in keys
        }
        stack, missing = ExitStack(), [key for key in keys if key not in self.kept]
        try:
            values = dict(stack.enter_context(self.tier.hold_all(wants)))
        except BudgetError:
            assert leave is None
            return
        except BoomError:
            assert leave is not None
            first = next(key for key in missing if key in fails)
            made = [
                key for key in keys if key in self.kept or key in missing[: missing.index(first)]
            ]
            self.settle(made, leave)
            return
        assert leave is not None
        assert not fails & set(missing)
        assert [values[key].key for key in keys] == keys
        self.settle(keys, leave)
        self.held.append(Held(tuple(keys), values, stack))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        held = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.gone = [(other, key) for other, key in self.gone if other is not held]
        held.values.clear()
        held.stack.close()

    @rule(key=KEYS, spare=st.sets(KEYS), fails=st.booleans())
    def prefetch(self, key: str, spare: set[str], fails: bool) -> None:
        leave = self.fits({key}, spare)
        there = key in self.kept
        want = broken(SIZES[key]) if fails else self.memory.want(key, SIZES[key])
        try:
            self.tier.prefetch(key, want, spare)
        except BoomError:
            assert fails
            assert leave is not None
            assert not there
            self.settle([], leave)
        else:
            if not there and leave is not None:
                assert not fails
                self.settle([key], leave)

    @rule(key=KEYS)
    def drop(self, key: str) -> None:
        users = [held for held in self.held if key in held.keys and (held, key) not in self.gone]
        self.gone += [(held, key) for held in users]
        self.kept = [other for other in self.kept if other != key]
        self.tier.drop(key)

    @rule(keys=st.sets(KEYS, max_size=2))
    def pin(self, keys: set[str]) -> None:
        self.pinned = keys
        self.tier.pin(keys)

    @invariant()
    def the_tier_is_as_the_model_and_as_the_memory(self) -> None:
        assert kept(self.tier, self.kept) == self.kept
        assert len(self.tier) == len(self.kept) + len({id(h.values[k]) for h, k in self.gone})
        assert self.tier.nbytes == sum(SIZES[key] for key in self.kept) + self.leaving()
        assert self.memory.alive == self.tier.nbytes <= 60
        assert self.tier.tally.evictions == self.evictions

    def teardown(self) -> None:
        for held in self.held:
            held.values.clear()
            held.stack.close()
        self.pin(set())
        for key in SIZES:
            self.tier.drop(key)
        assert self.memory.alive == self.tier.nbytes == len(self.tier) == 0


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)


class Crowd:
    """Random operations of many threads, with everything looked at from inside and outside."""

    def __init__(self, budget: int, *, dropping: bool) -> None:
        self.tier: Tier[str, Value] = Tier(budget, "values")
        self.memory = Memory(budget)
        self.budget = budget
        self.dropping = dropping
        self.flights: Counter[str] = Counter()
        self.holders: Counter[int] = Counter()
        self.lock = Lock()

    def want(self, key: str, draw: random.Random) -> Want[Value]:
        nap, fails = draw.choice((0.0, 0.0, 0.0002)), draw.random() < 0.1

        def make() -> Value:
            with self.lock:
                self.flights[key] += 1
                assert self.dropping or self.flights[key] == 1, "made twice at once"
            assert self.tier.nbytes <= self.budget
            time.sleep(nap)
            with self.lock:
                self.flights[key] -= 1
            if fails:
                raise BoomError
            return self.memory.make(key, SIZES[key])

        return Want(SIZES[key], make)

    def hold(self, draw: random.Random, depth: int) -> None:
        keys = draw.sample(sorted(SIZES), draw.randint(1, 3))
        with self.tier.hold_all({key: self.want(key, draw) for key in keys}) as values:
            assert [values[key].key for key in keys] == keys
            assert self.dropping or all(key in self.tier for key in keys), "evicted in use"
            assert self.tier.nbytes <= self.budget
            if depth:
                with suppress(BoomError, BudgetError):
                    self.hold(draw, depth - 1)
            if draw.random() < 0.2:
                time.sleep(0.0002)
            assert self.dropping or all(key in self.tier for key in keys), "evicted in use"
            del values

    def work(self, seed: int) -> Counter[str]:
        draw, ends = random.Random(seed), Counter[str]()
        for _ in range(500):
            act = draw.random()
            try:
                if act < 0.7:
                    self.hold(draw, draw.choice((0, 0, 0, 1, 2)) if self.dropping else 0)
                elif act < 0.85 or not self.dropping:
                    key = draw.choice(sorted(SIZES))
                    self.tier.prefetch(
                        key, self.want(key, draw), spare=set(draw.sample("abcdef", 2))
                    )
                elif act < 0.95:
                    self.tier.drop(draw.choice(sorted(SIZES)))
                else:
                    self.tier.pin(draw.sample("abcd", 2))
                ends["done"] += 1
            except BoomError:
                ends["failed"] += 1
            except BudgetError:
                ends["refused"] += 1
            assert self.tier.nbytes <= self.budget
        return ends


@pytest.mark.parametrize("dropping", [False, True], ids=["plain", "with drops, pins and nesting"])
@pytest.mark.usefixtures("switching_often")
def test_sixteen_threads_keep_to_the_budget_and_lose_nobody(dropping: bool) -> None:
    crowd = Crowd(110, dropping=dropping)
    ends = sum(together([partial(crowd.work, seed) for seed in range(16)]), Counter[str]())
    assert ends.total() == 16 * 500
    assert ends["failed"] > 100
    assert bool(ends["refused"]) == dropping
    assert crowd.tier.tally.evictions > 100
    assert not crowd.tier._queue
    crowd.tier.pin([])
    for key in SIZES:
        crowd.tier.drop(key)
    gc.collect()
    assert (crowd.tier.nbytes, len(crowd.tier), crowd.memory.alive) == (0, 0, 0)
