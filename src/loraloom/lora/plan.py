"""The pure difference between two states of a component: which sites change. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loraloom.core.mix import NOTHING, AdapterKey, Applied, Mix, Segment, Site

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Plan:
    """What has to be done to a component.

    Attributes:
        restore: sites whose weight becomes the pristine one again.
        fuse: sites whose weight is computed anew from the pristine one, and from which mix.
        live: the segments to act beside the weights; ``None`` where they stay as they are.
    """

    restore: frozenset[Site]
    fuse: Mapping[Site, Mix]
    live: tuple[Segment, ...] | None

    def __bool__(self) -> bool:
        return bool(self.restore or self.fuse or self.live is not None)


def plan(before: Applied, want: Applied, coverage: Mapping[AdapterKey, frozenset[Site]]) -> Plan:
    """What turns ``before`` into ``want``; ``coverage`` is of the adapters that either fuses.

    A site is touched only if the part of the fused mix that covers *it* changes: adding an
    adapter of the cross-attention leaves the feed-forward weights alone.
    """
    same = before.fused == want.fused
    now = {} if same else _by_site(before.fused, coverage)
    then = {} if same else _by_site(want.fused, coverage)
    return Plan(
        restore=frozenset(now.keys() - then.keys()),
        fuse={site: mix for site, mix in then.items() if now.get(site, NOTHING) != mix},
        live=None if before.live == want.live else want.live,
    )


def _by_site(mix: Mix, coverage: Mapping[AdapterKey, frozenset[Site]]) -> dict[Site, Mix]:
    sites = {site for part in mix.parts for site in coverage[part.key]}
    return {
        site: mix.only(part.key for part in mix.parts if site in coverage[part.key])
        for site in sites
    }
