"""The register of a catalogue: what names mean, who uses it, and how that changes in one step."""

from __future__ import annotations

import sqlite3
from collections import Counter
from dataclasses import replace
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING

from loraloom.core.mix import AdapterKey, finite
from loraloom.errors import (
    AdapterFileError,
    BudgetError,
    InvalidRequestError,
    StorageFullError,
    UnknownAdapterError,
)

from .claim import Claim
from .editions import Edition, Fit, Label, Stamp
from .files import remove_copy, stamp_of
from .shelf import Entry

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from .host import Host
    from .shelf import Contents, Section

MADE = "memory"
"""The source of adapters that have no file."""

COPIED = ("upload", "hub")
"""Kinds of sources whose files are copies of ours; all others are somebody's own."""


class Register:
    """Every method may be called from any thread; ``contents`` is a value that changes whole.

    Args:
        host: has in memory what names mean; it is told what stays and what goes.
        bundled: names that come with the model.
    """

    def __init__(self, section: Section, host: Host, bundled: Collection[str]) -> None:
        self.bundled = frozenset(bundled)
        self._section = section
        self._host = host
        self._users: Counter[AdapterKey] = Counter()
        self._lock = RLock()
        # those that jobs which were interrupted may be about to wear
        self._inherited = frozenset(self.contents.editions)
        self._settle()

    @property
    def contents(self) -> Contents:
        return self._section.contents

    @property
    def lasting(self) -> bool:
        """Whether it is on a disk."""
        return self._section.shelf.folder is not None

    def names(self) -> list[str]:
        """All that mean something, sorted."""
        names = self.contents.names
        there = {name for name, entry in names.items() if entry.digest is not None}
        return sorted(there | (self.bundled - names.keys()))

    def label(self, name: str) -> Label:
        """Of a name; what it means need not be there."""
        entry = self.contents.names.get(name)
        return Label() if entry is None else entry.label

    def known(self, name: str, path: Path, fit: Fit, stamp: Stamp) -> AdapterKey | None:
        """The key under ``name`` of a file that was read before and is as it was."""
        for each in self.contents.editions.values():
            same = each.stamp.settled and each.stamp.text == stamp.text
            if same and each.path == path and each.fit == fit:
                return AdapterKey(name, each.key.digest)
        return None

    def enter(self, edition: Edition, label: Label | None) -> Edition:
        """Have a name mean an edition whose file was just read; gives what it means now.

        Raises:
            AdapterFileError: the file was changed meanwhile.
            InvalidRequestError, BudgetError, StorageFullError: as :meth:`relabel`, or the name is
                an alias.
        """
        name = edition.key.name
        with self._lock:
            before, said = self.contents.current(name), self.label(name)
            label = said if label is None else label
            self._check(edition, label)
            if edition.source != MADE and not _intact(edition):
                raise AdapterFileError(
                    f"adapter file '{edition.path}' was changed while it was read"
                )
            if before is not None and before.key == edition.key:
                edition = _same(before, edition)
            if edition != before or label != said:
                self._section.publish(edition, label)
                self._settle()
            return edition

    def relabel(self, name: str, label: Label) -> None:
        """Offer what a name means otherwise.

        Raises:
            UnknownAdapterError: it means nothing.
            InvalidRequestError: an alias is taken.
            BudgetError: beside what is pinned the host will never have room for it.
            StorageFullError: the disk has no room.
        """
        with self._lock:
            edition = self.contents.current(name)
            if edition is None:
                raise UnknownAdapterError(name, self.names())
            self._check(edition, label)
            self._section.name(name, Entry(edition.key.digest, label))
            self._settle()

    def withdraw(self, name: str) -> bool:
        """Have a name mean nothing; says whether somebody still uses what it meant."""
        with self._lock:
            if name in self.bundled:
                self._section.name(name, Entry(None, Label()))
            else:
                self._section.forget(name)
            self._inherited = frozenset(key for key in self._inherited if key.name != name)
            self._settle()
            return self.users(name) > 0

    def users(self, name: str) -> int:
        """How many claims there are on any edition of a name."""
        with self._lock:
            return sum(count for key, count in self._users.items() if key.name == name)

    def used(self) -> frozenset[AdapterKey]:
        """The editions that are claimed."""
        with self._lock:
            return frozenset(self._users)

    def claim(self, keys: Iterable[AdapterKey]) -> Claim:
        """See :meth:`loraloom.store.catalog.Catalog.claim`."""
        wanted = frozenset(keys)
        with self._lock:
            there = self.contents.editions
            for key in sorted(wanted - there.keys()):
                raise UnknownAdapterError(str(key), map(str, there))
            self._users.update(wanted)
        return Claim(wanted, self._released, self._bequeathed)

    def tidy(self, wanted: frozenset[AdapterKey]) -> None:
        """See :meth:`loraloom.store.catalog.Catalog.tidy`."""
        with self._lock:
            self._inherited = wanted
            self._settle()

    def _released(self, keys: frozenset[AdapterKey]) -> None:
        with self._lock:
            self._users.subtract(keys)
            self._users = +self._users  # without those at zero
            if any(self._is_past(key) for key in keys):
                self._settle()

    def _bequeathed(self, keys: frozenset[AdapterKey]) -> None:
        with self._lock:
            self._inherited |= keys
            self._released(keys)

    def _is_past(self, key: AdapterKey) -> bool:
        current = self.contents.current(key.name)
        return current is None or current.key != key

    def _check(self, edition: Edition, label: Label) -> None:
        """Return if a name can mean an edition and be offered so."""
        name = edition.key.name
        finite(label.strength, name)
        for each in (name, *label.aliases):
            if not each or not each.isprintable():
                raise InvalidRequestError(f"the name of an adapter is {each!r}, want a word")
        owner = self.contents.canonical(name)
        if owner != name:
            raise InvalidRequestError(f"{name!r} is an alias of adapter {owner!r}")
        for alias in label.aliases:
            owner = self.contents.canonical(alias)
            if owner not in {alias, name} or alias in {name, *self.names()}:
                raise InvalidRequestError(
                    f"alias {alias!r} of adapter {name!r} is taken by adapter {owner!r}"
                )
        if len(set(label.aliases)) < len(label.aliases):
            raise InvalidRequestError(f"adapter {name!r} has an alias twice")
        self._check_room(edition)

    def _check_room(self, edition: Edition) -> None:
        budget, need = self._host.tier.budget, edition.facts.nbytes
        others = [key for key in self._pinned() if key.name != edition.key.name]
        beside = sum(self.contents.editions[key].facts.nbytes for key in others)
        if budget is not None and need + beside > budget:
            raise BudgetError(
                f"adapter {edition.key.name!r} takes {need} bytes beside {beside} of pinned ones, "
                f"the budget of adapters on the host is {budget}"
            )

    def _pinned(self) -> list[AdapterKey]:
        """What stays in memory: what a label says, and what could not be read again."""
        contents = self.contents
        past = set(contents.past())
        return [
            key
            for key, each in contents.editions.items()
            if each.source == MADE or (key not in past and contents.names[key.name].label.pinned)
        ]

    def _settle(self) -> None:
        """Remove what no name means and nobody uses, and pin what is to be."""
        for key in self.contents.past():
            if key not in self._users and key not in self._inherited:
                self._remove(key)
        self._host.tier.pin(self._pinned())

    def _remove(self, key: AdapterKey) -> None:
        folder, edition = self._section.shelf.folder, self.contents.editions[key]
        copied = edition.source.partition(":")[0] in COPIED
        try:
            if folder is not None and copied and self._section.alone(edition):
                remove_copy(edition.path, folder)
            self._section.remove(key)
        except (OSError, sqlite3.Error, StorageFullError):
            return  # no name means it; at the next change it is tried again
        self._host.tier.drop(key)


def _intact(edition: Edition) -> bool:
    """Whether its file is as it was when it was read."""
    now = stamp_of(edition.path)
    return now is not None and now.text == edition.stamp.text


def _same(before: Edition, edition: Edition) -> Edition:
    """The edition after equal bytes came: with the file that it had, if that is as it was."""
    if before.path == edition.path:
        return replace(before, fit=edition.fit, facts=edition.facts, stamp=edition.stamp)
    return before if _intact(before) else replace(edition, published=before.published)
