"""The catalogue: adapters by name and by key, published, worn, replaced and withdrawn."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

from loraloom.errors import (
    AdapterFileError,
    InvalidRequestError,
    LoraloomError,
    UnknownAdapterError,
)
from loraloom.memory.tier import UNMETERED

from .editions import Edition, Facts, Fit
from .files import stamp_of
from .host import Draft, Host
from .register import MADE, Register
from .shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from os import PathLike

    from loraloom.core.adapter import Adapter
    from loraloom.core.mix import AdapterKey, Component
    from loraloom.formats.names import NameTable
    from loraloom.memory.tier import TierMeter

    from .claim import Claim
    from .editions import Label

BUNDLED = "bundled"
"""The source of adapters that come with a model."""

AS_IT_IS = Fit()


class Catalog:
    """Adapters of one model; every method may be called from any thread.

    Args:
        names: the model's sites, against which every file is checked.
        bundled: adapter files that are read when they are first asked for.
        shelf: where the catalogue lasts; without one it does not.
        budget: bytes of adapters on the host; ``None`` is without end.
        meter: who counts what is loaded and what has to leave.
    """

    def __init__(
        self,
        names: NameTable,
        bundled: Mapping[str, Path] | None = None,
        *,
        shelf: Shelf | None = None,
        budget: int | None = None,
        meter: TierMeter = UNMETERED,
    ) -> None:
        self.host = Host(names, budget, meter)
        section = (shelf or Shelf()).section(_fingerprint(names))
        self._bundled = dict(bundled or {})
        self._asked: frozenset[str] = frozenset()  # bundled ones that were looked at
        self._register = Register(section, self.host, self._bundled)

    @property
    def by_key(self) -> Mapping[AdapterKey, Adapter]:
        """The adapters that are in the host's memory now."""
        return self.host.present

    def add(
        self,
        name: str,
        path: str | PathLike[str],
        *,
        component: Component | None = None,
        alpha: float | None = None,
        allow_partial: bool = False,
    ) -> Adapter:
        """Publish an adapter file or folder under ``name``, and have it in memory.

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
        edition = self.publish(name, path, fit=Fit(component, alpha, allow_partial))
        with self.held([edition.key]) as adapters:
            return adapters[edition.key]

    def get(self, name: str) -> Adapter:
        """The current adapter of that name.

        Raises:
            UnknownAdapterError: there is none; the error holds close names.
        """
        key = self.edition(name).key
        with self.held([key]) as adapters:
            return adapters[key]

    def put(self, adapter: Adapter) -> Edition:
        """Publish an adapter that has no file; not in a catalogue that lasts."""
        key = adapter.key
        if self._register.lasting:
            raise InvalidRequestError(f"adapter {key.name!r} has no file, want one")
        facts = Facts.of_adapter(adapter, len(self.host.names))
        with self.host.kept(adapter):
            return self._register.enter(Edition(key, Path(), MADE, Fit(), facts, time()), None)

    def publish(
        self,
        name: str,
        path: str | PathLike[str],
        *,
        fit: Fit = AS_IT_IS,
        source: str = "",
        label: Label | None = None,
    ) -> Edition:
        """Have ``name`` mean the adapter at ``path``, in one step.

        The same bytes again change nothing but the label. Without a ``label`` the name keeps the
        one that it has.

        Args:
            source: as it may be shown; that of a file is its name unless more is said.

        Raises:
            AdapterMismatchError, AdapterFileError: the file cannot be worn.
            InvalidRequestError: the name is an alias, or one of its aliases is taken.
            BudgetError: the host will never have room for it.
            StorageFullError: the disk has no room for the catalogue. Whatever is raised, all is as
                before.
        """
        reading = self.host.reading(Path(path).absolute(), fit)
        file = reading.source.path
        stamp = stamp_of(file)
        if stamp is None:
            raise AdapterFileError(f"adapter file '{file}' is absent")
        source = source or f"file:{file.name}"
        facts, now = Facts.of_reading(reading), time()
        known = partial(self._register.known, name, file, fit, stamp)
        key = known()
        if key is not None:
            return self._register.enter(Edition(key, file, source, fit, facts, now, stamp), label)
        draft = Draft(name, file, fit, stamp.text)
        with self.host.drafted(draft, reading, source, known) as adapter:
            edition = Edition(adapter.key, file, source, fit, facts, now, stamp)
            entered = self._register.enter(edition, label)
            self.host.keep(draft, adapter.key)
            return entered

    def names(self) -> list[str]:
        """All names, sorted."""
        return self._register.names()

    def edition(self, name: str, version: str | None = None) -> Edition:
        """What a name or an alias means now, or the version of it whose digest begins so.

        Raises:
            UnknownAdapterError: there is none; the error holds close names.
            InvalidRequestError: several versions begin so.
        """
        name = self._register.contents.canonical(name)
        self._ask(name)
        contents = self._register.contents
        current = contents.current(name)
        if current is None:
            raise UnknownAdapterError(name, self.names())
        if version is None or current.key.digest.startswith(version.lower()):
            return current
        versions = [each for key, each in contents.editions.items() if key.name == name]
        found = [each for each in versions if each.key.digest.startswith(version.lower())]
        if not found:
            raise UnknownAdapterError(f"{name}@{version}", [str(each.key) for each in versions])
        if len(found) > 1:
            several = " and ".join(sorted(each.key.digest for each in found))
            raise InvalidRequestError(
                f"version {version!r} of adapter {name!r} is the begin of {several}, want one"
            )
        return found[0]

    def editions(self) -> list[Edition]:
        """What all names mean now, by name; bundled ones that cannot be worn are left out."""
        for name in self._bundled.keys() - self._asked:
            try:
                self._ask(name)
            except LoraloomError:  # whoever asks for it by name is told why
                continue
        contents = self._register.contents
        return [each for name in sorted(contents.names) if (each := contents.current(name))]

    def everything(self) -> list[Edition]:
        """All editions that are still there, also those that no name means any more."""
        return list(self._register.contents.editions.values())

    def label(self, name: str) -> Label:
        """How an adapter is offered.

        Raises:
            UnknownAdapterError: there is none of that name or alias.
        """
        return self._register.label(self.edition(name).key.name)

    def relabel(self, name: str, label: Label) -> None:
        """Offer an adapter otherwise.

        Raises:
            UnknownAdapterError: there is none of that name or alias.
            InvalidRequestError: an alias is taken.
            BudgetError: it is to be pinned, and the host will never have room for that.
            StorageFullError: the disk has no room.
        """
        self._register.relabel(self.edition(name).key.name, label)

    def withdraw(self, name: str) -> bool:
        """Have a name mean nothing, at once; says whether somebody still uses what it meant.

        When nobody does, a copy of its file that lies beside the shelf is removed.

        Raises:
            UnknownAdapterError: there is none of that name or alias.
        """
        return self._register.withdraw(self.edition(name).key.name)

    def users(self, name: str) -> int:
        """How many claims there are on any version of an adapter."""
        return self._register.users(name)

    def claim(self, keys: Iterable[AdapterKey]) -> Claim:
        """Have editions stay, whatever is published and withdrawn, until the claim is released.

        Raises:
            UnknownAdapterError: one is not there any more.
        """
        return self._register.claim(keys)

    def tidy(self, wanted: Iterable[AdapterKey] = ()) -> None:
        """Forget versions that a process before this one left, or a claim that was bequeathed.

        Those that are ``wanted`` stay until the next time, or until their name is withdrawn;
        those that are used stay in any case.
        """
        self._register.tidy(frozenset(wanted))

    @contextmanager
    def held(self, keys: Iterable[AdapterKey]) -> Iterator[Mapping[AdapterKey, Adapter]]:
        """Have adapters in the host's memory for the block, whatever happens to their files.

        Raises:
            UnknownAdapterError: one is not there any more.
            AdapterChangedError: a file is gone, or is not what was published.
            BudgetError: the host will never have room for all of them together.
        """
        with ExitStack() as during:
            with self.claim(keys) as claim:  # once they are in memory no file is needed
                there = self._register.contents.editions
                wanted = [there[key] for key in sorted(claim.keys)]
                adapters = during.enter_context(self.host.held(wanted))
            yield adapters

    def prefetch(self, keys: Iterable[AdapterKey]) -> None:
        """Begin to load adapters, as far as there is room beside those that are claimed.

        Where that fails, :meth:`held` fails in the same way.
        """
        for key in keys:
            if key not in self.host.tier:
                self.host.aside(partial(self._prefetch, key))

    def close(self) -> None:
        """Load nothing ahead any more. The shelf is left to who opened it."""
        self.host.close()

    def _prefetch(self, key: AdapterKey) -> None:
        edition = self._register.contents.editions.get(key)
        if edition is not None:
            self.host.prefetch(edition, self._register.used())
            if key not in self._register.contents.editions:
                self.host.tier.drop(key)  # it was removed meanwhile

    def _ask(self, name: str) -> None:
        """See to it that a bundled adapter is known, as its file is now."""
        if name in self._asked or name not in self._bundled:
            return
        contents = self._register.contents
        current = contents.current(name)
        if name not in contents.names or (current and current.source == BUNDLED):
            self.publish(name, self._bundled[name], source=BUNDLED)
        self._asked |= {name}


def _fingerprint(names: NameTable) -> str:
    """Of a model's layers: what is an adapter of one model is none of another."""
    layers = sorted((name, sorted(sites.items())) for name, sites in names.components.items())
    return hashlib.sha256(repr((names.default, layers)).encode()).hexdigest()
