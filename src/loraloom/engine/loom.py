"""The library's front door: one model, its adapters, and lists of requests that wear them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

from loraloom.core.mix import Applied
from loraloom.core.provenance import Worn
from loraloom.core.request import Policy
from loraloom.errors import InvalidRequestError
from loraloom.lora.model import LoraModel, become, wearing
from loraloom.models.checkpoint import Checkpoint
from loraloom.models.find import card as find_card
from loraloom.models.find import name_table
from loraloom.models.load import load
from loraloom.pipelines.generate import decode, latents
from loraloom.store.catalog import Catalog

from .batch import group
from .job import Job, admit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image
    from torch import Tensor

    from loraloom.core.mix import AdapterKey
    from loraloom.core.request import Request
    from loraloom.models.card import Card

Progress: TypeAlias = Callable[[int, int], None]
"""Called with steps done and steps in all."""


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What a request became.

    Attributes:
        request: with everything that the model's card filled in.
        frames: one of a picture, several of a video.
        worn: what acted, with digest and strength.
        policy: how it was worn.
    """

    request: Request
    frames: tuple[Image, ...]
    worn: tuple[Worn, ...]
    policy: Policy


def _from(done: int, total: int, progress: Progress) -> Callable[[int], None]:
    """Progress within one batch as progress over all."""
    return lambda step: progress(done + step, total)


def _silent(_done: int, _of: int) -> None:
    """No progress is shown."""


class Loom:
    """A model with its adapters. Build one with :meth:`load`.

    Every request brings its own adapters; between requests the weights are the pristine ones.
    """

    def __init__(self, card: Card, pipe: Any) -> None:
        self.card = card
        self.pipe = pipe
        self.adapters = Catalog(name_table(card), card.adapters)
        self.models = tuple(
            LoraModel(
                component,
                getattr(pipe, component),
                self.adapters.by_key,
                checkpoint=Checkpoint(card.root / component, card.name),
            )
            for component in card.family.wears
        )

    @classmethod
    def load(cls, model: str = "mini", *, dtype: str | None = None, device: str = "cpu") -> Loom:
        """The bundled ``mini``, a folder in diffusers' layout, or a hub id of the LTX-2 family.

        ``dtype`` is float32 on a CPU and bfloat16 elsewhere, unless it is given.

        Raises:
            ModelError: there is no such model, or it lacks a component.
        """
        card = find_card(model)
        dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
        return cls(card, load(card, dtype=dtype, device=device))

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
            policy: beside the weights, or in them.
            progress: called with steps done and steps in all, over all batches.

        Raises:
            InvalidRequestError: the list or a prompt is empty, or the VAE cannot divide a size.
            UnknownAdapterError: a request names an adapter that the catalogue does not hold.
        """
        return self._latents(admit(requests, self.card, self.adapters), policy, progress)

    def _latents(self, jobs: Sequence[Job], policy: Policy, progress: Progress) -> list[Tensor]:
        if policy not in get_args(Policy):
            raise InvalidRequestError(f"the policy is {policy!r}, want live or fused")
        batches = [[jobs[i] for i in batch] for batch in group(jobs, policy)]
        total = sum(batch[0].steps for batch in batches)
        made: dict[int, Tensor] = {}
        done = 0
        for batch in batches:
            tensors = self._run(batch, policy, _from(done, total, progress))
            made.update(zip(map(id, batch), tensors, strict=True))
            done += batch[0].steps
        return [made[id(job)] for job in jobs]

    def _run(self, batch: Sequence[Job], policy: Policy, progress: Callable[[int], None]) -> Tensor:
        """The latents of jobs that run together; what they wear changes between steps."""

        def worn(progress: float) -> Applied:
            mixes = [job.wears.at(progress) for job in batch]
            return Applied.rows(mixes) if policy == "live" else Applied(fused=mixes[0])

        def stepped(step: int, of: int) -> None:
            progress(step)
            if step < of:
                become(self.models, worn(step / of))

        with wearing(self.models, worn(0.0)):
            return latents(self.pipe, self.card, [job.request for job in batch], stepped)

    def _results(self, jobs: Sequence[Job], policy: Policy, progress: Progress) -> list[Result]:
        worn = [self._worn(job) for job in jobs]
        made = self._latents(jobs, policy, progress)
        return [
            Result(job.request, decode(self.pipe, latent), wore, policy)
            for job, latent, wore in zip(jobs, made, worn, strict=True)
        ]

    def _worn(self, job: Job) -> tuple[Worn, ...]:
        return tuple(
            Worn(
                name=turn.part.key.name,
                digest=turn.part.key.digest,
                strength=turn.part.strength,
                sites=self._sites(turn.part.key),
                curve=turn.curve,
                scopes=turn.part.scopes,
            )
            for turn in job.wears.turns
        )

    def _sites(self, key: AdapterKey) -> int:
        adapter = self.adapters.by_key[key]
        return sum(len(adapter.sites(model.component)) for model in self.models)
