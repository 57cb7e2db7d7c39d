"""One batch under way: what it wears at every step of every stage, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from loraloom.core.provenance import Worn
from loraloom.lora.model import become

if TYPE_CHECKING:
    from torch import Tensor

    from loraloom.core.mix import AdapterKey, Applied
    from loraloom.core.stage import Modality
    from loraloom.lora.model import LoraModel

    from .batch import Outfit
    from .job import Job


@dataclass(frozen=True, slots=True)
class Tick:
    """How far a call is: ``done`` of all steps ``of`` all batches, the last one in ``stage``."""

    done: int
    of: int
    stage: str


Progress: TypeAlias = Callable[[Tick], None]


def silent(_tick: Tick) -> None:
    """No progress is shown."""


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """What became of one job: a latent by modality, without rows; and how its batch was worn."""

    latents: Mapping[Modality, Tensor]
    outfit: Outfit


@dataclass(frozen=True, slots=True, eq=False)
class Dresser:
    """Puts on a batch what every step wants; see :class:`~loraloom.pipelines.loop.Watch`.

    Attributes:
        told: called after each step with the steps of this batch that are done, and the stage.
    """

    models: Sequence[LoraModel]
    batch: Sequence[Job]
    outfit: Outfit
    told: Callable[[int, str], None]

    def applied(self, stage: int, progress: float) -> Applied:
        return self.outfit.applied([job.wears[stage].at(progress) for job in self.batch])

    def wear(self, stage: int, progress: float) -> None:
        become(self.models, self.applied(stage, progress))

    def stepped(self, stage: int, done: int, of: int) -> None:
        stages = self.batch[0].stages
        assert of <= self.batch[0].steps
        before = sum(each.sigmas.count for each in stages[:stage] if each.sigmas)
        if stages[stage].sigmas is None:
            before -= of  # it goes on with the steps of a stage before it
        self.told(before + done, stages[stage].name)


def worn(job: Job, outfit: Outfit, sites: Callable[[AdapterKey], int]) -> tuple[Worn, ...]:
    """What a job wore, and what of its stages' own it did not, by the names of its adapters."""
    named = {lora.name for lora in job.request.loras}
    own = {lora.name for stage in job.stages for lora in stage.wears}
    found = [
        Worn(adapter.key.name, adapter.key.digest, 0.0, sites(adapter.key))
        for adapter in job.adapters
        if adapter.key not in job.keys and adapter.key.name in own & named
    ]
    for key in job.keys:
        turns = job.turns(key)
        strengths = tuple(turn.part.strength if turn else 0.0 for turn in turns)
        turn = next(turn for turn in turns if turn)
        same = len(set(strengths)) == 1
        found.append(
            Worn(
                name=key.name,
                digest=key.digest,
                strength=strengths[0] if same else 1.0,
                sites=sites(key),
                curve=turn.curve,
                scopes=turn.part.scopes,
                manner=outfit.by_key[key],
                stages=() if same else strengths,
                by="request" if key.name in named else "stage",
            )
        )
    return tuple(sorted(found, key=lambda each: each.name))
