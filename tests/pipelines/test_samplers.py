"""Samplers: the schedulers' own bits, orders of convergence, laws of noise, rows alone."""

from __future__ import annotations

from fractions import Fraction
from math import exp, factorial, log, sqrt
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from loraloom.errors import InvalidRequestError, ModelError
from loraloom.pipelines.samplers import FLOOR, SAMPLERS, Euler, Res2s, Step, Stepper, phi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from loraloom.core.stage import Modality
    from loraloom.pipelines.samplers import Denoise, Noise, Sampler, Streams

MEAN, DEVIATION = 0.7, 0.5
"""Of the Gaussian data whose denoiser and flow are known."""

SHORT = (0.9, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05, 0.03, 0.018, 0.0)
LONG = (0.95, 0.6, 0.2, 0.1, 0.02, 0.0)
"""Schedules whose steps have h below and above 0.5."""


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


Shapes: TypeAlias = "Mapping[Modality, tuple[int, ...]]"


def noise_of(shapes: Shapes, seeds: Sequence[int]) -> Noise:
    """Every row from its own generator."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def noise() -> Streams:
        return {
            name: torch.stack([torch.randn(shape[1:], generator=own) for own in generators])
            for name, shape in shapes.items()
        }

    return noise


def silent() -> Streams:
    pytest.fail("a deterministic sampler drew noise")


def spread(sigma: float) -> float:
    """The standard deviation of the Gaussian data at a noise level."""
    return sqrt((1 - sigma) ** 2 * DEVIATION**2 + sigma**2)


def gaussian(streams: Streams, sigma: Tensor, time: Tensor) -> Streams:
    """The exact denoiser of Gaussian data."""
    level = sigma.double()[:, None, None]
    share = (1 - level) * DEVIATION**2 / ((1 - level) ** 2 * DEVIATION**2 + level**2)
    return {n: (MEAN + share * (x - (1 - level) * MEAN)).float() for n, x in streams.items()}


def flow(x: Tensor, start: float, end: float) -> Tensor:
    """Where the exact flow of Gaussian data leads."""
    return (1 - end) * MEAN + spread(end) / spread(start) * (x - (1 - start) * MEAN)


def walk(
    sampler: Sampler, streams: Streams, schedules: Tensor, denoise: Denoise, noise: Noise = silent
) -> Streams:
    """``schedules`` [B, steps + 1], a row of levels for every row of the batch."""
    for i in range(schedules.shape[1] - 1):
        sigma, after = schedules[:, i], schedules[:, i + 1]
        streams = sampler.advance(streams, Step(sigma, after, sigma * 1000), denoise, noise)
    return streams


def schedule(levels: Sequence[float], rows: int = 1) -> Tensor:
    return torch.tensor([levels] * rows, dtype=torch.float32)


def curved(streams: Streams, sigma: Tensor, time: Tensor) -> Streams:
    """A prediction that depends on everything a model is given."""
    level, told = sigma[:, None, None], time[:, None, None]
    return {n: torch.sin(3 * x + level) + told / 4000 for n, x in streams.items()}


# Euler


def test_euler_is_the_schedulers_step_bit_for_bit_in_rows_of_unlike_schedules() -> None:
    schedulers = [FlowMatchEulerDiscreteScheduler(shift=shift) for shift in (1.0, 3.0, 7.0)]
    for one in schedulers:
        one.set_timesteps(8)
    schedules = torch.stack([one.sigmas for one in schedulers])
    x, wants = drawn(3, 5, 4), []
    for row, scheduler in enumerate(schedulers):
        want = x[row : row + 1]
        for i, time in enumerate(scheduler.timesteps):
            sigma = scheduler.sigmas[i : i + 1]
            clean = curved({"video": want}, sigma, sigma * 1000)["video"]
            velocity = (want - clean) / sigma
            want = scheduler.step(velocity, time, want, return_dict=False)[0]
        wants.append(want)
    got = walk(Euler(), {"video": x}, schedules, curved)["video"]
    assert torch.equal(got, torch.cat(wants))


# order of convergence


def error(sampler: Sampler, steps: int) -> float:
    """How far the end at 0.05 is from the exact flow's."""
    levels = [0.95 * (0.05 / 0.95) ** (i / steps) for i in range(steps + 1)]
    x = drawn(1, 64, 8)
    got = walk(sampler, {"video": x}, schedule(levels), gaussian)["video"]
    return float((got - flow(x, 0.95, 0.05)).abs().max())


