"""The catalogue: adapters by name and by key. Files are read once, checked whole, then kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from loraloom.errors import UnknownAdapterError
from loraloom.formats.load import load
from loraloom.formats.read import survey

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    from loraloom.core.adapter import Adapter
    from loraloom.core.mix import AdapterKey, Component
    from loraloom.formats.names import NameTable


class Catalog:
    """Adapters of one model.

    Args:
        names: the model's sites, against which every file is checked.
        bundled: adapter files that are read when they are first asked for.
    """

    def __init__(self, names: NameTable, bundled: Mapping[str, Path] | None = None) -> None:
        self._sites = names
        self._bundled = dict(bundled or {})
        self._current: dict[str, Adapter] = {}
        # a version that was replaced is there as long as a request under way holds it
        self.by_key: WeakValueDictionary[AdapterKey, Adapter] = WeakValueDictionary()

    def add(
        self,
        name: str,
        path: str | PathLike[str],
        *,
        component: Component | None = None,
        alpha: float | None = None,
        allow_partial: bool = False,
    ) -> Adapter:
        """Read an adapter file or folder and publish it under ``name``.

        A name that is taken gets the new adapter, and requests under way keep the old one; the
        same bytes again change nothing.

        Args:
            component: that the whole file is for, where it names none or the main one: of a pair
                of files for two experts, the other expert.
            alpha: of layers that carry none of their own.
            allow_partial: take a file that fits only in part.

        Raises:
            AdapterMismatchError: the model has no such component.
            AdapterFileError: the file cannot be read, or not all of it can be applied. The
                catalogue is as before.
        """
        sites = self._sites if component is None else self._sites.at(component)
        reading = survey(Path(path), sites, alpha=alpha, allow_partial=allow_partial)
        adapter = load(name, reading)
        before = self._current.get(name)
        if before is not None and before.key == adapter.key:
            return before
        self._current[name] = self.by_key[adapter.key] = adapter
        return adapter

    def get(self, name: str) -> Adapter:
        """The current adapter of that name.

        Raises:
            UnknownAdapterError: there is none; the error holds close names.
        """
        if name not in self._current and name in self._bundled:
            self.add(name, self._bundled[name])
        if name not in self._current:
            raise UnknownAdapterError(name, self.names())
        return self._current[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted({*self._bundled, *self._current})
