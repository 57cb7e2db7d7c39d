"""Which adapters are in the host's memory, as a mapping that keeps none of them there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from threading import Lock
from weakref import WeakValueDictionary

from loraloom.core.adapter import Adapter
from loraloom.core.mix import AdapterKey


class Present(Mapping[AdapterKey, Adapter]):
    """Adapters by key, as long as somebody holds them; threads may add while others look."""

    def __init__(self) -> None:
        self._there: WeakValueDictionary[AdapterKey, Adapter] = WeakValueDictionary()
        self._lock = Lock()

    def add(self, adapter: Adapter) -> Adapter:
        """The one object of a key: that which is there already, or ``adapter``.

        With two of them, the end of one would hide that the other is still there.
        """
        with self._lock:
            return self._there.setdefault(adapter.key, adapter)

    def __getitem__(self, key: AdapterKey) -> Adapter:
        return self._there[key]

    def __iter__(self) -> Iterator[AdapterKey]:
        refs = self._there.valuerefs()  # in one step: others may add meanwhile
        return iter([adapter.key for ref in refs if (adapter := ref()) is not None])

    def __len__(self) -> int:
        return len(list(iter(self)))
