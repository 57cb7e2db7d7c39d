"""An adapter as a request names it: how strongly, when, where, and in which manner it is worn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from .mix import Component, Scope
from .schedule import ALWAYS, Curve

Mode: TypeAlias = Literal["live", "fused"]
"""How an adapter is worn: beside the weights, or in them."""

Policy: TypeAlias = Literal["live", "fused", "auto"]
"""How all that a request asks for is worn; under ``auto`` whichever mode costs less time."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How one adapter of a request is worn, and why, in words for a person."""

    mode: Mode
    why: str = "asked for"

    def __str__(self) -> str:
        return f"{self.mode}: {self.why}"


LIVE = Manner("live")


@dataclass(frozen=True, slots=True)
class Lora:
    """An adapter by its name in the catalogue, how strongly, when and where to wear it.

    Attributes:
        curve: a factor of the strength over denoising progress.
        scopes: factors of the strength by patterns of sites.
        stages: factors of the strength by stage, one for each; none at all is 1 in all of them.
        target: the one component that wears it; ``None`` is all that it has updates for.
        version: how the digest of the version to wear begins; ``None`` is the current one.
        manner: how it is worn under the policy ``auto``; ``None`` leaves that open. The policies
            ``live`` and ``fused`` hold for every adapter.
    """

    name: str
    strength: float = 1.0
    curve: Curve = ALWAYS
    scopes: tuple[Scope, ...] = ()
    manner: Manner | None = None
    stages: tuple[float, ...] = ()
    target: Component | None = None
    version: str | None = None
