"""What clients ask for: random requests, how each is asked, and how that is said in HTTP."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from loraloom import Canvas, Curve, Knot, Lora, Request, Sampling
from loraloom.core.schedule import ALWAYS
from training.configs import FRAME_RATE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Body: TypeAlias = "dict[str, Any]"

Asking: TypeAlias = Literal["wait", "poll", "watch", "cancel", "leave", "mistake"]
"""How a client asks: waits for the answer; for a job that it asks after, that it watches or that
it cancels; hangs up while it waits; makes a mistake."""

WAYS: Mapping[Asking, int] = {
    "wait": 50,
    "poll": 15,
    "watch": 15,
    "cancel": 10,
    "leave": 5,
    "mistake": 5,
}
"""How often of a hundred."""

PROMPTS = (
    "a large red star on a plain blue background",
    "a small white heart on a green background",
    "a large yellow circle on a black background",
    "a small blue square on a white background",
)
SCALES = (-0.5, -0.2, 0.25, 0.5, 0.7, 0.8, 1.0, 1.2)
FADING = Curve((Knot(0.0, 1.0), Knot(1.0, 0.25)))


@dataclass(frozen=True, slots=True)
class Shape:
    """What requests must agree in to share a batch: pixels of a side, and steps."""

    side: int
    steps: int

    def __str__(self) -> str:
        return f"{self.side}x{self.side}, {self.steps} steps"


SMALL = (Shape(64, 2), Shape(64, 3), Shape(96, 2))


@dataclass(frozen=True, slots=True)
class Errand:
    """A request, how it is asked, and for how long before a client changes its mind."""

    number: int
    way: Asking
    request: Request
    patience: float


def request(draw: random.Random, names: Sequence[str], shape: Shape, most: int = 3) -> Request:
    """One that wears none to ``most`` of the adapters ``names`` at random strengths."""
    worn = draw.sample(names, draw.randint(0, most))
    return Request(
        draw.choice(PROMPTS),
        draw.randrange(2**31),
        tuple(Lora(name, draw.choice(SCALES)) for name in worn),
        canvas=Canvas(shape.side, shape.side, 1, FRAME_RATE),
        sampling=Sampling(steps=shape.steps),
    )


def errands(count: int, names: Sequence[str], seed: int = 0) -> list[Errand]:
    """The same ones for the same arguments."""
    draw = random.Random(seed)
    ways = draw.choices(tuple(WAYS), tuple(WAYS.values()), k=count)
    return [
        Errand(
            number,
            way,
            _fading(draw, request(draw, names, draw.choice(SMALL))),
            draw.uniform(0.0, 0.5),
        )
        for number, way in enumerate(ways)
    ]


def _fading(draw: random.Random, asked: Request) -> Request:
    """Some of the adapters of a request fade while it is made."""
    curves = (ALWAYS, ALWAYS, FADING)
    return replace(
        asked, loras=tuple(replace(lora, curve=draw.choice(curves)) for lora in asked.loras)
    )


def body(asked: Request) -> Body:
    """``asked`` as ``POST /v1/images/generations`` takes it."""
    assert asked.canvas
    assert asked.sampling
    return {
        "prompt": asked.prompt,
        "size": f"{asked.canvas.width}x{asked.canvas.height}",
        "seed": asked.seed,
        "steps": asked.sampling.steps,
        "loras": [_lora(each) for each in asked.loras],
    }


def _lora(lora: Lora) -> Body:
    said: Body = {"name": lora.name, "scale": lora.strength}
    if lora.curve != ALWAYS:
        said["schedule"] = [
            {"progress": knot.progress, "factor": knot.factor} for knot in lora.curve.knots
        ]
    return said


@dataclass(frozen=True, slots=True)
class Mistake:
    """Fields that spoil a body, and what it is refused with."""

    fields: Mapping[str, Any]
    status: int
    code: str


MISTAKES = (
    Mistake({"loras": [{"name": "no-such-style"}]}, 404, "lora_not_found"),
    Mistake({"loras": [{"name": "../../etc/passwd"}]}, 400, "invalid_value"),
    Mistake({"size": "65x64"}, 400, "invalid_value"),
    Mistake({"seed": "7"}, 400, "invalid_value"),
    Mistake({"model": "no-such-model"}, 404, "model_not_found"),
    Mistake({"sampler": "euler"}, 400, "unknown_field"),
)
