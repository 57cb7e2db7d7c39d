"""How a denoising loop goes from one noise level to the next: one step of a flow-matching sampler.

Data ``x`` at noise level ``sigma`` is ``(1 - sigma) * clean + sigma * grain``, grain being standard
normal; a model predicts ``clean``, and ``grain - clean`` is the velocity.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from math import factorial, isclose, sqrt
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

import torch

from loraloom.errors import InvalidRequestError, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from loraloom.core.stage import Modality, Solver

Streams: TypeAlias = "Mapping[Modality, Tensor]"
"""Latents [B, S, C] in float32 by modality."""

Denoise: TypeAlias = "Callable[[Streams, Tensor, Tensor], Streams]"
"""Clean data as predicted, guided, at ``sigma`` and ``time`` [B]; tokens of conditions put back."""

Noise: TypeAlias = "Callable[[], Streams]"
"""Fresh standard normal noise like the streams, each row from its own generator."""

Keep: TypeAlias = "Callable[[Streams], Streams]"
"""Streams with the tokens of conditions put back: ``x * mask + clean * (1 - mask)``."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the schedules of a batch; rows may differ."""

    sigma: Tensor  # [B] float32, before the step
    after: Tensor  # [B] float32, after it; 0 at the end
    time: Tensor  # [B] what the model is told: in proportion to sigma, up to truncation

    def told(self, sigma: Tensor) -> Tensor:
        """What the model is told of another level [B], in the units of this step."""
        return (sigma.double() * self.time.double() / self.sigma.double()).float()


class Sampler(Protocol):
    """What takes one step; one that has state belongs to one run."""

    @property
    def evaluations(self) -> int:
        """Model calls a step."""

    def advance(self, streams: Streams, step: Step, denoise: Denoise, noise: Noise) -> Streams:
        """The streams at ``step.after``."""


class Euler:
    """A straight line along the velocity; the bits of diffusers' FlowMatchEulerDiscreteScheduler.

    A token whose prediction is itself, as those of conditions, stays bit for bit.
    """

    evaluations: ClassVar[int] = 1

    def advance(self, streams: Streams, step: Step, denoise: Denoise, noise: Noise) -> Streams:
        del noise
        clean = denoise(streams, step.sigma, step.time)
        change = _column(step.after - step.sigma)
        return {
            name: x + change * _velocity(x, clean[name], step.sigma) for name, x in streams.items()
        }


FLOOR = 0.0011
"""Where res_2s stops short of zero: its steps are ratios of levels."""


def _all(streams: Streams) -> Streams:
    return streams


@dataclass(frozen=True, slots=True)
class Res2s:
    """The second-order exponential integrator res_2s, with fresh noise at both of its levels.

    Integrator: RES of arXiv:2308.02157 with ``c2 = 1/2``. Noise, anchor and end: Lightricks/LTX-2,
    ``utils/samplers.py`` (``res2s_audio_video_denoising_loop``) of ltx-pipelines and
    ``components/diffusion_steps.py`` of ltx-core, at their defaults:

    * ``eta`` of the grain is drawn anew, after the half step and after the step, whatever the
      size of the step. There the half step always takes 0.5, here ``eta``; 0 draws nothing.
    * Noise has mean 0 and deviation 1 in every row.
    * A short step (of ``h < 0.5``, from above 0.03) starts again from the anchor: the point from
      which the half step leads to its noised end. There a hundred iterations, here their limit.
    * A step to 0 goes to FLOOR, and a third evaluation there is the result.
    * ``keep`` puts the tokens of conditions back after each noise; without it they would drift.
    """

    evaluations: ClassVar[int] = 2

    eta: float = 0.5
    keep: Keep = _all

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise InvalidRequestError(f"eta of sampler 'res2s' is {self.eta}, wanted 0 to 1")

    def advance(self, streams: Streams, step: Step, denoise: Denoise, noise: Noise) -> Streams:
        if bool((step.after > 0).all()):
            return self._jump(streams, step, denoise, noise)
        assert not bool(step.after.any()), "the rows of a batch end together"
        floor = step.sigma.clamp(max=FLOOR)
        if bool((step.sigma > FLOOR).any()):
            streams = self._jump(streams, replace(step, after=floor), denoise, noise)
        return denoise(streams, floor, step.told(floor))

    def _jump(self, streams: Streams, step: Step, denoise: Denoise, noise: Noise) -> Streams:
        """A step between two levels above zero, in float64."""
        whole = _Leap(step.sigma.double(), step.after.double())
        half = _Leap(whole.sigma, (whole.sigma * whole.after).sqrt())
        first = denoise(streams, step.sigma, step.time)
        straight = {name: half.line(x, first[name]) for name, x in streams.items()}
        middle = self._renoised(streams, straight, half, noise)
        anchor = {name: whole.anchor(x, middle[name], first[name]) for name, x in streams.items()}
        second = denoise(_single(middle), half.after.float(), step.told(half.after))
        end = {
            name: whole.line(x, first[name]) + whole.bend * (second[name].double() - first[name])
            for name, x in anchor.items()
        }
        return _single(self._renoised(anchor, end, whole, noise))

    def _renoised(self, start: Streams, end: Streams, leap: _Leap, noise: Noise) -> Streams:
        """The end of a leap with ``eta`` of its grain drawn anew."""
        if self.eta > 0:
            fresh = {name: self.eta * _unit(drawn) for name, drawn in noise().items()}
            kept = sqrt(1 - self.eta**2)
            end = {name: leap.mixed(start[name], x, kept, fresh[name]) for name, x in end.items()}
        return self.keep(end)


