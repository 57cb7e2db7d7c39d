"""The library's front door: one model, its adapters, and lists of requests that wear them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache as once
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

from loraloom.core.mix import NOTHING
from loraloom.core.provenance import Worn
from loraloom.core.request import Manner, Policy
from loraloom.errors import InvalidRequestError
from loraloom.lora.calibrate import rates_of
from loraloom.lora.model import LoraModel, become, wearing
from loraloom.memory.residency import ORIGINAL
from loraloom.models.checkpoint import Checkpoint
from loraloom.models.find import card as find_card
from loraloom.models.find import name_table
from loraloom.models.load import load
from loraloom.pipelines.generate import decode, latents
from loraloom.store.catalog import Catalog

from .auto import Auto
from .batch import Outfit, group, opened
from .job import Job, admit
from .traffic import Run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image
    from torch import Tensor

    from loraloom.core.mix import AdapterKey, Applied
    from loraloom.core.request import Request
    from loraloom.memory.residency import Residency
    from loraloom.models.card import Card

Progress: TypeAlias = Callable[[int, int], None]
"""Called with steps done and steps in all."""


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What a request became.

    Attributes:
        request: with everything that the model's card filled in.
        frames: one of a picture, several of a video.
        worn: what acted, with digest and strength, in which mode and why.
        policy: what was asked for.
    """

    request: Request
    frames: tuple[Image, ...]
    worn: tuple[Worn, ...]
    policy: Policy


@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    """The latent of a job, and how its batch was worn."""

    latent: Tensor
    outfit: Outfit


def _from(done: int, total: int, progress: Progress) -> Callable[[int], None]:
    """Progress within one batch as progress over all."""
    return lambda step: progress(done + step, total)


def _silent(_done: int, _of: int) -> None:
    """No progress is shown."""


