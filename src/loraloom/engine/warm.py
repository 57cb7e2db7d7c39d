"""A small generation before the first request: what is loaded late or compiled, is by then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loraloom.core.request import Canvas, Lora, Request, Sampling
from loraloom.errors import LoraloomError

from .job import admit

if TYPE_CHECKING:
    from loraloom.models.card import Card

    from .loom import Loom

TRIES = 8
"""Adapters that are tried, until one of them can be worn."""


def warm_up(loom: Loom) -> None:
    """Make a picture that wears nothing and one that wears an adapter, if any can be worn.

    Raises:
        Exception: the model cannot even make the first.
    """
    bare = small(loom.card)
    loom.run(admit([bare], loom.card, loom.adapters))
    for name in loom.adapters.names()[:TRIES]:
        worn = Request(bare.prompt, canvas=bare.canvas, sampling=bare.sampling, loras=(Lora(name),))
        try:
            loom.run(admit([worn], loom.card, loom.adapters))
        except LoraloomError:  # a bad adapter is told to who asks for it; the next may do
            continue
        return


def cold(_loom: Loom) -> None:
    """Nothing is made before the first request."""


def small(card: Card) -> Request:
    """The smallest picture, in the fewest steps that its stages can be asked for."""
    stages = card.defaults.usual
    least = min(stage.size for stage in stages)
    side = 2 * card.grid.pixels * round(1 / least)
    spaced = any(stage.sigmas and not stage.sigmas.given for stage in stages)
    sampling = Sampling(steps=max(card.grid.steps, 2)) if spaced else None
    return Request("a warm-up", canvas=Canvas(side, side), sampling=sampling)
