"""Which layer of a model a path in a file means."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loraloom.errors import AdapterMismatchError, closest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from loraloom.core.mix import Component, Shape, Site

WRAPPED = "base_model.model."
"""What PEFT writes before the path of every layer."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """One layer of a model."""

    component: Component
    site: Site

    def __str__(self) -> str:
        return f"{self.component}.{self.site}"


@dataclass(frozen=True, slots=True)
class Rename:
    """One step from a foreign spelling to ours: what ``pattern`` finds is replaced."""

    pattern: str
    replacement: str


def renamed(path: str, rules: Iterable[Rename]) -> str:
    """``path`` after all ``rules``, one after the other."""
    for rule in rules:
        path = re.sub(rule.pattern, rule.replacement, path)
    return path


@dataclass(frozen=True, slots=True)
class NameTable:
    """The layers of a model: the shape of each weight, by component and site.

    A path without the name of a component belongs to ``default``. The rules of ``foreign`` lead
    from how others spell the model's layers to a path as here; they speak where no layer has the
    name as it stands. A path of the component ``instead`` belongs to ``default``, too.
    """

    components: Mapping[Component, Mapping[Site, Shape]]
    default: Component
    foreign: tuple[Rename, ...] = ()
    instead: Component | None = None

    def __post_init__(self) -> None:
        assert self.default in self.components
        twice = [
            f"{component}.{site}"
            for component, sites in self.components.items()
            for site in sites
            if f"{component}.{site}" in self.components[self.default]
        ]
        assert not twice, f"names that mean two layers: {twice[:3]}"

    def __len__(self) -> int:
        return sum(len(sites) for sites in self.components.values())

    def locate(self, path: str) -> Place | None:
        """The layer that ``path`` means, spelled ``[<component>.][base_model.model.]<site>``.

        Or as ``foreign`` translates it.
        """
        return self._plain(path) or self._plain(renamed(path, self.foreign))

    def at(self, component: Component) -> NameTable:
        """Of one component alone, for a file that does not say that it is for this one.

        Raises:
            AdapterMismatchError: the model has no such component.
        """
        if component not in self.components:
            raise AdapterMismatchError(
                f"an adapter is for component {component!r}, the model has "
                f"{', '.join(self.components)}"
            )
        return NameTable(
            {component: self.components[component]}, component, self.foreign, self.default
        )

    def _plain(self, path: str) -> Place | None:
        for place in (self._prefixed(path), Place(self.default, path.removeprefix(WRAPPED))):
            if place and place.site in self.components[place.component]:
                return place
        return None

    def _prefixed(self, path: str) -> Place | None:
        component, dot, rest = path.partition(".")
        component = self.default if component == self.instead else component
        known = dot and component in self.components
        return Place(component, rest.removeprefix(WRAPPED)) if known else None

    def shape(self, place: Place) -> Shape:
        """Of the weight at ``place``."""
        return self.components[place.component][place.site]

    def near(self, path: str) -> tuple[str, ...]:
        """At most three layers whose names resemble ``path``, the nearest first.

        Only the names that share most words with ``path`` are compared letter by letter: with
        thousands of layers all of them would take seconds.
        """
        path = renamed(path, self.foreign)
        words = Counter(_words(path))
        shared = Counter(
            {
                f"{component}.{site}": (Counter(_words(f"{component}.{site}")) & words).total()
                for component, sites in self.components.items()
                for site in sites
            }
        )
        likely = [name for name, count in shared.most_common(24) if count]
        return tuple(closest(path.replace(WRAPPED, ""), likely))


def _words(path: str) -> list[str]:
    return re.split(r"[._]", path)
