"""One batch under way: what it wears at every step of every stage, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, TypeAlias

from loraloom.core.provenance import Worn
from loraloom.lora.model import become

if TYPE_CHECKING:
    from torch import Tensor

    from loraloom.core.mix import AdapterKey, Applied, Component
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

Sites: TypeAlias = Callable[["AdapterKey", "Component | None"], int]
"""How many layers an adapter changes, of one component or of all."""


@dataclass(slots=True)
class Clock:
    """Where the time of one batch goes, in seconds; it is written while the batch runs.

    Attributes:
        load: until all adapters were in the host's memory.
        encode: of prompts and images, and of what is enlarged: all that comes before a step.
        switches: of every change of what is worn.
        steps: of every step, without those.
        decode: of all its jobs.
        began: when the step under way, or what comes before it, began.
    """

    load: float = 0.0
    encode: float = 0.0
    switches: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    decode: float = 0.0
    began: float = 0.0

    @contextmanager
    def switching(self) -> Iterator[None]:
        """Whatever is worn changes in the block, and the next step begins after it."""
        before = perf_counter()
        yield
        self.began = perf_counter()
        self.switches.append(self.began - before)

    def prepared(self) -> None:
        """All that comes before a step is done; it begins now or after a change of what is worn."""
        now = perf_counter()
        self.encode += now - self.began
        self.began = now

    def stepped(self) -> None:
        """A step is done; what comes before the next one begins now."""
        now = perf_counter()
        self.steps.append(now - self.began)
        self.began = now


def silent(_tick: Tick) -> None:
    """No progress is shown."""


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """What became of one job: a latent by modality, without rows; how its batch was worn."""

    latents: Mapping[Modality, Tensor]
    outfit: Outfit
    clock: Clock


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
    clock: Clock = field(default_factory=Clock)

    def applied(self, stage: int, progress: float) -> Applied:
        return self.outfit.applied([job.wears[stage].at(progress) for job in self.batch])

    def wear(self, stage: int, progress: float) -> None:
        self.clock.prepared()
        want = self.applied(stage, progress)
        if all(model.applied == want.on(model.component) for model in self.models):
            return
        with self.clock.switching():
            become(self.models, want)

    def stepped(self, stage: int, done: int, of: int) -> None:
        self.clock.stepped()
        stages = self.batch[0].stages
        assert of <= self.batch[0].steps
        before = sum(each.sigmas.count for each in stages[:stage] if each.sigmas)
        if stages[stage].sigmas is None:
            before -= of  # it goes on with the steps of a stage before it
        self.told(before + done, stages[stage].name)
        self.clock.began = perf_counter()


def worn(job: Job, outfit: Outfit, sites: Sites) -> tuple[Worn, ...]:
    """What a job wore, and what of its stages' own it did not, by the names of its adapters."""
    named = {lora.name for lora in job.request.loras}
    own = {lora.name for stage in job.stages for lora in stage.wears}
    found = [
        Worn(key.name, key.digest, 0.0, sites(key, None))
        for key in job.named
        if key not in job.keys and key.name in own & named
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
                sites=sites(key, turn.part.target),
                curve=turn.curve,
                scopes=turn.part.scopes,
                manner=outfit.by_key[key],
                stages=() if same else strengths,
                by="request" if key.name in named else "stage",
                target=turn.part.target,
            )
        )
    return tuple(sorted(found, key=lambda each: each.name))
