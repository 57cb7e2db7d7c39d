"""Two experts through our stages give what diffusers' WanPipeline gives."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from loraloom import Canvas, Loom, Lora, Request
from loraloom.core.request import Sampling
from loraloom.core.schedule import Curve
from loraloom.core.stage import Guidance, Guides, Sigmas
from loraloom.engine.traffic import Run

from . import theirs, tiny

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from loraloom.core.request import Policy
    from loraloom.core.stage import Stages

WITHIN = 1e-4
STEPS = 6
GUIDANCE = {"guidance_scale": 4.0, "guidance_scale_2": 3.0}
REQUEST = Request(
    "a small red circle",
    3,
    negative_prompt="a blurry star",
    canvas=Canvas(48, 32, 5, 16.0),
    sampling=Sampling(steps=STEPS),
)
MIXES: dict[str, dict[str, float]] = {
    "nothing": {},
    "high": {"high": 0.7},
    "low": {"low": 0.5},
    "both": {"high": 0.7, "low": -0.5},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("wan"))


@pytest.fixture(scope="module")
def ours(folder: Path) -> Loom:
    loom = Loom.load(str(folder))
    loom.adapters.add("high", folder / "high.safetensors")
    loom.adapters.add("low", folder / "low.safetensors", component="transformer_2")
    loom.adapters.add("other", folder / "other.safetensors")
    return loom


@pytest.fixture(scope="module")
def peer(folder: Path) -> theirs.Peer:
    return theirs.Peer(folder)


def wearing(mix: Mapping[str, float], **changes: Any) -> Request:
    return replace(REQUEST, loras=tuple(Lora(n, s) for n, s in mix.items()), **changes)


def latents(loom: Loom, request: Request, policy: Policy = "live") -> Tensor:
    return loom.latents([request], policy=policy)[0]


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


@pytest.mark.parametrize("policy", ["live", "fused"])
@pytest.mark.parametrize("mix", MIXES)
def test_latents_are_those_of_diffusers(
    mix: str, policy: Policy, ours: Loom, peer: theirs.Peer
) -> None:
    want = peer.latents(REQUEST, MIXES[mix], STEPS, **GUIDANCE)
    assert distance(latents(ours, wearing(MIXES[mix]), policy), want) <= WITHIN
    if mix != "nothing":
        bare = peer.latents(REQUEST, {}, STEPS, **GUIDANCE)
        assert distance(bare, want) > 1000 * WITHIN


@pytest.mark.parametrize(
    ("boundary", "steps"),
    [
        (0.0, 4),  # none below, and none is asked to stop
        (0.2, 4),  # none below
        (0.999, 4),  # the first alone: its level is 0.999999 and its time 999
        (1.0, 4),  # none above
        (0.9374, 6),  # a level of 0.9375 above it, whose time of 937 is below it
        (0.937, 6),  # a time that is the boundary
        (0.9375, 6),
    ],
)
def test_the_experts_part_where_diffusers_has_them(
    boundary: float, steps: int, ours: Loom, peer: theirs.Peer
) -> None:
    high, low = ours.card.defaults.usual
    stages: Stages = (replace(high, sigmas=Sigmas(steps, until=boundary)), low)
    if not boundary:
        stages = (replace(high, sigmas=Sigmas(steps)),)
    peer.pipe.register_to_config(boundary_ratio=boundary)
    want = peer.latents(REQUEST, MIXES["both"], steps, **GUIDANCE)
    peer.pipe.register_to_config(boundary_ratio=tiny.BOUNDARY)
    request = wearing(MIXES["both"], stages=stages, sampling=None)
    assert distance(latents(ours, request), want) <= WITHIN


def test_steps_whose_times_are_equal_are_told_apart(ours: Loom, peer: theirs.Peer) -> None:
    """A strong shift crowds the first steps into one whole-numbered time."""
    schedulers = [pipe.scheduler for pipe in (ours.pipe, peer.pipe)]
    crowded = type(schedulers[0]).from_config(schedulers[0].config, flow_shift=2000.0)
    crowded.set_timesteps(STEPS)
    assert len(set(crowded.timesteps.tolist())) < STEPS
    try:
        ours.pipe.scheduler = peer.pipe.scheduler = crowded
        want = peer.latents(REQUEST, MIXES["both"], STEPS, **GUIDANCE)
        got = latents(ours, wearing(MIXES["both"]))
    finally:
        ours.pipe.scheduler, peer.pipe.scheduler = schedulers
    assert distance(got, want) <= WITHIN


def test_without_guidance_there_is_one_pass(ours: Loom, peer: theirs.Peer) -> None:
    want = peer.latents(REQUEST, MIXES["both"], STEPS, guidance_scale=1.0)
    request = wearing(MIXES["both"], sampling=Sampling(steps=STEPS, guidance=1.0))
    assert distance(latents(ours, request), want) <= WITHIN


def test_one_expert_may_be_guided_and_the_other_not(ours: Loom, peer: theirs.Peer) -> None:
    options = {"guidance_scale": 4.0, "guidance_scale_2": 1.0}
    want = peer.latents(REQUEST, {}, STEPS, **options)
    high, low = ours.card.defaults.usual
    request = replace(REQUEST, stages=(high, replace(low, guidance=Guidance(Guides(1.0)))))
    assert distance(latents(ours, request), want) <= WITHIN


@pytest.mark.parametrize("frames", [1, 9])
def test_pictures_and_longer_videos_are_those_of_diffusers(
    frames: int, ours: Loom, peer: theirs.Peer
) -> None:
    request = wearing(MIXES["both"], canvas=Canvas(32, 48, frames, 16.0))
    want = peer.latents(request, MIXES["both"], STEPS, **GUIDANCE)
    assert distance(latents(ours, request), want) <= WITHIN


def test_a_mixed_batch_is_every_request_alone(ours: Loom) -> None:
    fading = Lora("high", 0.8, Curve.window(0.0, 0.7, 0.3))
    everywhere = Lora("other", 1.0, Curve.window(0.2, 1.0))
    requests = [
        wearing(MIXES["nothing"], seed=0),
        wearing(MIXES["high"], prompt="two boats", seed=1),
        wearing(MIXES["low"], negative_prompt="", seed=2),
        wearing(MIXES["both"], prompt="a green star", seed=3),
        replace(REQUEST, loras=(fading, everywhere), seed=4),
    ]
    ticks = []
    together = ours.latents(requests, progress=lambda tick: ticks.append((tick.done, tick.stage)))
    assert ticks == [(1, "high"), (2, "high"), *((n, "low") for n in range(3, STEPS + 1))]
    for request, row in zip(requests, together, strict=True):
        assert distance(row, latents(ours, request)) <= WITHIN


def test_a_schedule_runs_over_both_experts(folder: Path, ours: Loom) -> None:
    """What acts in the last half alone is nothing on the expert that is done by then."""
    late = Curve.window(0.5, 1.0)
    half = replace(REQUEST, loras=(Lora("high", 1.0, late),))
    assert torch.equal(latents(ours, half), latents(ours, wearing({})))
    ours.adapters.add("pair", folder / "both.safetensors")
    paired = replace(REQUEST, loras=(Lora("pair", 1.0, late),))
    alone = replace(REQUEST, loras=(Lora("low", 1.0, late),))
    assert torch.equal(latents(ours, paired), latents(ours, alone))
    assert distance(latents(ours, paired), latents(ours, wearing({"low": 1.0}))) > WITHIN


def test_strengths_by_stage_are_strengths_by_expert(folder: Path, ours: Loom) -> None:
    ours.adapters.add("pair", folder / "both.safetensors")
    paired = replace(REQUEST, loras=(Lora("pair", stages=(0.7, -0.5)),))
    assert distance(latents(ours, paired), latents(ours, wearing(MIXES["both"]))) <= WITHIN


def test_weights_are_as_before_to_the_bit(folder: Path, ours: Loom) -> None:
    def weights() -> dict[str, Tensor]:
        parts = {name: getattr(ours.pipe, name) for name in theirs.EXPERTS.values()}
        return {f"{n}.{k}": v.clone() for n, p in parts.items() for k, v in p.state_dict().items()}

    pristine = Loom.load(str(folder)).pipe
    before = weights()
    for policy in ("fused", "live", "auto"):
        ours.latents([wearing(MIXES["both"]), wearing(MIXES["high"])], policy=policy)
    ours.bare()
    for name, value in weights().items():
        component, _, key = name.partition(".")
        assert torch.equal(value, before[name])
        assert torch.equal(value, getattr(pristine, component).state_dict()[key])


@pytest.mark.parametrize("every_token", [False, True])
def test_a_single_expert_is_a_pipeline_of_one_stage(*, every_token: bool, tmp_path: Path) -> None:
    """Wan 2.1, and Wan 2.2 TI2V, which is told a time of every token."""
    root = tiny.folder(tmp_path, experts=1, every_token=every_token)
    loom = Loom.load(str(root))
    loom.adapters.add("high", root / "high.safetensors")
    want = theirs.Peer(root).latents(REQUEST, MIXES["high"], STEPS, guidance_scale=5.0)
    assert distance(latents(loom, wearing(MIXES["high"])), want) <= WITHIN
    assert [stage.name for stage in loom.card.defaults.usual] == ["base"]


def test_given_levels_are_taken_as_they_are(ours: Loom) -> None:
    """A few steps of a distilled pair; a scheduler's step to the level 0 is Euler's."""
    high, low = ours.card.defaults.usual
    given = replace(high, sigmas=Sigmas(given=(1.0, 0.9375, 0.8, 0.6), until=0.9))
    stages = (given, low)
    request = replace(wearing(MIXES["both"]), stages=stages, sampling=None)
    euler = tuple(replace(stage, solver="euler") for stage in stages)
    one, other = latents(ours, request), latents(ours, replace(request, stages=euler))
    assert not torch.equal(one, other)
    assert torch.isfinite(one).all()
    assert torch.isfinite(other).all()


def test_calls_of_both_experts_grow_with_the_steps(folder: Path) -> None:
    """What the policy ``auto`` reckons with, of a run that it has not seen."""
    loom = Loom.load(str(folder))
    loom.latents([replace(REQUEST, sampling=Sampling(steps=8))], policy="auto")
    ((shape, (steps, _)),) = loom.auto.traffic.seen.items()
    for model in loom.models:
        site = "blocks.0.attn1.to_q"
        once, twice = (loom.auto.traffic.flow(model, site, Run(shape, n * steps)) for n in (1, 2))
        assert 0 < once.calls < steps
        assert twice.calls == 2 * once.calls