@pytest.mark.parametrize(("sampler", "order"), [(Euler(), 1), (Res2s(eta=0), 2)])
def test_an_error_falls_with_the_order_of_the_sampler(sampler: Sampler, order: int) -> None:
    errors = [error(sampler, steps) for steps in (8, 16, 32)]
    rates = [log(errors[0] / errors[1], 2), log(errors[1] / errors[2], 2)]
    assert rates == pytest.approx([order, order], abs=0.25)


def test_res2s_reaches_the_end_of_the_flow() -> None:
    x = drawn(1, 64, 8)
    misses = [
        float((end["video"] - flow(x, SHORT[0], 0.0)).abs().max())
        for end in (
            walk(sampler, {"video": x}, schedule(SHORT), gaussian)
            for sampler in (Res2s(eta=0), Euler())
        )
    ]
    assert misses[0] < 0.02
    assert misses[1] > 0.1


# phi


@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("z", [0.0, 1e-12, 1e-6, 1e-3, 0.2, 0.5, 0.999, 1.0, 1.5, 4.0, 7.0])
def test_phi_is_its_series(order: int, z: float) -> None:
    terms = (Fraction(-z) ** j / factorial(j + order) for j in range(60))
    got = phi(order, torch.tensor([-z], dtype=torch.float64))
    assert got.item() == pytest.approx(float(sum(terms)), rel=5e-15)


# Res2s against its formulas spelled out


def spelled(
    x: float,
    levels: tuple[float, float],
    predict: Callable[[float, float], float],
    noise: Iterator[float],
) -> float:
    """One step of the reference in numbers: its coefficients, its hundred iterations."""
    sigma, after = levels
    middle, h = sqrt(sigma * after), log(sigma / after)
    phi_1, phi_2 = (exp(-h) - 1) / -h, (exp(-h) - 1 + h) / h**2
    a21, b2 = 0.5 * (exp(-h / 2) - 1) / (-h / 2), phi_2 / 0.5
    b1 = phi_1 - b2

    def renoised(start: float, end: float, low: float) -> float:
        up = 0.5 * low
        residual = sqrt(low**2 - up**2)
        ratio = 1 - low + residual
        slope = (start - end) / (sigma - low)
        return ratio * (start - sigma * slope + residual / ratio * slope) + up * next(noise)

    first, anchor = predict(x, sigma), x
    half = renoised(x, x + h * a21 * (first - x), middle)
    if h < 0.5 and sigma > 0.03:
        for _ in range(100):
            anchor = half - h * a21 * (first - anchor)
    second = predict(half, middle)
    end = anchor + h * (b1 * (first - anchor) + b2 * (second - anchor))
    return renoised(anchor, end, after)


@pytest.mark.parametrize(
    "levels", [(1.0, 0.7), (0.8, 0.5), (0.8, 0.3), (0.03, 0.02), (0.031, 0.02)]
)
def test_a_step_of_res2s_is_the_reference_formula(levels: tuple[float, float]) -> None:
    sigma, after = (float(torch.tensor(level)) for level in levels)  # as float32 has them
    x, noise = drawn(1, 6, 4), [drawn(1, 6, 4, seed=5) * 3 + 1, drawn(1, 6, 4, seed=6)]
    supply = iter(noise)
    got = walk(Res2s(), {"audio": x}, schedule(levels), curved, lambda: {"audio": next(supply)})[
        "audio"
    ]

    def predict(value: float, level: float) -> float:
        told = torch.tensor([level * 1000])
        there: Streams = {"audio": torch.full((1, 1, 1), value)}
        return float(curved(there, torch.tensor([level]), told)["audio"])

    units = [((one - one.mean()) / one.std()).double().flatten() for one in noise]
    wants = [
        spelled(float(value), (sigma, after), predict, iter([float(one[i]) for one in units]))
        for i, value in enumerate(x.flatten())
    ]
    assert got.flatten().tolist() == pytest.approx(wants, abs=2e-5)


