"""The one loop: a batch goes through stages, each of them from noise level to noise level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from torch import Generator

from .denoiser import Call, Moment, noise
from .guidance import guided
from .levels import levels
from .samplers import Euler, Res2s, Step, Stepper

if TYPE_CHECKING:
    from torch import Tensor

    from loraloom.core.request import Request
    from loraloom.core.stage import Modality, Stage, Stages

    from .denoiser import Denoiser, Latents, Scene
    from .levels import Levels
    from .samplers import Sampler, Streams


class Watch(Protocol):
    """What is told of a run while it goes on; it may raise to end it."""

    def wear(self, stage: int, progress: float) -> None:
        """Before anything of a step is computed, and at the beginning of a stage.

        ``progress`` is 0 to 1 over a stage and those that go on with its noise levels.
        """

    def stepped(self, stage: int, done: int, of: int) -> None:
        """After each step."""


@dataclass(frozen=True, slots=True, eq=False)
class Leg:
    """Stages that share one run of noise levels: the first begins it, the others go on with it."""

    first: int
    stages: Stages


def legs(stages: Stages) -> list[Leg]:
    found: list[Leg] = []
    for index, stage in enumerate(stages):
        if stage.sigmas is None:
            found[-1] = replace(found[-1], stages=(*found[-1].stages, stage))
        else:
            found.append(Leg(index, (stage,)))
    return found


def run(denoiser: Denoiser, requests: Sequence[Request], stages: Stages, watch: Watch) -> Latents:
    """The latents of ``requests`` after ``stages``.

    The requests agree in canvas and sound and bring prompts, seeds and images of their own; all or
    none of them bring an origin. The
    noise of a request comes from its own seed, so it is the same alone and in any batch.
    """
    passes = frozenset(each for stage in stages for each in stage.guidance.passes)
    watch.wear(0, 0.0)
    draws = [Generator("cpu").manual_seed(request.seed) for request in requests]
    call = Call(requests, draws, denoiser.encode(requests, passes))
    origins = [request.origin.image for request in requests if request.origin]
    latents: Latents = {}
    if origins:
        latents = denoiser.originals(origins, stages[0].canvas(call.canvas))
    for leg in legs(stages):
        watch.wear(leg.first, 0.0)
        latents = _run_leg(denoiser, call, leg, _sized(denoiser, latents, leg, call), watch)
    return latents


def _sized(denoiser: Denoiser, before: Latents, leg: Leg, call: Call) -> Latents:
    """What was made before, at the size of the stages to come."""
    if not before:
        return before
    to = denoiser.size(leg.stages[0].canvas(call.canvas))
    video = before["video"]
    return before if tuple(video.shape[-2:]) == to else denoiser.enlarge(before, to)


def _run_leg(denoiser: Denoiser, call: Call, leg: Leg, before: Latents, watch: Watch) -> Latents:
    first = leg.stages[0]
    assert first.sigmas
    start = first.sigmas.given[0] if first.sigmas.given else 1.0
    scene = denoiser.enter(first, call, before, start)
    tokens: Streams = {name: stream.tokens for name, stream in scene.streams.items()}
    rest = levels(denoiser.scheduler, first.sigmas, denoiser.counts(scene))
    taker = _sampler(first, scene, rest)
    all_steps, done = len(rest), 0
    for index, stage in enumerate(leg.stages, leg.first):
        part, rest = rest.until(stage.sigmas.until) if stage.sigmas else (rest, rest)
        for step in _steps(part, tokens["video"]):
            watch.wear(index, done / all_steps)
            denoise = _Denoise(denoiser, scene, stage)
            tokens = taker.advance(tokens, step, denoise, _Noise(scene, call))
            done += 1
            watch.stepped(index, done, all_steps)
    return denoiser.leave(scene, tokens)


def _sampler(stage: Stage, scene: Scene, levels: Levels) -> Sampler:
    if stage.solver == "scheduler":
        return Stepper(dict.fromkeys(scene.streams, levels.scheduler))
    if stage.solver == "euler":
        return Euler()

    def keep(tokens: Streams) -> Streams:
        return {name: scene.streams[name].held(each) for name, each in tokens.items()}

    return Res2s(keep=keep)


def _steps(levels: Levels, like: Tensor) -> list[Step]:
    sigmas, times = levels.sigmas.to(like.device), levels.times.to(like.device)
    return [Step(sigmas[:, i], sigmas[:, i + 1], times[:, i]) for i in range(len(levels))]


@dataclass(frozen=True, slots=True, eq=False)
class _Denoise:
    """What a sampler asks: the clean streams, as all passes of a stage together predict them."""

    denoiser: Denoiser
    scene: Scene
    stage: Stage

    def __call__(self, tokens: Streams, sigma: Tensor, time: Tensor) -> Streams:
        guidance, scene = self.stage.guidance, self.scene
        moment = Moment(sigma, time, self.stage, guidance.passes)
        velocities = self.denoiser.predict(scene, tokens, moment)
        level = sigma[:, None, None]
        clean: dict[Modality, Tensor] = {}
        for name, stream in scene.streams.items():
            x0 = {each: tokens[name] - made[name] * level for each, made in velocities.items()}
            guides = guidance.audio if name == "audio" else guidance.video
            clean[name] = stream.held(guided(x0, guides, stream.real))
        return clean


@dataclass(frozen=True, slots=True, eq=False)
class _Noise:
    """What a sampler draws: fresh noise for every row of a scene, from its own generator."""

    scene: Scene
    call: Call

    def __call__(self) -> Streams:
        made: dict[Modality, Tensor] = {}
        for name, stream in self.scene.streams.items():
            rows, tokens, channels = stream.tokens.shape
            counts = [tokens] * rows
            if stream.real is not None:
                counts = [int(row.sum()) for row in stream.real]
            drawn = noise(self.call.draws, [(count, channels) for count in counts])
            out = stream.tokens.new_zeros(stream.tokens.shape)
            for row, own in zip(out, drawn, strict=True):
                row[: own.shape[1]] = own[0]
            made[name] = out
        return made
