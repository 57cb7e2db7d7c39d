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

    Size, sound and stages must agree, as far as they do not wear anything; prompts, images and
    what is worn need not, unless it has to be fused: there is one set of weights.
    """
    groups: dict[Hashable, list[int]] = {}
    for index, job in enumerate(jobs):
        groups.setdefault(alike(job, policy), []).append(index)
    return list(groups.values())


def alike(job: Job, policy: Policy) -> Hashable:
    """What jobs that run together agree in."""
    pinned = [_pin(job, key) for key in job.keys]
    must = {"live": None, "fused": job.wears, "auto": tuple(filter(None, pinned))}[policy]
    bare = tuple(replace(stage, wears=()) for stage in job.stages)
    original = job.request.origin is not None
    return job.canvas, job.request.audio, original, bare, _lengths(job), must


def _lengths(job: Job) -> Hashable:
    """What must agree where noise is measured over all tokens of a row, or where a scheduler has
    one row of levels: their number.
    """
    if all(stage.solver == "euler" for stage in job.stages):
        return None
    asked = job.request
    return (
        tuple((each.frame, len(each.following)) for each in asked.conditions),
        tuple((len(each.frames), each.downscale) for each in asked.references),
    )


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


KEPT = Manner("fused", "the stages wear it, and fused copies are kept")


def kept(batch: Sequence[Job], outfit: Outfit) -> Outfit:
    """The same with what the stages bring fused, as far as the whole batch wears it alike.

    What changes from step to step would be fused at every step.

    What requests bring stays as it is: it adds up with what is fused.
    """
    first = batch[0]
    own = {
        key
        for key in first.keys
        if key.name in {lora.name for stage in first.stages for lora in stage.wears}
        and all(job.turns(key) == first.turns(key) for job in batch)
        and all(turn is None or constant([turn]) for turn in first.turns(key))
    }
    return replace(outfit, by_key={**outfit.by_key, **dict.fromkeys(own, KEPT)})


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
    worn = [{constant(job.turns(key)) for key in job.keys} for job in batch]
    for job in batch:
        for key in job.keys:
            part, pinned = constant(job.turns(key)), job.manners.get(key)
            if pinned is not None:
                settled[key] = pinned
                resting += [part] if part and pinned.mode == "fused" else []
            elif part is None:
                settled[key] = Manner("live", "its strength changes from step to step")
            elif not part.strength:
                settled[key] = Manner("live", "its strength is 0 at every step")
            elif not all(part in other for other in worn):
                settled[key] = Manner("live", "not all of the batch wear it alike")
            else:
                candidates.append(part)
    free = {part for part in candidates if part.key not in settled}
    return Open(Mix.of(free), settled, Mix.of(set(resting)))


def constant(turns: Sequence[Turn | None]) -> Part | None:
    """What an adapter wears from the first step of the first stage to the last of the last.

    ``None`` if that is not one strength.
    """
    parts = set()
    for turn in turns:
        if turn is None:
            return None
        factors = {knot.factor for knot in turn.curve.knots}
        if len(factors) > 1:
            return None
        parts.add(replace(turn.part, strength=turn.part.strength * factors.pop()))
    return parts.pop() if len(parts) == 1 else None


def _pin(job: Job, key: AdapterKey) -> Hashable:
    manner = job.manners.get(key)
    return tuple(job.turns(key)) if manner and manner.mode == "fused" else None
