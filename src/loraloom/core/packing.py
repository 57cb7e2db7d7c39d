"""Layers that hold several layers in one weight: which rows are whose, and their updates as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loraloom.errors import AdapterMismatchError

from .adapter import LowRank

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .adapter import Update
    from .mix import Shape, Site


@dataclass(frozen=True, slots=True)
class Member:
    """A layer that another one packs: rows ``start`` to ``stop`` exclusive of that one's weight."""

    site: Site
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Packed:
    """A layer whose weight is those of its members, one below the other: ``[q; k; v]``.

    Attributes:
        shape: of its weight.
        members: from the first row to the last, without gaps; their sizes may differ.
    """

    site: Site
    shape: Shape
    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        starts, stops = ([getattr(m, end) for m in self.members] for end in ("start", "stop"))
        assert starts == [0, *stops[:-1]]
        assert stops[-1] == self.shape[0]

    @classmethod
    def of(cls, site: Site, sizes: Mapping[Site, int], width: int) -> Packed:
        """Members of ``sizes`` rows in their order; ``width`` entries are in a row."""
        members: list[Member] = []
        for member, size in sizes.items():
            start = members[-1].stop if members else 0
            members.append(Member(member, start, start + size))
        return cls(site, (members[-1].stop, width), tuple(members))

    def wanted(self, member: Member) -> Shape:
        """The shape of what updates a member."""
        return member.stop - member.start, *self.shape[1:]


def shapes(packs: Mapping[Site, Packed]) -> dict[Site, Shape]:
    """The members of all packed layers, and what shape their updates have."""
    return {
        member.site: packed.wanted(member) for packed in packs.values() for member in packed.members
    }


def placed(update: LowRank, packed: Packed, member: Member) -> LowRank:
    """The update of a member as one of the packed weight: ``up`` is zero outside of its rows.

    Raises:
        AdapterMismatchError: ``update`` has another shape than the member.
    """
    rows = f"rows {member.start} to {member.stop} of {packed.site}"
    _check(update, member.site, packed.wanted(member), rows)
    up = update.up.new_zeros(packed.shape[0], *update.up.shape[1:])
    up[member.start : member.stop] = update.up
    return LowRank(update.down, up, update.scale)


def spread(
    updates: Mapping[Site, Update], packs: Mapping[Site, Packed]
) -> dict[Site, dict[Site, Update]]:
    """Updates by the site that they act at and, within, by the site that the adapter names.

    Every one has the shape of the weight that it acts on, so that each may have a strength of its
    own.

    Raises:
        AdapterMismatchError: an update has another shape than the rows that it is for.
    """
    home = {member.site: packed.site for packed in packs.values() for member in packed.members}
    acting = dict.fromkeys(home.get(site, site) for site in updates)
    return {
        site: _acting(updates, packs[site]) if site in packs else {site: updates[site]}
        for site in acting
    }


def _acting(updates: Mapping[Site, LowRank], packed: Packed) -> dict[Site, LowRank]:
    """The updates of one packed layer by the site they name: its own first, then by row."""
    own = updates.get(packed.site)
    if own is not None:
        _check(own, packed.site, packed.shape, "the packed layer")
    members = {
        member.site: placed(updates[member.site], packed, member)
        for member in packed.members
        if member.site in updates
    }
    return members if own is None else {packed.site: own, **members}


def _check(update: LowRank, site: Site, wanted: Shape, where: str) -> None:
    if update.shape != wanted:
        got, want = ("×".join(map(str, shape)) for shape in (update.shape, wanted))
        raise AdapterMismatchError(f"the update of {site} is {got}, {where} is {want}")
