"""What was brought and not published: when it may go, and whose turn it is to publish."""

from __future__ import annotations

from contextlib import contextmanager
from threading import Condition, Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Leftovers:
    """Files go when nobody is served any more, so that none goes that somebody is about.

    Args:
        remove: what becomes of a file; it says itself whether it is of use by then.
    """

    def __init__(self, remove: Callable[[Path], None]) -> None:
        self._remove = remove
        self._lock = Lock()
        self._served = 0
        self._brought: set[Path] = set()

    @contextmanager
    def serving(self) -> Iterator[set[Path]]:
        """Somebody is served; what they bring is put into the set."""
        brought: set[Path] = set()
        with self._lock:
            self._served += 1
        try:
            yield brought
        finally:
            with self._lock:
                self._served -= 1
                self._brought |= brought
                if not self._served:
                    left, self._brought = self._brought, set()
                    for path in left:
                        self._remove(path)


class Turns:
    """One at a time for every name."""

    def __init__(self) -> None:
        self._free = Condition()
        self._taken: set[str] = set()

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """A block that nobody else is in with the same name."""
        with self._free:
            self._free.wait_for(lambda: name not in self._taken)
            self._taken.add(name)
        try:
            yield
        finally:
            with self._free:
                self._taken.discard(name)
                self._free.notify_all()
