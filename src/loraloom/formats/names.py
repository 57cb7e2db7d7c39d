"""Which layer of a model a path in a file means."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loraloom.errors import closest

if TYPE_CHECKING:
    from collections.abc import Mapping

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
class NameTable:
    """The layers of a model: the shape of each weight, by component and site.

    A path without the name of a component belongs to ``default``.
    """

    components: Mapping[Component, Mapping[Site, Shape]]
    default: Component

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
        """The layer that ``path`` means, spelled ``[<component>.][base_model.model.]<site>``."""
        for place in (self._prefixed(path), Place(self.default, path.removeprefix(WRAPPED))):
            if place and place.site in self.components[place.component]:
                return place
        return None

    def _prefixed(self, path: str) -> Place | None:
        component, dot, rest = path.partition(".")
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
