"""From what a caller brings to a published adapter: all of it, or as before."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from time import time
from typing import TYPE_CHECKING

from loraloom.errors import (
    AdapterValueError,
    InvalidRequestError,
    LoraloomError,
    UnknownAdapterError,
)
from loraloom.formats.load import examine
from loraloom.formats.read import survey, understood
from loraloom.formats.reading import refusal
from loraloom.store.editions import Fit, Label
from loraloom.store.source import OnDisk, parse

from .leftovers import Leftovers, Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from loraloom.formats.names import NameTable
    from loraloom.formats.reading import Reading
    from loraloom.store.catalog import Catalog
    from loraloom.store.editions import Edition
    from loraloom.store.fetch import Fetcher
    from loraloom.store.roots import Roots
    from loraloom.store.stock import Draft, Stock

UPLOAD = "upload"
"""The source of what was uploaded."""


@dataclass(frozen=True, slots=True)
class Goods:
    """An adapter file at hand; ``source`` is all that anybody is told of where it lies."""

    path: Path
    source: str


@dataclass(frozen=True, slots=True)
class Offer:
    """What is to become of a file.

    Attributes:
        label: what becomes of the label that its name had, or of the usual one.
        fresh: whether the name must not be taken.
    """

    name: str
    fit: Fit = field(default_factory=Fit)
    label: Callable[[Label], Label] | None = None
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Published:
    """An edition, and whether nothing had its name before."""

    edition: Edition
    new: bool


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a file would do; ``reason`` is why it would not be published."""

    reading: Reading
    reason: str | None


class Shop:
    """Gets adapters, looks at them and publishes them; every method may be called by any thread.

    Files that were brought and are not published are removed when nobody is about it any more:
    equal files are one file, and what one call has no use for another may publish.

    Args:
        names: of the layers of the model.
        fetcher: what gets hub ids.
        stock: what keeps uploads.
        roots: the folders that paths may lie in.
    """

    def __init__(
        self, catalog: Catalog, names: NameTable, fetcher: Fetcher, stock: Stock, roots: Roots
    ) -> None:
        self.catalog = catalog
        self.names = names
        self.fetcher = fetcher
        self.stock = stock
        self.roots = roots
        self._leftovers = Leftovers(self._remove)
        self._turns = Turns()

    @contextmanager
    def fetched(self, text: str) -> Iterator[Goods]:
        """What ``text`` means: a path under an allowed root, a hub id, a link of the hub.

        Raises:
            InvalidRequestError: it is spelled as none of them.
            SourceError, AdapterFileError: it may not be read, cannot be got, or is no adapter.
        """
        with self._leftovers.serving() as brought:
            source = parse(text)
            if isinstance(source, OnDisk):
                path = self.roots.inside(text)
                yield from self._shown(Goods(path, f"file:{path.name}"))
                return
            began = time()
            found = self.fetcher.fetch(source)
            if found.path.stat().st_mtime >= began - 1:  # what was there before stays there
                brought.add(found.path)
            yield from self._shown(Goods(found.path, found.source))

    @contextmanager
    def uploaded(self, draft: Draft, config: bytes | None) -> Iterator[Goods]:
        """A draft that was written to its end, put into stock.

        Raises:
            SourceError: it cannot be kept.
        """
        with self._leftovers.serving() as brought:
            kept = self.stock.keep(draft, config)
            if kept.new:  # another model's catalogue may mean what was there
                brought.add(kept.path)
            with self._claim(kept.path):
                yield from self._shown(Goods(kept.path, UPLOAD))

    def publish(self, goods: Goods, offer: Offer) -> Published:
        """Read a file whole, and then have the offer's name mean it, in one step.

        Raises:
            InvalidRequestError: the name is taken and must not be, or cannot be one.
            AdapterFileError, AdapterMismatchError: the file cannot be worn.
        """
        with self._turns.of(offer.name):
            taken = offer.name in self.catalog.names()
            if taken and offer.fresh:
                raise InvalidRequestError(
                    f"adapter {offer.name!r} is there already; replacing it must be asked for"
                )
            label = None
            if offer.label is not None:
                label = offer.label(self.catalog.label(offer.name) if taken else Label())
            edition = self.catalog.publish(
                offer.name, goods.path, fit=offer.fit, source=goods.source, label=label
            )
            return Published(edition, not taken)

    def relabel(self, name: str, label: Callable[[Label], Label]) -> Edition:
        """Change how an adapter is offered, by a function from the label that it has.

        Raises:
            UnknownAdapterError: there is none of that name.
            InvalidRequestError: an alias is taken.
        """
        name = self.catalog.edition(name).name
        with self._turns.of(name):
            self.catalog.relabel(name, label(self.catalog.label(name)))
            return self.catalog.edition(name)

    def check(self, goods: Goods, offer: Offer) -> None:
        """Return if a file could be published as it is offered.

        Raises:
            AdapterFileError, AdapterMismatchError: it could not.
        """
        fit, names = offer.fit, self._names(offer.fit)
        partial = fit.allow_partial
        examine(offer.name, survey(goods.path, names, alpha=fit.alpha, allow_partial=partial))

    def inspect(self, goods: Goods, fit: Fit) -> Inspection:
        """What a file would do to the model, and all that keeps it from being published.

        Raises:
            AdapterFileError: it cannot be read.
            AdapterMismatchError: the model has no component of that name.
        """
        names = self._names(fit)
        reading = understood(goods.path, names, alpha=fit.alpha)
        if not reading.entries or (reading.problems and not fit.allow_partial):
            return Inspection(reading, _spoken(refusal(reading, names), goods))
        try:
            examine(goods.source, reading)
        except AdapterValueError as error:
            return Inspection(reading, _spoken(str(error), goods))
        return Inspection(reading, None)

    def _names(self, fit: Fit) -> NameTable:
        return self.names if fit.component is None else self.names.at(fit.component)

    def _shown(self, goods: Goods) -> Iterator[Goods]:
        """Goods, and errors about them that tell no path of this machine."""
        try:
            yield goods
        except LoraloomError as error:
            error.args = (_spoken(str(error), goods),)
            raise

    @contextmanager
    def _claim(self, path: Path) -> Iterator[None]:
        """Have the file stay that an edition has in common with what was brought.

        Otherwise it would go with its last user, before it has the next.
        """
        keys = [each.key for each in self.catalog.everything() if each.path == path]
        with ExitStack() as claims:
            for key in keys:
                with suppress(UnknownAdapterError):  # it went at this moment
                    claims.enter_context(self.catalog.claim([key]))
            yield

    def _remove(self, path: Path) -> None:
        """Remove what was brought, unless it was published meanwhile."""
        if any(edition.path == path for edition in self.catalog.everything()):
            return
        if self.stock.holds(path):
            self.stock.remove(path)
        else:
            path.unlink(missing_ok=True)


def _spoken(text: str, goods: Goods) -> str:
    return text.replace(str(goods.path), goods.source).replace(str(goods.path.parent), "its folder")
