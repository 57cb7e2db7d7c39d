"""Adapters of one model in the host's memory: read from their files, under a budget of bytes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from loraloom.core.adapter import Adapter, LowRank
from loraloom.core.mix import AdapterKey
from loraloom.errors import AdapterChangedError, AdapterFileError
from loraloom.formats.load import load
from loraloom.formats.read import survey
from loraloom.memory.seats import Want
from loraloom.memory.tier import Tier

from .editions import Edition, Fit, nbytes
from .present import Present

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Mapping, Sequence

    from loraloom.formats.names import NameTable
    from loraloom.formats.reading import Reading
    from loraloom.memory.tier import TierMeter


@dataclass(frozen=True, slots=True)
class Draft:
    """A file under a name, before its digest is known; ``stamp`` is the text of its stamp."""

    name: str
    path: Path
    fit: Fit
    stamp: str


class Host:
    """Adapters in the host's memory; every method may be called from any thread.

    Attributes:
        present: all that are in memory, also those that have left the tier and are still held.
    """

    def __init__(self, names: NameTable, budget: int | None, meter: TierMeter) -> None:
        self.names = names
        self.tier: Tier[AdapterKey | Draft, Adapter] = Tier(budget, "adapters on the host", meter)
        self.present = Present()
        self._aside = ThreadPoolExecutor(1, "loraloom-prefetch")

    def reading(self, path: Path, fit: Fit) -> Reading:
        """What a file would do to the model.

        Raises:
            AdapterMismatchError: the model has no such component.
            AdapterFileError: the file cannot be read, or not all of it can be applied.
        """
        names = self.names if fit.component is None else self.names.at(fit.component)
        return survey(path, names, alpha=fit.alpha, allow_partial=fit.allow_partial)

    @contextmanager
    def drafted(
        self, draft: Draft, reading: Reading, source: str, known: Callable[[], AdapterKey | None]
    ) -> Iterator[Adapter]:
        """The adapter of a file, for the block; it stays if the block keeps it.

        Args:
            known: whether somebody else has published the file meanwhile.
        """

        def read() -> Adapter:
            key = known()
            there = self.present.get(key) if key is not None else None
            return self._read(draft.name, reading) if there is None else there

        want = Want(nbytes(reading), read, source)
        try:
            with self.tier.hold(draft, want) as adapter:
                yield adapter
        finally:
            self.tier.drop(draft)

    def keep(self, draft: Draft, key: AdapterKey) -> None:
        """Have the adapter of a draft be found by its key."""
        self.tier.rename(draft, key)

    @contextmanager
    def kept(self, adapter: Adapter) -> Iterator[None]:
        """Have an adapter that has no file, for the block; it stays if it is pinned then."""
        want = Want(adapter.nbytes, lambda: self.present.add(adapter))
        with self.tier.hold(adapter.key, want):
            yield

    @contextmanager
    def held(self, editions: Sequence[Edition]) -> Iterator[Mapping[AdapterKey, Adapter]]:
        """Adapters of editions, for the block.

        Raises:
            AdapterChangedError: a file is gone, or is not what was published.
            BudgetError: together they never fit.
        """
        with self.tier.hold_all({each.key: self._want(each) for each in editions}) as adapters:
            yield {each.key: adapters[each.key] for each in editions}

    def prefetch(self, edition: Edition, spare: Container[AdapterKey]) -> None:
        """Load an adapter if there is room, without taking any from ``spare``."""
        self.tier.prefetch(edition.key, self._want(edition), spare)

    def aside(self, do: Callable[[], None]) -> None:
        """Do something in the one thread that loads ahead."""
        self._aside.submit(do)

    def close(self) -> None:
        """Load nothing ahead any more."""
        self._aside.shutdown(cancel_futures=True)

    def _want(self, edition: Edition) -> Want[Adapter]:
        return Want(edition.facts.nbytes, partial(self._load, edition), edition.source)

    def _load(self, edition: Edition) -> Adapter:
        there = self.present.get(edition.key)
        if there is not None:
            return there
        try:
            adapter = self._read(edition.key.name, self.reading(edition.path, edition.fit))
        except AdapterFileError as error:
            raise _changed(edition, "is gone or cannot be read any more") from error
        if adapter.key != edition.key:
            raise _changed(edition, f"holds {adapter.key.digest[:12]} now")
        return adapter

    def _read(self, name: str, reading: Reading) -> Adapter:
        return self.present.add(_pinned(load(name, reading)))


def _changed(edition: Edition, how: str) -> AdapterChangedError:
    return AdapterChangedError(
        f"adapter {edition.key.name!r} was published as {edition.key.digest[:12]}, and its file "
        f"{how}; publish it again"
    )


def _pinned(adapter: Adapter) -> Adapter:
    """The same in memory that a GPU reads by itself, where there is one."""
    if not torch.cuda.is_available():
        return adapter
    updates = {
        component: {
            site: LowRank(update.down.pin_memory(), update.up.pin_memory(), update.scale)
            for site, update in sites.items()
        }
        for component, sites in adapter.updates.items()
    }
    return Adapter(adapter.key, updates, adapter.about)
