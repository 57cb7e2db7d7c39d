"""The library's front door: one model, its adapters, and lists of requests that wear them."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache as once
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import torch

from loraloom.core.mix import NOTHING
from loraloom.core.provenance import Worn
from loraloom.core.request import Manner, Policy
from loraloom.errors import AdapterMismatchError, InvalidRequestError
from loraloom.lora.calibrate import rates_of
from loraloom.lora.model import LoraModel, wearing
from loraloom.memory.mover import Mover
from loraloom.models.checkpoint import Checkpoint
from loraloom.models.find import card as find_card
from loraloom.models.find import name_table
from loraloom.models.load import load
from loraloom.pipelines.families import denoiser
from loraloom.pipelines.loop import run
from loraloom.store.catalog import Catalog

from .auto import Auto
from .batch import Outfit, group, kept, opened
from .job import admit
from .means import Means
from .run import Clock, Dresser, Made, Progress, Tick, silent, worn
from .traffic import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from PIL.Image import Image
    from torch import Tensor

    from loraloom.core.mix import AdapterKey, Component
    from loraloom.core.request import Request
    from loraloom.core.stage import Modality
    from loraloom.memory.staging import Plan
    from loraloom.models.card import Card
    from loraloom.pipelines.sound import Sound

    from .job import Job

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What a request became.

    Attributes:
        request: with everything that the model's card filled in.
        frames: one of a picture, several of a video.
        worn: what acted, with digest and strength, in which mode and why.
        policy: what was asked for.
        sound: of a video that was asked for with sound.
        clock: where the time of its batch went.
    """

    request: Request
    frames: tuple[Image, ...]
    worn: tuple[Worn, ...]
    policy: Policy
    sound: Sound | None = None
    clock: Clock = field(default_factory=Clock)


def _from(done: int, total: int, progress: Progress) -> Callable[[int, str], None]:
    """Progress within one batch as progress over all."""
    return lambda step, stage: progress(Tick(done + step, total, stage))


