"""Whose turn it is: fair by owner, together what is alike, and nobody waits without end."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loraloom.engine.job import Job
from loraloom.engine.queue import TURN, Queue, Row

NO_JOB = cast("Job", None)  # the queue never looks at it


def rows(ticket: str, alike: str = "square", count: int = 1) -> list[Row]:
    return [Row(ticket, index, NO_JOB, alike) for index in range(count)]


def tickets(batch: list[Row]) -> list[str]:
    return [row.ticket for row in batch]


def test_one_owner_is_served_in_order() -> None:
    queue = Queue()
    for name in "abcdef":
        queue.put("me", rows(name, alike=name))
    assert [tickets(queue.take(8)) for _ in range(7)] == [*(list(name) for name in "abcdef"), []]
    assert len(queue) == queue.rows == 0


def test_rows_that_are_alike_run_together_whoever_wants_them() -> None:
    queue = Queue()
    queue.put("me", rows("a", "wide"))
    queue.put("you", rows("b", "tall"))
    queue.put("they", rows("c", "wide", 2))
    queue.put("me", rows("d", "wide"))
    assert sorted(tickets(queue.take(8))) == ["a", "c", "c", "d"]
    assert tickets(queue.take(8)) == ["b"]


def test_a_batch_has_no_more_rows_than_may_run_together() -> None:
    queue = Queue()
    queue.put("me", rows("a", count=20))
    taken = [queue.take(8) for _ in range(3)]
    assert [len(batch) for batch in taken] == [8, 8, 4]
    assert [row.index for batch in taken for row in batch] == list(range(20))


def test_who_has_asked_for_much_waits_for_who_has_asked_for_little() -> None:
    queue = Queue()
    queue.put("greedy", rows("g", "g", 30))
    assert tickets(queue.take(8)) == ["g"] * 8
    queue.put("modest", rows("m1", "m"))
    queue.put("modest", rows("m2", "m"))
    assert tickets(queue.take(1)) == ["m1"]


def test_owners_take_turns_by_rows() -> None:
    queue = Queue()
    for index in range(6):
        queue.put("one", rows(f"one{index}", f"one{index}", 2))
        queue.put("two", rows(f"two{index}", f"two{index}"))
    served = {"one": 0, "two": 0}
    for _ in range(8):
        for row in queue.take(2):
            served[row.ticket[:3]] += 1
        assert abs(served["one"] - served["two"]) <= 4


def test_who_comes_back_has_not_saved_up_turns() -> None:
    queue = Queue()
    queue.put("late", rows("l0", "l0"))
    for index in range(20):
        queue.put("steady", rows(f"s{index}", f"s{index}"))
    for _ in range(12):
        queue.take(1)
    for index in range(10):
        queue.put("late", rows(f"late{index}", f"late{index}"))
    owners = [tickets(queue.take(1))[0][0] for _ in range(8)]
    assert 3 <= owners.count("s") <= 5, owners


def test_what_is_dropped_waits_no_more() -> None:
    queue = Queue()
    queue.put("me", rows("a", count=3))
    queue.put("me", rows("b"))
    assert queue.drop("a")
    assert not queue.drop("a")
    assert tickets(queue.take(8)) == ["b"]


def test_positions_are_those_of_owners_taking_turns() -> None:
    queue = Queue()
    for name in ("a1", "a2", "a3"):
        queue.put("a", rows(name, name))
    queue.put("b", rows("b1", "b1"))
    assert [queue.position(name) for name in ("a1", "b1", "a2", "a3")] == [0, 1, 2, 3]
    assert queue.position("c") is None
    assert [row.ticket for row in queue.upcoming(2)] == ["a1", "b1"]


ARRIVALS = st.lists(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.sampled_from("xyz"), st.integers(1, 6)), max_size=4
    ),
    min_size=1,
    max_size=40,
)
"""Tickets by batch: owner, shape and rows of those that come before it is taken."""


@settings(deadline=None, max_examples=150)
@given(arrivals=ARRIVALS, most=st.integers(1, 5))
def test_every_ticket_is_served_within_its_bound_whatever_others_ask_for(
    arrivals: list[list[tuple[str, str, int]]], most: int
) -> None:
    """At most TURN batches for each row of its own and of older tickets that still wait."""
    queue, bound, wanted = Queue(), dict[str, int](), dict[str, int]()
    batch = number = 0
    taken: list[tuple[str, int]] = []
    while batch < len(arrivals) or len(queue):
        for owner, shape, count in arrivals[batch] if batch < len(arrivals) else ():
            name = f"t{number}"
            number += 1
            queue.put(owner, rows(name, shape, count))
            bound[name] = batch + TURN * queue.rows
            wanted[name] = count
        rows_now = queue.take(most)
        batch += 1
        assert len({row.alike for row in rows_now}) <= 1
        assert len(rows_now) <= most
        for row in rows_now:
            taken.append((row.ticket, row.index))
            assert batch <= bound[row.ticket], row
    assert sorted(taken) == sorted((name, i) for name, n in wanted.items() for i in range(n))


@pytest.mark.parametrize("most", [1, 3])
def test_ever_new_owners_do_not_starve_one_who_was_served_before(most: int) -> None:
    """Each of them was served less than the one who waits, for ever."""
    queue = Queue()
    queue.put("old", rows("first", "x", 6))
    while queue.rows:
        queue.take(most)
    queue.put("other", rows("filler", "y"))
    queue.put("old", rows("rare", "rare", 2))
    done = 0
    for batch in range(100):
        queue.put(f"new{batch}", rows(f"n{batch}", "y"))
        done += tickets(queue.take(most)).count("rare")
        if done == 2:
            break
    assert batch + 1 <= TURN * 3
