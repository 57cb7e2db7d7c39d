"""What keeps an edition: somebody who uses it."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from loraloom.core.mix import AdapterKey

    Told: TypeAlias = Callable[[frozenset[AdapterKey]], None]


class Claim:
    """Somebody uses editions, which stay until :meth:`release`. A context manager."""

    def __init__(self, keys: frozenset[AdapterKey], released: Told, bequeathed: Told) -> None:
        self.keys = keys
        self._released = released
        self._bequeathed = bequeathed
        self._lock = Lock()

    def release(self) -> None:
        """They are not used any more. To say so again changes nothing."""
        self._end(self._released)

    def bequeath(self) -> None:
        """They are not used any more, but stay for who goes on with what was begun.

        Until the next :meth:`loraloom.store.catalog.Catalog.tidy`.
        """
        self._end(self._bequeathed)

    def _end(self, told: Told) -> None:
        with self._lock:
            keys, self.keys = self.keys, frozenset()
        if keys:
            told(keys)

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
