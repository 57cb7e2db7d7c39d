"""Ways to reach an attire. Where two end in the same attire, they end in the same bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loraloom.core.mix import Applied
from loraloom.core.request import Lora

from .law import Bounds, Law
from .studio import BARE, Attire, Shot, Studio

if TYPE_CHECKING:
    from loraloom.core.request import Policy

    from .figures import Likeness
    from .slot import Slot

ALIKE = Law(
    "every path ends alike",
    "the latents at the end of a path and those of the same attire put on a bare model",
    "numbers differ",
    Bounds.always(0, "equal states have equal bytes, whatever was worn before"),
)


@dataclass(frozen=True, slots=True)
class Path:
    """What is worn one after the other, from the first call of a fresh model; the last is drawn."""

    name: str
    attires: tuple[Attire, ...]

    @property
    def goal(self) -> Attire:
        return self.attires[-1]


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """A shot that another should equal, and how alike they are."""

    shot: Shot
    likeness: Likeness


@dataclass(frozen=True, slots=True, eq=False)
class Take:
    """What a path came to.

    Attributes:
        want: the attire put on a bare model.
        recorded: what the record holds, where there is one.
    """

    slot: Slot
    path: Path
    shot: Shot
    want: Compared
    recorded: Compared | None


def paths(name: str, partner: str | None) -> tuple[Path, ...]:
    """The paths of one adapter; those that need another where there is one."""
    one: Attire = (Lora(name),)
    half: Attire = (Lora(name, 0.5),)
    alone = (
        Path("start-up", (one,)),
        Path("set", (BARE, one)),
        Path("changed strength", (one, half)),
        Path("taken off", (one, BARE)),
    )
    if partner is None:
        return alone
    other: Attire = (Lora(partner),)
    return (
        *alone,
        Path("switched", (one, other)),
        Path("switched back", (one, other, one)),
        Path("two at once", (one, (*half, Lora(partner, 0.5)))),
    )


def walk(studio: Studio, path: Path, policy: Policy) -> Shot:
    """Wear the attires of a path one after the other, and draw the last from that state."""
    try:
        for attire in path.attires[:-1]:
            studio.become(studio.state(attire, policy))
        latents = studio.draw([path.goal], policy)[0]
    finally:
        studio.become(Applied())
    return studio.shot(latents)


def attire_text(attire: Attire) -> str:
    """For people: ``neon 0.5 + sketch``."""
    said = [o.name if o.strength == 1 else f"{o.name} {o.strength:g}" for o in attire]
    return " + ".join(said) or "nothing"
