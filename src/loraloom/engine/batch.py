"""Which jobs run as one batch, and what all of them wear. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from loraloom.core.mix import NOTHING, AdapterKey, Applied, Mix
from loraloom.core.request import Manner

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from loraloom.core.mix import Part
    from loraloom.core.request import Policy
    from loraloom.core.schedule import Turn

    from .job import Job


def group(jobs: Sequence[Job], policy: Policy) -> list[list[int]]:
    """Indices of jobs that can run together, in the order of their first members.

    Size, steps, guidance and the frames of conditions must agree; what is worn need not, unless
    it has to be fused: there is one set of weights.
    """
    groups: dict[Hashable, list[int]] = {}
    for index, job in enumerate(jobs):
        frames = tuple((each.frame, each.strength) for each in job.request.conditions)
        pinned = [turn for turn in job.wears.turns if _pin(job, turn) == "fused"]
        must = {"live": None, "fused": job.wears, "auto": tuple(pinned)}[policy]
        alike = (job.canvas, job.request.sampling, frames, must)
        groups.setdefault(alike, []).append(index)
    return list(groups.values())


@dataclass(frozen=True, slots=True)
class Outfit:
    """How a batch is worn.

    Attributes:
        by_key: of every adapter that a job of the batch wears.
        resting: what stays in the weights until a batch wants otherwise.
    """

    by_key: Mapping[AdapterKey, Manner]
    resting: Mix = NOTHING

    def applied(self, mixes: Sequence[Mix]) -> Applied:
        """The state in which row *i* wears ``mixes[i]``; what is fused, all of them wear."""
        fused = [key for key, manner in self.by_key.items() if manner.mode == "fused"]
        beside = [
            mix.only(part.key for part in mix.parts if part.key not in fused) for mix in mixes
        ]
        return Applied.rows(beside, fused=mixes[0].only(fused))


@dataclass(frozen=True, slots=True)
class Open:
    """What the policy ``auto`` may decide of a batch, and what is settled.

    Attributes:
        candidates: parts that every job wears at one constant strength: they may be fused.
        settled: the manners of all other adapters of the batch.
        resting: the constant parts of those that are to be fused.
    """

    candidates: Mix
    settled: Mapping[AdapterKey, Manner]
    resting: Mix = NOTHING


def opened(batch: Sequence[Job]) -> Open:
    """Sort what jobs that run together wear into what is settled and what is open."""
    settled: dict[AdapterKey, Manner] = {}
    candidates, resting = [], []
    worn = [{constant(turn) for turn in job.wears.turns} for job in batch]
    for job in batch:
        for turn in job.wears.turns:
            key, part = turn.part.key, constant(turn)
            pinned = job.manners.get(key)
            if pinned is not None:
                settled[key] = pinned
                resting += [part] if part and pinned.mode == "fused" else []
            elif part is None:
                settled[key] = Manner("live", "its strength changes from step to step")
            elif not all(part in other for other in worn):
                settled[key] = Manner("live", "not all of the batch wear it alike")
            else:
                candidates.append(part)
    free = {part for part in candidates if part.key not in settled}
    return Open(Mix.of(free), settled, Mix.of(set(resting)))


def constant(turn: Turn) -> Part | None:
    """What an adapter wears from the first step to the last, if that is one strength."""
    factors = {knot.factor for knot in turn.curve.knots}
    if len(factors) > 1:
        return None
    return replace(turn.part, strength=turn.part.strength * factors.pop())


def _pin(job: Job, turn: Turn) -> str | None:
    manner = job.manners.get(turn.part.key)
    return manner.mode if manner else None
