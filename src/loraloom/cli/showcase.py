"""What ``loraloom demo`` shows, as data: prompts in the grammar that the model mini knows."""

from __future__ import annotations

from dataclasses import dataclass

from loraloom.core.request import Lora

STAR = "a large red star on a blue background"
HEART = "a large yellow heart on a black background"
CIRCLE = "a large green circle on a white background"
CROSS = "a large purple cross on a pink background"
MOVING = "a large yellow heart moving right on a black background"


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One picture or video: what it shows, what it wears, and what is written below it."""

    prompt: str
    caption: str
    loras: tuple[Lora, ...] = ()
    seed: int = 7


@dataclass(frozen=True, slots=True)
class Shelf:
    """Exhibits that are made together, as one batch."""

    label: str
    note: str
    exhibits: tuple[Exhibit, ...]


def _neon(strength: float) -> Exhibit:
    return Exhibit(STAR, f"{strength:g}", (Lora("neon", strength),))


def _sketch(strength: float) -> Exhibit:
    return Exhibit(HEART, f"{strength:g}", (Lora("sketch", strength),))


def _both(neon: float, sketch: float) -> Exhibit:
    worn = (Lora("neon", neon), Lora("sketch", sketch))
    return Exhibit(STAR, f"neon {neon:g} + sketch {sketch:g}", worn)


PICTURES = (
    Shelf(
        "No adapter",
        "the base model",
        (
            Exhibit(STAR, STAR),
            Exhibit(HEART, HEART),
            Exhibit(CIRCLE, CIRCLE, seed=1),
            Exhibit(CROSS, CROSS, seed=1),
        ),
    ),
    Shelf("neon", f"strength 0.25 to 1: {STAR}", (_neon(0.25), _neon(0.5), _neon(0.75), _neon(1))),
    Shelf(
        "sketch",
        f"strength 0.25 to 1: {HEART}",
        (_sketch(0.25), _sketch(0.5), _sketch(0.75), _sketch(1)),
    ),
    Shelf(
        "neon + sketch",
        f"both at once: {STAR}",
        (_both(1, -0.5), _both(0.6, 0.4), _both(0.25, 0.75), _both(-0.5, 0.8)),
    ),
    Shelf(
        "One batch",
        "every request wears something else, and all run together",
        (
            Exhibit(STAR, "nothing"),
            Exhibit(HEART, "neon", (Lora("neon"),)),
            Exhibit(CIRCLE, "sketch", (Lora("sketch"),), seed=1),
            Exhibit(CROSS, "neon 0.5 + sketch 0.5", (Lora("neon", 0.5), Lora("sketch", 0.5))),
        ),
    ),
)

VIDEO = Shelf(
    "One batch",
    MOVING,
    (
        Exhibit(MOVING, "nothing", seed=2),
        Exhibit(MOVING, "neon", (Lora("neon"),), seed=2),
        Exhibit(MOVING, "sketch", (Lora("sketch"),), seed=2),
        Exhibit(MOVING, "neon 0.5 + sketch 0.5", (Lora("neon", 0.5), Lora("sketch", 0.5)), seed=2),
    ),
)

TITLE = "Loraloom: what each picture wears is part of its request"