class Loom:
    """A model with its adapters. Build one with :meth:`load`.

    Every request brings its own adapters; between requests the weights are the pristine ones. Only
    the policy ``auto`` may leave in them what it expects to be asked for again, until something
    else is wanted or :meth:`bare` is called.
    """

    def __init__(self, card: Card, pipe: Any, cache: Path, residency: Residency = ORIGINAL) -> None:
        self.card = card
        self.pipe = pipe
        self.adapters = Catalog(name_table(card), card.adapters)
        self.models = tuple(
            LoraModel(
                component,
                getattr(pipe, component),
                self.adapters.by_key,
                checkpoint=Checkpoint(card.root / component, card.name),
                residency=residency,
            )
            for component in card.family.wears
        )
        self.auto = Auto(self.models, once(partial(rates_of, self.models[0], cache, filed=True)))

    @classmethod
    def load(
        cls,
        model: str = "mini",
        *,
        dtype: str | None = None,
        device: str = "cpu",
        cache: Path | None = None,
        residency: Residency = ORIGINAL,
    ) -> Loom:
        """The bundled ``mini``, a folder in diffusers' layout, or a hub id of the LTX-2 family.

        ``dtype`` is float32 on a CPU and bfloat16 elsewhere, unless it is given; ``cache`` is
        where the policy ``auto`` keeps what it measured, ``~/.cache/loraloom`` unless it is given;
        ``residency`` says what memory may be spent on quick changes of fused weights.

        Raises:
            ModelError: there is no such model, or it lacks a component.
        """
        card = find_card(model)
        dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
        cache = cache or Path.home() / ".cache" / "loraloom"
        return cls(card, load(card, dtype=dtype, device=device), cache, residency)

    def images(
        self,
        requests: Sequence[Request],
        *,
        policy: Policy = "live",
        progress: Progress = _silent,
    ) -> list[Result]:
        """A picture for every request, in order; see :meth:`latents` for what can go wrong."""
        jobs = admit(requests, self.card, self.adapters)
        for job in jobs:
            if job.canvas.frames != 1:
                raise InvalidRequestError(f"frames is {job.canvas.frames}, a picture wants 1")
        return self._results(jobs, policy, progress)

    def videos(
        self,
        requests: Sequence[Request],
        *,
        policy: Policy = "live",
        progress: Progress = _silent,
    ) -> list[Result]:
        """A video for every request, in order; see :meth:`latents` for what can go wrong."""
        usual = self.card.defaults.video
        requests = [replace(each, canvas=each.canvas or usual) for each in requests]
        jobs = admit(requests, self.card, self.adapters)
        for job in jobs:
            if job.canvas.frames == 1:
                raise InvalidRequestError("frames is 1, a video wants several")
        return self._results(jobs, policy, progress)

    def latents(
        self,
        requests: Sequence[Request],
        *,
        policy: Policy = "live",
        progress: Progress = _silent,
    ) -> list[Tensor]:
        """What the VAE would decode, ``[channels, frames, height, width]`` for every request.

        Requests of one size, length, sampling and kind of condition run as one batch, whatever
        each of them wears; under ``policy="fused"`` also what they wear must agree.

        Args:
            requests: at least one.
            policy: beside the weights, or in them; ``auto`` takes for every batch what is
                faster, as far as rounding leaves the adapter's effect alone.
            progress: called with steps done and steps in all, over all batches.

        Raises:
            InvalidRequestError: the list or a prompt is empty, or the VAE cannot divide a size.
            UnknownAdapterError: a request names an adapter that the catalogue does not hold.
        """
        jobs = admit(requests, self.card, self.adapters)
        return [made.latent for made in self._made(jobs, policy, progress)]

    def bare(self) -> None:
        """Take out of the weights what the policy ``auto`` left there."""
        self.auto.rest(NOTHING, ())

    def _made(self, jobs: Sequence[Job], policy: Policy, progress: Progress) -> list[_Made]:
        if policy not in get_args(Policy):
            raise InvalidRequestError(
                f"the policy is {policy!r}, want live or fused, or auto for the faster of them"
            )
        batches = [[jobs[i] for i in batch] for batch in group(jobs, policy)]
        total = sum(batch[0].steps for batch in batches)
        made: dict[int, _Made] = {}
        done = 0
        for batch in batches:
            outfit = self._outfit(batch, policy)
            tensors = self._run(batch, outfit, policy, _from(done, total, progress))
            latent = (_Made(tensor, outfit) for tensor in tensors)
            made.update(zip(map(id, batch), latent, strict=True))
            done += batch[0].steps
        return [made[id(job)] for job in jobs]

    def _outfit(self, batch: Sequence[Job], policy: Policy) -> Outfit:
        if policy == "auto":
            return self.auto.outfit(opened(batch), Run.of(batch, self.card.grid))
        keys = {turn.part.key for job in batch for turn in job.wears.turns}
        return Outfit(dict.fromkeys(keys, Manner(policy)))

    def _run(
        self, batch: Sequence[Job], outfit: Outfit, policy: Policy, progress: Callable[[int], None]
    ) -> Tensor:
        """The latents of jobs that run together; what they wear changes between steps."""

        def worn(progress: float) -> Applied:
            return outfit.applied([job.wears.at(progress) for job in batch])

        def stepped(step: int, of: int) -> None:
            progress(step)
            if step < of:
                become(self.models, worn(step / of))

        if policy == "auto" or self.auto.resting:
            self.auto.rest(outfit.resting, batch[0].adapters)
        with ExitStack() as during:
            if policy == "auto":
                during.enter_context(self.auto.traffic.watching(Run.of(batch, self.card.grid)))
            during.enter_context(wearing(self.models, worn(0.0)))
            return latents(self.pipe, self.card, [job.request for job in batch], stepped)

    def _results(self, jobs: Sequence[Job], policy: Policy, progress: Progress) -> list[Result]:
        return [
            Result(
                job.request, decode(self.pipe, made.latent), self._worn(job, made.outfit), policy
            )
            for job, made in zip(jobs, self._made(jobs, policy, progress), strict=True)
        ]

    def _worn(self, job: Job, outfit: Outfit) -> tuple[Worn, ...]:
        return tuple(
            Worn(
                name=turn.part.key.name,
                digest=turn.part.key.digest,
                strength=turn.part.strength,
                sites=self._sites(turn.part.key),
                curve=turn.curve,
                scopes=turn.part.scopes,
                manner=outfit.by_key[turn.part.key],
            )
            for turn in job.wears.turns
        )

    def _sites(self, key: AdapterKey) -> int:
        adapter = self.adapters.by_key[key]
        return sum(len(adapter.sites(model.component)) for model in self.models)