@dataclass(frozen=True, slots=True)
class _Leap:
    """From one noise level [B] to a lower one above zero, in float64."""

    sigma: Tensor
    after: Tensor

    @property
    def h(self) -> Tensor:
        return _column((self.sigma / self.after).log())

    @property
    def bend(self) -> Tensor:
        """The weight of what the prediction changes by at the middle: ``h * b2``."""
        return self.h * phi(2, -self.h) / 0.5

    def line(self, x: Tensor, clean: Tensor) -> Tensor:
        """The end, if the model predicts the same all the way."""
        return x + self.h * phi(1, -self.h) * (clean.double() - x)

    def anchor(self, x: Tensor, middle: Tensor, clean: Tensor) -> Tensor:
        """Where a leap starts whose middle is ``middle``; a long one starts where it did."""
        short = (self.h < 0.5) & (_column(self.sigma) > 0.03)
        return torch.where(short, clean + (self.h / 2).exp() * (middle - clean), x.double())

    def mixed(self, start: Tensor, end: Tensor, kept: float, fresh: Tensor) -> Tensor:
        """``end`` with ``kept`` of its grain and ``fresh`` in the place of the rest."""
        sigma, after = _column(self.sigma), _column(self.after)
        velocity = (start - end) / (sigma - after)
        grain = start + (1 - sigma) * velocity
        return end + after * ((kept - 1) * grain + fresh)


class Stepper:
    """diffusers' flow schedulers as a sampler, a copy for every stream: they remember steps.

    ``scheduler_by_stream`` have their timesteps set. All rows of a batch must have one schedule.
    """

    evaluations: ClassVar[int] = 1

    def __init__(self, scheduler_by_stream: Mapping[Modality, Any]) -> None:
        for name, scheduler in scheduler_by_stream.items():
            _refuse(name, scheduler)
        self._schedulers = {name: deepcopy(one) for name, one in scheduler_by_stream.items()}
        for scheduler in self._schedulers.values():
            # steps so close that their whole-numbered times are equal cannot be told by them
            scheduler.set_begin_index(0)

    def advance(self, streams: Streams, step: Step, denoise: Denoise, noise: Noise) -> Streams:
        del noise
        assert bool((step.sigma == step.sigma[0]).all()), "a scheduler has one schedule"
        clean = denoise(streams, step.sigma, step.time)
        following: dict[Modality, Tensor] = {}
        for name, x in streams.items():
            scheduler, velocity = self._schedulers[name], _velocity(x, clean[name], step.sigma)
            (following[name],) = scheduler.step(velocity, step.time[0], x, return_dict=False)
            # a time that is none of its timesteps is taken for the last one
            level = float(scheduler.sigmas[scheduler.step_index - 1])
            assert isclose(level, float(step.sigma[0]), rel_tol=1e-4), "another schedule"
        return following


SAMPLERS: Mapping[Solver, type[Euler] | type[Res2s] | type[Stepper]]
SAMPLERS = {"euler": Euler, "res2s": Res2s, "scheduler": Stepper}


def phi(order: int, z: Tensor) -> Tensor:
    """``phi_0 = exp``, ``phi_k(z) = (phi_{k-1}(z) - 1 / (k-1)!) / z``; float64 to a few ulps."""
    series = torch.ones_like(z)
    for term in range(18, 0, -1):
        series = 1 + series * z / (order + term)
    near = z.abs() < 1  # where the recursion cancels, the series is exact
    far = torch.where(near, 1, z)
    value = far.exp()
    for lower in range(order):
        value = (value - 1 / factorial(lower)) / far
    return torch.where(near, series / factorial(order), value)


def _column(values: Tensor) -> Tensor:
    return values[:, None, None]


def _velocity(x: Tensor, clean: Tensor, sigma: Tensor) -> Tensor:
    return (x - clean) / _column(sigma)


def _single(streams: Streams) -> Streams:
    return {name: x.float() for name, x in streams.items()}


def _unit(noise: Tensor) -> Tensor:
    """Noise with mean 0 and deviation 1 over the tokens and channels of every row."""
    noise = noise.double()
    centred = noise - noise.mean((-2, -1), keepdim=True)
    return centred / centred.std((-2, -1), keepdim=True)


def _refuse(name: str, scheduler: Any) -> None:
    """Raise ``ModelError`` for a scheduler of other predictions, or of noise of its own."""
    who = f"scheduler {type(scheduler).__name__} of stream {name!r}"
    predicts = scheduler.config.get("prediction_type", "flow_prediction")
    if predicts != "flow_prediction":
        raise ModelError(f"{who} takes prediction_type {predicts!r}, wanted 'flow_prediction'")
    algorithm = scheduler.config.get("algorithm_type", "")
    if scheduler.config.get("stochastic_sampling") or algorithm.startswith("sde-"):
        raise ModelError(f"{who} draws noise that no seed of a request decides")