def test_a_step_to_zero_takes_the_prediction_at_the_floor() -> None:
    asked: list[tuple[float, float]] = []

    def denoise(streams: Streams, sigma: Tensor, time: Tensor) -> Streams:
        asked.append((float(sigma), float(time)))
        return gaussian(streams, sigma, time)

    x: Streams = {"video": drawn(1, 4, 4)}
    implied = walk(Res2s(eta=0), x, schedule([0.5, 0.0]), denoise)["video"]
    levels = [0.5, sqrt(0.5 * FLOOR), FLOOR]
    assert [sigma for sigma, _ in asked] == pytest.approx(levels)
    assert [time for _, time in asked] == pytest.approx([1000 * level for level in levels])
    asked.clear()
    written = walk(Res2s(eta=0), x, schedule([0.5, FLOOR, 0.0]), denoise)["video"]
    assert [sigma for sigma, _ in asked] == pytest.approx(levels)
    assert torch.equal(implied, written)


# noise


@pytest.mark.parametrize("levels", [SHORT[:-1], LONG[:-1]])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_known_data_keeps_noise_of_unit_variance(levels: tuple[float, ...], eta: float) -> None:
    known = drawn(4, 64, 64, seed=1)
    x = (1 - levels[0]) * known + levels[0] * drawn(4, 64, 64, seed=2)
    noise = noise_of({"video": tuple(x.shape)}, range(90, 94))
    end = walk(Res2s(eta), {"video": x}, schedule(levels, 4), lambda *_: {"video": known}, noise)[
        "video"
    ]
    grain = (end - (1 - levels[-1]) * known) / levels[-1]
    assert float(grain.mean()) == pytest.approx(0, abs=0.02)
    assert float(grain.std()) == pytest.approx(1, abs=0.02)
    assert float((grain * known).mean()) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(("eta", "tolerance"), [(0.2, 0.015), (0.5, 0.05)])
def test_gaussian_data_comes_out_with_its_mean_and_variance(eta: float, tolerance: float) -> None:
    """At a large ``eta`` a point prediction of the grain varies too little; the rule's own bias."""
    shape, steps = (16, 64, 64), 24
    levels = [*(0.98 * 0.8**i for i in range(steps)), 0.0]
    x = (1 - levels[0]) * MEAN + spread(levels[0]) * drawn(*shape, seed=3)
    noise = noise_of({"video": shape}, range(90, 90 + shape[0]))
    end = walk(Res2s(eta), {"video": x}, schedule(levels, shape[0]), gaussian, noise)["video"]
    assert float(end.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(end.std()) == pytest.approx(DEVIATION, rel=tolerance)


def test_equal_seeds_give_equal_bits_and_others_do_not() -> None:
    shapes: Shapes = {"video": (2, 6, 4), "audio": (2, 3, 4)}
    start: Streams = {name: drawn(*shape) for name, shape in shapes.items()}
    ends = [
        walk(Res2s(), start, schedule(SHORT, 2), curved, noise_of(shapes, seeds))
        for seeds in ((1, 2), (1, 2), (1, 3))
    ]
    for name in shapes:
        assert torch.equal(ends[0][name], ends[1][name])
        assert torch.equal(ends[0][name][0], ends[2][name][0])
        assert not torch.equal(ends[0][name][1], ends[2][name][1])


def test_tokens_of_conditions_stay_where_keep_puts_them() -> None:
    clean = drawn(2, 6, 4, seed=8)
    mask = torch.ones(2, 6, 1)
    mask[0, :3], mask[1, 5] = 0, 0

    def keep(streams: Streams) -> Streams:
        return {name: x * mask + clean * (1 - mask) for name, x in streams.items()}

    def denoise(streams: Streams, sigma: Tensor, time: Tensor) -> Streams:
        assert torch.equal(streams["video"] * (1 - mask), clean * (1 - mask))
        return keep(curved(streams, sigma, time))

    start = keep({"video": drawn(2, 6, 4)})
    noise = noise_of({"video": (2, 6, 4)}, (1, 2))
    for sampler in (Res2s(keep=keep), Euler()):
        end = walk(sampler, start, schedule(SHORT, 2), denoise, noise)["video"]
        assert torch.equal(end * (1 - mask), clean * (1 - mask))
        assert not torch.equal(end, start["video"])


def test_an_eta_outside_zero_to_one_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"res2s.*1\.5"):
        Res2s(1.5)


# rows


