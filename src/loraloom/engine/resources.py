"""What a run may take of a machine, and the plan that follows. No torch here."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from loraloom.errors import BudgetError, InvalidRequestError, ModelError, UnknownAdapterError
from loraloom.formats.read import survey
from loraloom.memory.staging import Plan, Room, choose, fits, plans
from loraloom.models.find import distilled, name_table
from loraloom.models.ltx2.family import DISTILLED
from loraloom.models.sizes import BYTES, mixes, sizes, uses

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from loraloom.core.stage import Stages
    from loraloom.formats.reading import Reading
    from loraloom.models.card import Card

    from .wishes import Wish

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


Residency: TypeAlias = Literal["original", "snapshot", "resident", "auto"]
"""A mode of plans, or that of the fastest one that there is room for."""

Offload: TypeAlias = Literal["together", "ahead", "in turn", "auto"]
"""Likewise an order."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What the command line says of the machine.

    Attributes:
        room: bytes that there are; ``None`` where nothing says.
    """

    residency: Residency = "original"
    offload: Offload = "together"
    room: Room | None = None

    def among(self, every: Sequence[Plan]) -> list[Plan]:
        """Of all plans those that are asked for."""
        return [
            each
            for each in every
            if self.residency in {each.mode, "auto"} and self.offload in {each.order, "auto"}
        ]

    def chosen(self, every: Sequence[Plan]) -> Plan:
        """The fastest that is asked for and that there is room for.

        Raises:
            BudgetError: there is none.
        """
        among = self.among(every)
        if not among:
            raise BudgetError(
                f"there is no plan for residency {self.residency!r} with components "
                f"{self.offload}, there are {'; '.join(map(str, every))}"
            )
        return among[0] if self.room is None else choose(among, self.room)


def readings(
    card: Card,
    wishes: Sequence[Wish],
    *,
    alpha: float | None = None,
    allow_partial: bool = False,
) -> dict[str, Reading]:
    """What the adapters that are wished for would do to a model, by name.

    ``alpha`` and ``allow_partial`` are for files; what comes with the model fits.

    Raises:
        UnknownAdapterError: one has no path, and the model comes without it.
        LoraloomError: a file does not fit the model.
    """
    names = name_table(card) if wishes else None
    found = {}
    for wish in wishes:
        assert names
        table = names.at(wish.component) if wish.component else names
        if wish.path:
            found[wish.name] = survey(wish.path, table, alpha=alpha, allow_partial=allow_partial)
        elif wish.name in card.adapters:
            found[wish.name] = survey(card.adapters[wish.name], table)
        else:
            raise UnknownAdapterError(wish.name, card.adapters)
    return found


def plans_for(
    card: Card, stages: Stages, brought: Mapping[str, Reading], dtype: str
) -> tuple[Plan, ...]:
    """All plans of a run through ``stages`` whose requests bring these adapters.

    Raises:
        LoraloomError: the model lacks one that a stage wears.
    """
    names = name_table(card)
    own = {lora.name for stage in stages for lora in stage.wears}
    users = [reading for name, reading in brought.items() if name not in own]
    worn = [brought.get(name) or survey(_companion(card, name), names) for name in sorted(own)]
    taken = replace(sizes(card, users, worn, dtype), mixes=mixes(stages))
    return plans(taken, uses(card, stages))


def _companion(card: Card, name: str) -> Path:
    if name == DISTILLED:
        return distilled(card)
    if name not in card.adapters:
        raise UnknownAdapterError(name, card.adapters)
    return card.adapters[name]


def known_type(name: str) -> str:
    """``name``, if models are computed in it.

    Raises:
        ModelError: they are not.
    """
    if name not in BYTES:
        raise ModelError(f"dtype is {name!r}, want one of {', '.join(BYTES)}")
    return name


def parse_bytes(text: str, option: str) -> int:
    """``80G``, ``512M``, ``1.5T`` or plain bytes; units are powers of 1024.

    Raises:
        InvalidRequestError: it is spelled otherwise.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise InvalidRequestError(f"{option} is {text!r}, want bytes with a unit, e.g. 80G")
    return int(float(found[1]) * UNITS[found[2].upper()])


def in_words(count: int) -> str:
    """Bytes for a person."""
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if size >= 100 or unit == "B" else f"{size:.1f} {unit}"


def explained(every: Sequence[Plan], chosen: Plan, room: Room | None) -> str:
    """The plan act by act, and what the others would take, for a person."""
    lines = [f"plan: {chosen}", "", "on the device, act by act:"]
    told: dict[str, int] = {}
    for act in chosen.acts:
        held = chosen.on_device(act)
        parts = "as before" if held == told else _listed(held)
        lines.append(f"  {' + '.join(act.uses):20} {in_words(sum(held.values())):>10}  {parts}")
        told = held
    if room is not None and room.spare:
        lines.append(f"  {'beside them':20} {in_words(room.spare):>10}  while it computes, about")
    if chosen.on_host:
        lines += ["", f"on the host: {in_words(chosen.host)}: {_listed(chosen.on_host)}"]
    lines += ["", f"  {'all plans, the fastest first':32}     device       host   a run moves"]
    for each in every:
        mark = "*" if each == chosen else " "
        there = "" if room is None or fits(each, room) else "  no room"
        lines.append(
            f"{mark} {each!s:32} {in_words(each.peak):>10} {in_words(each.host):>10} "
            f"{in_words(each.travels):>13}{there}"
        )
    return "\n".join(lines)


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {in_words(size)}" for name, size in sizes.items())
