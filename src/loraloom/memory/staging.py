"""What of a model lies on the device in every act of a run, as a plan. No torch here.

A run is a row of acts: prompts are read, a stage denoises, latents are enlarged, the next stage
denoises, pictures are decoded. Not every component takes part in every act.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from loraloom.errors import BudgetError

from .residency import ORIGINAL, Residency, resident, snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

Mode: TypeAlias = Literal["original", "snapshot", "resident"]
"""How what the stages wear is kept: beside one set of weights; fused, in copies on the host that
are written into the weights; fused, in copies on the device that take the weights' place."""

Order: TypeAlias = Literal["together", "ahead", "in turn"]
"""When components are on the device: always; from the act before theirs on; in their act alone."""

COPY = "fused copies"
BESIDE = "adapters"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes, in the type that is computed in.

    Attributes:
        components: by name, of the weights.
        adapters: of what requests bring, ready to be worn live.
        own: likewise of what the stages bring.
        changed: of the weights that this changes.
        mixes: how many different ones the stages bring.
    """

    components: Mapping[str, int]
    adapters: int = 0
    own: int = 0
    changed: int = 0
    mixes: int = 1

    @property
    def copies(self) -> int:
        """Of the fused weights of every mix that the stages bring."""
        return self.mixes * self.changed


@dataclass(frozen=True, slots=True)
class Act:
    """One part of a run.

    Attributes:
        uses: the components that compute.
        present: those that are on the device, which are more where they are not taken away.
    """

    uses: tuple[str, ...]
    present: frozenset[str]


@dataclass(frozen=True, slots=True)
class Plan:
    """Which components come and go, and what that takes."""

    mode: Mode
    order: Order
    sizes: Sizes
    acts: tuple[Act, ...]

    def on_device(self, act: Act) -> dict[str, int]:
        """Bytes of weights and adapters on the device in one act, by what they are."""
        held = {name: self.sizes.components[name] for name in sorted(act.present)}
        held[BESIDE] = self.sizes.adapters + (self.sizes.own if self.mode == "original" else 0)
        held[COPY] = self.sizes.copies if self.mode == "resident" else 0
        return {name: size for name, size in held.items() if size}

    @property
    def on_host(self) -> dict[str, int]:
        """Bytes on the host in all acts, by what they are: of components that come and go, and of
        the weights that adapters change, pristine and fused.
        """
        held = {} if self.order == "together" else dict(self.sizes.components)
        held[COPY] = self.sizes.changed + self.sizes.copies if self.mode == "snapshot" else 0
        return {name: size for name, size in held.items() if size}

    @property
    def peak(self) -> int:
        """The most bytes of weights and adapters that are on the device at once."""
        return max((sum(self.on_device(act).values()) for act in self.acts), default=0)

    @property
    def host(self) -> int:
        """Bytes that are on the host."""
        return sum(self.on_host.values())

    @property
    def travels(self) -> int:
        """Bytes that a run brings to the device."""
        coming, before = 0, self.acts[-1].present if self.order == "together" else frozenset()
        for act in self.acts:
            coming += sum(self.sizes.components[name] for name in act.present - before)
            before = act.present
        return coming + (self.sizes.changed + self.sizes.copies if self.mode == "snapshot" else 0)

    @property
    def residency(self) -> Residency:
        """What fused weights are given, for what the stages wear."""
        if self.mode == "original":
            return ORIGINAL
        return {"snapshot": snapshot, "resident": resident}[self.mode](self.sizes.copies)

    def __str__(self) -> str:
        return f"{self.mode}, components {self.order}"


def plan(mode: Mode, order: Order, sizes: Sizes, uses: Sequence[tuple[str, ...]]) -> Plan:
    """The plan of a mode and an order for a run whose acts use these components, in this order.

    Raises:
        BudgetError: the two do not go together.
    """
    assert mode in get_args(Mode)
    if mode == "resident" and order != "together":
        raise BudgetError(
            f"residency 'resident' keeps fused copies on the device, which components {order} are "
            "to leave; want components together, or another residency"
        )
    every = frozenset(sizes.components)
    acts = []
    for index, own in enumerate(uses):
        following = uses[index + 1] if index + 1 < len(uses) else ()
        present: dict[Order, frozenset[str]] = {
            "together": every,
            "ahead": frozenset((*own, *following)),
            "in turn": frozenset(own),
        }
        acts.append(Act(own, present[order]))
    return Plan(mode, order, sizes, tuple(acts))


def plans(sizes: Sizes, uses: Sequence[tuple[str, ...]]) -> tuple[Plan, ...]:
    """All plans of a run, the fastest first."""
    return tuple(plan(mode, order, sizes, uses) for mode, order in FASTEST)


FASTEST: tuple[tuple[Mode, Order], ...] = (
    ("resident", "together"),
    ("original", "together"),
    ("snapshot", "together"),
    ("original", "ahead"),
    ("original", "in turn"),
    ("snapshot", "in turn"),
)
"""What moves fewer bytes in a run goes before what moves more: fused copies on the device none;
adapters beside the weights none, and some arithmetic; copies on the host those of every stage;
components that come and go all of them."""


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes that there are. ``spare`` of the device are for what is computed, not for weights."""

    device: int
    host: int
    spare: int = 0


def choose(plans: Sequence[Plan], room: Room) -> Plan:
    """The first of ``plans`` that there is room for.

    Raises:
        BudgetError: there is room for none; the message says what the smallest one takes.
    """
    for each in plans:
        if fits(each, room):
            return each
    least = min(plans, key=lambda each: each.peak)
    raise BudgetError(
        f"the smallest plan ({least}) takes {least.peak + room.spare} bytes of the device and "
        f"{least.host} of the host, there are {room.device} and {room.host}"
    )


def fits(wanted: Plan, room: Room) -> bool:
    """Whether there is room for a plan."""
    return wanted.peak + room.spare <= room.device and wanted.host <= room.host