@pytest.mark.parametrize("sampler", [Euler(), Res2s(eta=0), Res2s()])
def test_a_row_of_a_batch_is_the_row_alone(sampler: Sampler) -> None:
    schedules = torch.tensor([LONG, (*SHORT[:5], 0.0), (1.0, 0.9, 0.8, 0.7, 0.002, 0.0)])
    shapes: Shapes = {"video": (3, 6, 4), "audio": (3, 5, 2)}
    start: Streams = {name: drawn(*shape) for name, shape in shapes.items()}
    batch = walk(sampler, start, schedules, curved, noise_of(shapes, (1, 2, 3)))
    for row in range(3):
        own = {name: x[row : row + 1] for name, x in start.items()}
        alone = walk(sampler, own, schedules[row : row + 1], curved, noise_of(shapes, (row + 1,)))
        for name in shapes:
            assert torch.equal(batch[name][row : row + 1], alone[name])


# Stepper


def unipc() -> Any:
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )


def dpm() -> Any:
    return DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )


@pytest.mark.parametrize("make", [unipc, dpm, FlowMatchEulerDiscreteScheduler])
def test_a_stepper_is_its_scheduler_stepped_by_hand(make: Callable[[], Any]) -> None:
    hand = make()
    hand.set_timesteps(6)
    stepper = Stepper({"video": hand, "audio": hand})
    shapes: Shapes = {"video": (2, 6, 4), "audio": (2, 5, 4)}
    start: Streams = {name: drawn(*shape) for name, shape in shapes.items()}
    got: Streams = start
    for i, time in enumerate(hand.timesteps):
        sigma, after = (hand.sigmas[i + j].expand(2) for j in (0, 1))
        step = Step(sigma, after, time.float().expand(2))
        got = stepper.advance(got, step, curved, silent)
    want = start["video"]
    for i, time in enumerate(hand.timesteps):
        sigma = hand.sigmas[i].expand(2)
        clean = curved({"video": want}, sigma, time.float().expand(2))["video"]
        want = hand.step((want - clean) / hand.sigmas[i], time, want, return_dict=False)[0]
    assert torch.equal(got["video"], want)
    assert not torch.equal(got["audio"], want[:, :5])


def test_a_stepper_refuses_rows_of_unlike_schedules() -> None:
    scheduler = unipc()
    scheduler.set_timesteps(4)
    sigma, after, time = scheduler.sigmas[:2], scheduler.sigmas[1:3], scheduler.timesteps[:2]
    with pytest.raises(AssertionError, match="one schedule"):
        Stepper({"video": scheduler}).advance(
            {"video": drawn(2, 3, 4)}, Step(sigma, after, time), curved, silent
        )


def test_a_stepper_refuses_a_schedule_that_is_not_its_schedulers() -> None:
    scheduler = unipc()
    scheduler.set_timesteps(4)
    step = Step(torch.tensor([0.9]), torch.tensor([0.5]), torch.tensor([900.0]))
    with pytest.raises(AssertionError, match="another schedule"):
        Stepper({"video": scheduler}).advance({"video": drawn(1, 3, 4)}, step, curved, silent)


@pytest.mark.parametrize(
    ("scheduler", "why"),
    [
        (UniPCMultistepScheduler(), "epsilon"),
        (FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), "noise"),
        (
            DPMSolverMultistepScheduler(
                prediction_type="flow_prediction",
                use_flow_sigmas=True,
                algorithm_type="sde-dpmsolver++",
            ),
            "noise",
        ),
    ],
)
def test_a_stepper_refuses_other_predictions_and_noise_without_a_seed(
    scheduler: Any, why: str
) -> None:
    with pytest.raises(ModelError, match=f"'video'.*{why}"):
        Stepper({"video": scheduler})


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_calls_the_model_as_often_as_it_says(name: str) -> None:
    scheduler = unipc()
    scheduler.set_timesteps(4)
    made: dict[str, Sampler] = {
        "euler": Euler(),
        "res2s": Res2s(),
        "scheduler": Stepper({"video": scheduler}),
    }
    sampler = made[name]
    calls: list[float] = []

    def denoise(streams: Streams, sigma: Tensor, time: Tensor) -> Streams:
        calls.append(float(sigma))
        return curved(streams, sigma, time)

    sigma, after, time = scheduler.sigmas[:1], scheduler.sigmas[1:2], scheduler.timesteps[:1]
    noise = noise_of({"video": (1, 3, 4)}, [1])
    sampler.advance({"video": drawn(1, 3, 4)}, Step(sigma, after, time.float()), denoise, noise)
    assert len(calls) == sampler.evaluations
