"""A budget that holds whatever the order of requests."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraloom.errors import BudgetError
from loraloom.memory.cache import Cache


@dataclass(frozen=True)
class Block:
    name: int
    nbytes: int


SIZES = [0, 1, 3, 5, 8, 13, 40]


@given(
    st.lists(st.sets(st.sampled_from(range(len(SIZES))), max_size=3), max_size=200),
    st.integers(0, 30),
)
def test_the_budget_is_never_exceeded_and_values_are_right(
    asked: list[set[int]], budget: int
) -> None:
    cache: Cache[int, Block] = Cache(budget, "blocks")

    def make(name: int) -> Block:
        assert cache.nbytes + SIZES[name] <= budget  # room comes before the value
        return Block(name, SIZES[name])

    for names in asked:
        wanted = {name: SIZES[name] for name in names}
        before = list(cache)
        if sum(wanted.values()) > budget:
            with pytest.raises(
                BudgetError, match=rf"blocks take \d+ bytes, the budget is {budget}"
            ):
                cache.take(wanted, make)
            assert list(cache) == before
        else:
            assert cache.take(wanted, make) == {name: Block(name, SIZES[name]) for name in names}
            assert names <= set(cache)
        assert cache.nbytes == sum(SIZES[name] for name in cache) <= budget


def test_the_least_recently_used_goes_first() -> None:
    cache: Cache[str, Block] = Cache(10, "blocks")
    made: list[str] = []

    def make(name: str) -> Block:
        made.append(name)
        return Block(0, 5)

    for name in "abacab":
        cache.take({name: 5}, make)
    assert "".join(made) == "abcb"
    assert cache.dropped == 2
    assert cache.find("a") == Block(0, 5)  # and is used by that
    cache.take({"c": 5}, make)
    assert list(cache) == ["a", "c"]


def test_a_failure_while_making_leaves_what_is_there() -> None:
    cache: Cache[str, Block] = Cache(10, "blocks")
    cache.take({"a": 4}, lambda _: Block(0, 4))

    def fail(_name: str) -> Block:
        raise MemoryError("injected")

    with pytest.raises(MemoryError):
        cache.take({"b": 4}, fail)
    assert (list(cache), cache.nbytes) == (["a"], 4)


def test_what_is_offered_is_kept_if_there_is_room_for_it_at_all() -> None:
    cache: Cache[str, Block] = Cache(10, "blocks")
    cache.take({"a": 8}, lambda _: Block(0, 8))
    cache.offer("huge", 11, lambda: pytest.fail("made for nothing"))
    assert list(cache) == ["a"]
    cache.offer("b", 9, lambda: Block(1, 9))
    assert list(cache) == ["b"]
    cache.offer("b", 9, lambda: pytest.fail("it is there"))