class Loom:
    """A model with its adapters. Build one with :meth:`load`.

    Every request brings its own adapters; between requests the weights are the pristine ones. Only
    the policy ``auto`` may leave in them what it expects to be asked for again, until something
    else is wanted or :meth:`bare` is called.
    """

    def __init__(self, card: Card, pipe: Any, cache: Path, means: Means | None = None) -> None:
        means = means or Means()
        self.card = card
        self.pipe = pipe
        self.denoiser = denoiser(card, pipe)
        self.adapters = means.catalog or Catalog(name_table(card), card.adapters)
        budgets = means.budgets({name: getattr(pipe, name) for name in card.family.wears})
        self.models = tuple(
            LoraModel(
                component,
                getattr(pipe, component),
                self.adapters.by_key,
                checkpoint=Checkpoint(card.root / component, card.name),
                budget=budgets[component],
                residency=means.residency,
            )
            for component in card.family.wears
        )
        self.mover: Mover | None = None
        self.auto = Auto(self.models, once(partial(rates_of, self.models[0], cache, filed=True)))

    @classmethod
    def load(
        cls,
        model: str = "mini",
        *,
        dtype: str | None = None,
        device: str = "cpu",
        cache: Path | None = None,
        means: Means | None = None,
        plan: Plan | None = None,
    ) -> Loom:
        """The bundled ``mini``, a folder in diffusers' layout, or a hub id, of a known family.

        ``dtype`` is float32 on a CPU and bfloat16 elsewhere, unless it is given; ``cache`` is
        where the policy ``auto`` keeps what it measured, ``~/.cache/loraloom`` unless it is given;
        ``means`` says what adapters may take of memory; ``plan`` says what of that may be spent
        on quick changes of fused weights, and when components are on the device.

        Raises:
            ModelError: there is no such model, or it lacks a component.
        """
        card = find_card(model)
        dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
        cache = cache or Path.home() / ".cache" / "loraloom"
        means = means or Means()
        if plan is not None:
            means = replace(means, residency=plan.residency)
        if plan is None or plan.order == "together":
            return cls(card, load(card, dtype=dtype, device=device), cache, means)
        loom = cls(card, load(card, dtype=dtype, device="cpu"), cache, means)
        loom.mover = Mover(loom.denoiser.components, torch.device(device), plan)
        return loom

    def images(
        self,
        requests: Sequence[Request],
        *,
        policy: Policy = "live",
        progress: Progress = silent,
    ) -> list[Result]:
        """A picture for every request, in order; see :meth:`latents` for what can go wrong."""
        jobs = admit(requests, self.card, self.adapters)
        for job in jobs:
            if job.canvas.frames != 1:
                raise InvalidRequestError(f"frames is {job.canvas.frames}, a picture wants 1")
        return self.run(jobs, policy=policy, progress=progress)

    def videos(
        self,
        requests: Sequence[Request],
        *,
        policy: Policy = "live",
        progress: Progress = silent,
    ) -> list[Result]:
        """A video for every request, in order; see :meth:`latents` for what can go wrong."""
        usual = self.card.defaults.video
        requests = [replace(each, canvas=each.canvas or usual) for each in requests]
        jobs = admit(requests, self.card, self.adapters)
        for job in jobs:
            self.card.check_video(job.canvas)
        return self.run(jobs, policy=policy, progress=progress)

    def latents(
        self,
        requests: Sequence[Request],
        *,
        policy: Policy = "live",
        progress: Progress = silent,
    ) -> list[Tensor]:
        """What the VAE would decode, ``[channels, frames, height, width]`` for every request.

        Requests of one size, length and kind of stages run as one batch, whatever each of them
        shows or wears; under ``policy="fused"`` also what they wear must agree.

        Args:
            requests: at least one.
            policy: beside the weights, or in them; ``auto`` takes for every batch what is
                faster, as far as rounding leaves the adapter's effect alone.
            progress: called after every step with steps done and in all, over all batches.

        Raises:
            InvalidRequestError: the list or a prompt is empty, or the VAE cannot divide a size.
            UnknownAdapterError: a request names an adapter that the catalogue does not hold.
        """
        return [made["video"] for made in self.streams(requests, policy=policy, progress=progress)]

    def streams(
        self,
        requests: Sequence[Request],
        *,
        policy: Policy = "live",
        progress: Progress = silent,
    ) -> list[Mapping[Modality, Tensor]]:
        """What the VAEs would decode: by modality, the latents of :meth:`latents` and of sound."""
        jobs = admit(requests, self.card, self.adapters)
        with self._held(jobs):
            return [made.latents for made in self._made(jobs, policy, progress)]

    def run(
        self, jobs: Sequence[Job], *, policy: Policy = "live", progress: Progress = silent
    ) -> list[Result]:
        """What becomes of admitted jobs, pictures or videos, in order; see :meth:`latents`.

        Raises:
            AdapterChangedError: the file of an adapter is not any more what it was.
            AdapterMismatchError: a job has a component wear an adapter that has nothing for it.
        """
        with self._held(jobs) as loaded:
            made = self._made(jobs, policy, progress)
            for clock in {id(each.clock): each.clock for each in made}.values():
                clock.load = loaded
            return self._results(jobs, made, policy)

    def prefetch(self, keys: Iterable[AdapterKey]) -> None:
        """Bring adapters that are in the host's memory to the device, as far as there is room.

        What is worn now is not touched. For the thread that computes, between two steps.
        """
        there = [key for key in keys if key in self.adapters.by_key]
        for model in self.models:
            model.prefetch(there)

    def on_device(self) -> frozenset[AdapterKey]:
        """The adapters that lie ready for a component or more."""
        return frozenset(key for model in self.models for key in model.wardrobe.keys)

    def bare(self) -> None:
        """Take out of the weights what the policy ``auto`` left there."""
        self.auto.rest(NOTHING, {})

    def _made(self, jobs: Sequence[Job], policy: Policy, progress: Progress) -> list[Made]:
        if policy not in get_args(Policy):
            raise InvalidRequestError(
                f"the policy is {policy!r}, want live or fused, or auto for the faster of them"
            )
        for job in jobs:
            self.denoiser.ready(job.stages)
        batches = [[jobs[i] for i in batch] for batch in group(jobs, policy)]
        total = sum(batch[0].steps for batch in batches)
        made: dict[int, Made] = {}
        done = 0
        for batch in batches:
            outfit = self._outfit(batch, policy)
            dresser = Dresser(self.models, batch, outfit, _from(done, total, progress))
            for job, each in zip(batch, self._run(dresser, policy), strict=True):
                made[id(job)] = each
            done += batch[0].steps
        return [made[id(job)] for job in jobs]

    def _outfit(self, batch: Sequence[Job], policy: Policy) -> Outfit:
        """How a batch is worn; where copies are kept, what its stages bring is one of them."""
        if policy == "auto":
            outfit = self.auto.outfit(opened(batch), Run.of(batch, self.card.grid))
        else:
            outfit = Outfit({key: Manner(policy) for job in batch for key in job.keys})
        copies = self.models[0].weights.copies.budget
        return kept(batch, outfit) if copies and policy != "fused" else outfit

    def _run(self, dresser: Dresser, policy: Policy) -> list[Made]:
        """What becomes of jobs that run together; what they wear changes between steps."""
        batch, outfit = dresser.batch, dresser.outfit
        if policy == "auto" or self.auto.resting:
            self.auto.rest(outfit.resting, self.adapters.by_key)
        with ExitStack() as during:
            if policy == "auto":
                during.enter_context(self.auto.traffic.watching(Run.of(batch, self.card.grid)))
            with dresser.clock.switching():
                during.enter_context(wearing(self.models, dresser.applied(0, 0.0)))
            requests = [job.request for job in batch]
            latents = run(self.denoiser, requests, batch[0].stages, dresser)
        return [
            Made({name: rows[i] for name, rows in latents.items()}, outfit, dresser.clock)
            for i in range(len(batch))
        ]

    def _results(self, jobs: Sequence[Job], made: Sequence[Made], policy: Policy) -> list[Result]:
        """Everything is decoded by one component before the next one is needed."""
        frames = [self._timed(self.denoiser.frames, each, "video") for each in made]
        sounds = [self._sound(job, each) for job, each in zip(jobs, made, strict=True)]
        return [
            Result(
                job.request, shown, worn(job, each.outfit, self._sites), policy, sound, each.clock
            )
            for job, each, shown, sound in zip(jobs, made, frames, sounds, strict=True)
        ]

    @contextmanager
    def _held(self, jobs: Sequence[Job]) -> Iterator[float]:
        """All adapters of jobs are in the host's memory; gives the seconds that it took."""
        before = perf_counter()
        keys = {key for job in jobs for key in job.named}
        with self.adapters.held(keys):
            for job in jobs:
                self._check_targets(job)
            yield perf_counter() - before

    def _check_targets(self, job: Job) -> None:
        for part in {turn.part for each in job.wears for turn in each.turns}:
            if part.target and not self._sites(part.key, part.target):
                raise AdapterMismatchError(
                    f"adapter {part.key.name!r} has nothing for component {part.target!r}, it "
                    f"changes {', '.join(sorted(self.adapters.by_key[part.key].updates))}"
                )

    def _timed(self, decode: Callable[[Tensor], T], made: Made, modality: Modality) -> T:
        before = perf_counter()
        decoded = decode(made.latents[modality])
        made.clock.decode += perf_counter() - before
        return decoded

    def _sound(self, job: Job, made: Made) -> Sound | None:
        audible = "audio" in made.latents and job.canvas.frames > 1
        return self._timed(self.denoiser.sound, made, "audio") if audible else None

    def _sites(self, key: AdapterKey, target: Component | None) -> int:
        adapter = self.adapters.by_key[key]
        return sum(
            len(adapter.sites(model.component))
            for model in self.models
            if target in {None, model.component}
        )
