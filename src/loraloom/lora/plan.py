"""The pure difference between two fused mixes: which sites change. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loraloom.core.mix import NOTHING, AdapterKey, Mix, Site

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Plan:
    """What has to be done to the weights of a component.

    Attributes:
        restore: sites whose weight becomes the pristine one again.
        fuse: sites whose weight is computed anew from the pristine one, and from which mix.
    """

    restore: frozenset[Site]
    fuse: Mapping[Site, Mix]


def plan(before: Mix, want: Mix, coverage: Mapping[AdapterKey, frozenset[Site]]) -> Plan:
    """What turns weights that hold ``before`` into ``want``; ``coverage`` is of both's adapters.

    A site is touched only if the part of the fused mix that covers *it* changes: adding an
    adapter of the cross-attention leaves the feed-forward weights alone.
    """
    if before == want:
        return Plan(frozenset(), {})
    now, then = (_by_site(mix, coverage) for mix in (before, want))
    return Plan(
        restore=frozenset(now.keys() - then.keys()),
        fuse={site: mix for site, mix in then.items() if now.get(site, NOTHING) != mix},
    )


def _by_site(mix: Mix, coverage: Mapping[AdapterKey, frozenset[Site]]) -> dict[Site, Mix]:
    sites = {site for part in mix.parts for site in coverage[part.key]}
    return {
        site: mix.only(part.key for part in mix.parts if site in coverage[part.key])
        for site in sites
    }
