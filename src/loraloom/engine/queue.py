"""Rows that wait: whose turn it is, and which of them run together. No torch here."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Sequence

    from .job import Job

TURN = 4
"""Every so manieth batch begins with the oldest ticket of all, whosever it is."""


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One request of a ticket; rows whose ``alike`` are equal may share a batch."""

    ticket: str
    index: int
    job: Job
    alike: Hashable


@dataclass(frozen=True, slots=True, order=True)
class Share:
    """What an owner has had: rows, and the number of the last batch that any of them was in."""

    rows: int = 0
    batch: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """The rows of one ticket that still wait."""

    owner: str
    rows: deque[Row]


class Queue:
    """Rows by ticket, in a fair order.

    A batch begins with a row of the owner who was served the fewest rows, of several the one who
    was not served for the longest, and of theirs with the oldest ticket; then rows that are alike
    ride along, in the same order. The head is never chosen by its shape. Owners who come or come
    back are as far as the one served least, so nobody saves up turns.

    Every :data:`TURN`-th batch begins with the oldest ticket of all: a ticket waits for at most
    ``TURN`` batches for each row of its own and of older tickets, whatever arrives meanwhile.

    Not for several threads at once; whoever has it locks.
    """

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}  # by ticket, the oldest first
        self._served: dict[str, Share] = {}
        self._batches = 0

    def __len__(self) -> int:
        """Tickets that wait, in whole or in part."""
        return len(self._places)

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return sum(len(place.rows) for place in self._places.values())

    def of(self, owner: str) -> int:
        """Tickets of one owner that wait."""
        return sum(place.owner == owner for place in self._places.values())

    def put(self, owner: str, rows: Sequence[Row]) -> None:
        """Let the rows of one new ticket wait."""
        (ticket,) = {row.ticket for row in rows}
        assert ticket not in self._places
        present = {place.owner for place in self._places.values()}
        if owner not in present:
            least = min((self._served[each].rows for each in present), default=0)
            before = self._served.get(owner, Share())
            self._served[owner] = Share(max(before.rows, least), before.batch)
        self._places[ticket] = Place(owner, deque(rows))

    def take(self, most: int) -> list[Row]:
        """Rows that run together, at most so many; none if none wait. They wait no longer."""
        if not self._places:
            return []
        self._batches += 1
        oldest = next(iter(self._places))
        head = oldest if self._batches % TURN == 0 else self._next(self._places)
        alike = self._places[head].rows[0].alike
        taken = self._pick(head, alike, most)
        others = {ticket for ticket, place in self._places.items() if _has(place, alike)}
        while others and len(taken) < most:
            ticket = self._next(others)
            taken += self._pick(ticket, alike, most - len(taken))
            others.discard(ticket)
        if not self._places:
            self._served.clear()
        return taken

    def drop(self, ticket: str) -> bool:
        """Forget what waits of a ticket; says whether anything did."""
        gone = self._places.pop(ticket, None)
        if not self._places:
            self._served.clear()
        return gone is not None

    def upcoming(self, most: int) -> Iterator[Row]:
        """The first rows of the first tickets, about in the order of their turns."""
        for ticket in self._order()[:most]:
            yield self._places[ticket].rows[0]

    def position(self, ticket: str) -> int | None:
        """How many tickets come before this one, about; ``None`` if it does not wait."""
        order = self._order()
        return order.index(ticket) if ticket in order else None

    def _order(self) -> list[str]:
        """Tickets as owners take turns, if every turn were one ticket."""
        turns: dict[str, int] = {}
        ranked = []
        for age, (ticket, place) in enumerate(self._places.items()):
            rank = turns[place.owner] = turns.get(place.owner, -1) + 1
            ranked.append(((rank, self._served[place.owner], age), ticket))
        return [ticket for _, ticket in sorted(ranked)]

    def _next(self, tickets: Iterable[str]) -> str:
        """Of ``tickets`` the oldest one of the owner who was served least."""
        wanted = set(tickets)
        waiting = (ticket for ticket in self._places if ticket in wanted)
        return min(waiting, key=lambda ticket: self._served[self._places[ticket].owner])

    def _pick(self, ticket: str, alike: Hashable, most: int) -> list[Row]:
        place = self._places[ticket]
        picked = [row for row in place.rows if row.alike == alike][:most]
        before = self._served[place.owner]
        self._served[place.owner] = Share(before.rows + len(picked), self._batches)
        indices = {row.index for row in picked}
        left = deque(row for row in place.rows if row.index not in indices)
        if left:
            self._places[ticket] = Place(place.owner, left)  # where it was: age does not change
        else:
            del self._places[ticket]
        return picked


def _has(place: Place, alike: Hashable) -> bool:
    return any(row.alike == alike for row in place.rows)
