"""A budget that holds whatever the order of requests."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraloom.memory.cache import Cache


@dataclass(frozen=True)
class Block:
    name: int
    nbytes: int


SIZES = [0, 1, 3, 5, 8, 13, 40]


@given(st.lists(st.sampled_from(range(len(SIZES))), max_size=200), st.integers(0, 30))
def test_the_budget_is_never_exceeded_and_values_are_right(asked: list[int], budget: int) -> None:
    cache: Cache[int, Block] = Cache(budget)
    for name in asked:
        value = cache.get(name, lambda name=name: Block(name, SIZES[name]))  # type: ignore[misc]
        assert value == Block(name, SIZES[name])
        assert cache.nbytes <= budget


def test_the_least_recently_used_goes_first() -> None:
    cache: Cache[str, Block] = Cache(10)
    made: list[str] = []

    def get(name: str) -> None:
        def make() -> Block:
            made.append(name)
            return Block(0, 5)

        cache.get(name, make)

    for name in "abacab":
        get(name)
    assert "".join(made) == "abcb"
    assert len(cache) == 2
    assert cache.nbytes == 10


def test_a_failure_while_making_changes_nothing() -> None:
    cache: Cache[str, Block] = Cache(10)
    cache.get("a", lambda: Block(0, 8))

    def fail() -> Block:
        raise MemoryError("injected")

    with pytest.raises(MemoryError):
        cache.get("b", fail)
    assert (len(cache), cache.nbytes) == (1, 8)


def test_what_is_larger_than_the_budget_is_given_out_and_not_kept() -> None:
    cache: Cache[str, Block] = Cache(10)
    cache.get("a", lambda: Block(0, 8))
    assert cache.get("huge", lambda: Block(1, 11)) == Block(1, 11)
    assert (len(cache), cache.nbytes) == (1, 8)
