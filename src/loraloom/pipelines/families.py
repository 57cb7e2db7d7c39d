"""Which code runs which family."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .flux import Flux
from .ltx2.denoiser import Ltx2
from .wan import Wan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from loraloom.models.card import Card

    from .denoiser import Denoiser


def denoiser(card: Card, pipe: Any) -> Denoiser:
    """The components of a loaded model at work."""
    return DENOISERS[card.family.name](card, pipe)


DENOISERS: Mapping[str, Callable[[Card, Any], Denoiser]]
DENOISERS = {"ltx2": Ltx2, "wan": Wan, "flux": Flux}
