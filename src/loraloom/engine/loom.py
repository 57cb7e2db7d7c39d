"""The library's front door: one model, its adapters, and lists of requests that wear them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from loraloom.core.mix import Applied, Mix, Part, finite
from loraloom.core.provenance import Worn
from loraloom.errors import InvalidRequestError
from loraloom.lora.model import LoraModel, wearing
from loraloom.models.find import card as find_card
from loraloom.models.find import name_table
from loraloom.models.load import load
from loraloom.pipelines.generate import decode, latents
from loraloom.store.catalog import Catalog

from .batch import group

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL.Image import Image
    from torch import Tensor

    from loraloom.core.request import Canvas, Policy, Request
    from loraloom.models.card import Card


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


def _steps(request: Request) -> int:
    assert request.sampling is not None
    return request.sampling.steps


def _check_conditions(request: Request, canvas: Canvas) -> None:
    for condition in request.conditions:
        if not -canvas.frames <= condition.frame < canvas.frames:
            raise InvalidRequestError(
                f"an image is asked for at frame {condition.frame} of {canvas.frames}"
            )
        if not 0 < finite(condition.strength, "an image") <= 1:
            raise InvalidRequestError(
                f"the strength of an image is {condition.strength}, want more than 0, at most 1"
            )


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
            LoraModel(component, getattr(pipe, component), self.adapters.by_key)
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
        progress: Callable[[int, int], None] = _silent,
    ) -> list[Result]:
        """A picture for every request, in order; see :meth:`latents` for what can go wrong."""
        self._check_length(requests, video=False)
        return self._generate(requests, policy, progress)

    def videos(
        self,
        requests: Sequence[Request],
        *,
        policy: Policy = "live",
        progress: Callable[[int, int], None] = _silent,
    ) -> list[Result]:
        """A video for every request, in order."""
        video = self.card.defaults.video
        requests = [replace(each, canvas=each.canvas or video) for each in requests]
        self._check_length(requests, video=True)
        return self._generate(requests, policy, progress)

    def latents(
        self,
        requests: Sequence[Request],
        *,
        policy: Policy = "live",
        progress: Callable[[int, int], None] = _silent,
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
        requests = [self._resolved(request) for request in requests]
        if not requests:
            raise InvalidRequestError("the list of requests is empty, want at least one")
        mixes = [self._mix(request) for request in requests]
        batches = group(requests, mixes, policy)
        steps = [_steps(requests[batch[0]]) for batch in batches]
        results: dict[int, Tensor] = {}
        for number, batch in enumerate(batches):
            worn = [mixes[index] for index in batch]
            want = Applied.rows(worn) if policy == "live" else Applied(fused=worn[0])
            done = sum(steps[:number])

            def moved(step: int, _of: int, done: int = done) -> None:
                progress(done + step, sum(steps))

            with wearing(self.models, want):
                made = latents(self.pipe, self.card, [requests[i] for i in batch], moved)
            results.update(zip(batch, made, strict=True))
        return [results[index] for index in range(len(requests))]

    def _generate(
        self, requests: Sequence[Request], policy: Policy, progress: Callable[[int, int], None]
    ) -> list[Result]:
        resolved = [self._resolved(request) for request in requests]
        made = self.latents(resolved, policy=policy, progress=progress)
        return [
            Result(request, decode(self.pipe, latent), self._worn(request), policy)
            for request, latent in zip(resolved, made, strict=True)
        ]

    def _resolved(self, request: Request) -> Request:
        """The request with the card's defaults, checked."""
        defaults = self.card.defaults
        if not request.prompt.strip():
            raise InvalidRequestError("a prompt is empty, want some words")
        if not 0 <= request.seed < 2**63:
            raise InvalidRequestError(f"the seed is {request.seed}, want 0 to 2**63 - 1")
        canvas = request.canvas or defaults.picture
        sampling = request.sampling or defaults.sampling
        self.card.check(canvas)
        finite(sampling.guidance, "classifier-free guidance")
        least = self.card.grid.steps
        if sampling.steps < least:
            raise InvalidRequestError(f"the number of steps is {sampling.steps}, want {least} up")
        _check_conditions(request, canvas)
        negative = request.negative_prompt or defaults.negative_prompt
        return replace(request, canvas=canvas, sampling=sampling, negative_prompt=negative)

    def _check_length(self, requests: Sequence[Request], *, video: bool) -> None:
        for request in requests:
            frames = (request.canvas or self.card.defaults.picture).frames
            if video != (frames > 1):
                kind = "a video wants several" if video else "a picture wants 1"
                raise InvalidRequestError(f"frames is {frames}, {kind}")

    def _mix(self, request: Request) -> Mix:
        adapters = [(self.adapters.get(lora.name), lora) for lora in request.loras]
        return Mix.of([Part(adapter.key, lora.strength) for adapter, lora in adapters])

    def _worn(self, request: Request) -> tuple[Worn, ...]:
        return tuple(
            Worn(part.key.name, part.key.digest, part.strength, self._sites(part))
            for part in self._mix(request).parts
        )

    def _sites(self, part: Part) -> int:
        adapter = self.adapters.by_key[part.key]
        return sum(len(adapter.sites(model.component)) for model in self.models)
