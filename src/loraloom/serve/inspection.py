"""What an inspection answers: what an adapter would do to the model, and what does not fit."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from loraloom.formats.reading import span

from .listing import Coverage, Words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .shop import Inspection

PROBLEMS = 50
"""Keys that do not fit, at most so many of which an inspection lists."""

LAYERS = 200
"""Likewise layers that do."""


class ProblemAnswer(BaseModel):
    """A key that is not used, why, and layers whose names are near."""

    key: str
    reason: str
    near: tuple[str, ...]
    detail: str


class LayerAnswer(BaseModel):
    """A layer that is changed."""

    site: str
    rank: int
    alpha: float
    scale: float


class Spans(BaseModel):
    """The ranks, alphas and scales of all layers; nothing where no layer is changed."""

    rank: str | None
    alpha: str | None
    scale: str | None


class Findings(BaseModel):
    """Keys and layers, of which the first are listed."""

    keys: int
    used: int
    problems: list[ProblemAnswer]
    problem_count: int
    layers: list[LayerAnswer]
    by_component: dict[str, int]


class InspectionAnswer(Coverage, Spans, Findings, Words):
    """What a file would do to the model; nothing was published."""

    object: Literal["adapter.inspection"] = "adapter.inspection"
    fits: bool
    reason: str | None


def inspected(found: Inspection) -> InspectionAnswer:
    """What an inspection found, as answers show it."""
    reading = found.reading
    entries, problems = reading.entries, reading.problems

    def spanned(values: Sequence[float]) -> str | None:
        return span(values) if values else None

    return InspectionAnswer(
        fits=found.reason is None,
        reason=found.reason,
        format=reading.format,
        keys=reading.keys,
        used=reading.keys - len(problems),
        sites=reading.sites,
        of=reading.of,
        rank=spanned([entry.rank for entry in entries]),
        alpha=spanned([entry.alpha for entry in entries]),
        scale=spanned([entry.scale for entry in entries]),
        problems=[
            ProblemAnswer(key=p.key, reason=p.reason, near=p.near, detail=p.detail)
            for p in problems[:PROBLEMS]
        ],
        problem_count=len(problems),
        layers=[
            LayerAnswer(site=str(each.place), rank=each.rank, alpha=each.alpha, scale=each.scale)
            for each in entries[:LAYERS]
        ],
        by_component=dict(Counter(entry.place.component for entry in entries)),
        notes=reading.notes,
        about=dict(reading.about),
    )
