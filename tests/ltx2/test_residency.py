"""Every way to keep what stages wear gives the same, and no request leaves a trace."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from loraloom import Canvas, Loom, Lora, Request
from loraloom.core.stage import Guidance, Guides, Sigmas, Stage
from loraloom.engine.means import Means
from loraloom.memory.residency import Residency, resident, snapshot
from loraloom.memory.staging import FASTEST, Mode, Order, Sizes, plan
from loraloom.models.ltx2.family import REFINE

from . import tiny

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from loraloom.core.request import Policy
    from loraloom.core.stage import Modality
    from loraloom.engine.run import Tick

    Streams = Mapping[Modality, torch.Tensor]

WITHIN = 1e-4
USES = (
    ("text_encoder",),
    ("connectors",),
    ("transformer",),
    ("latent_upsampler",),
    ("connectors",),
    ("transformer",),
    ("vae",),
    ("audio_vae", "vocoder"),
)
BASE = Stage("base", Sigmas(3), 0.5, guidance=Guidance(Guides(3.0), Guides(3.0)))
TWO = Request("a circle", 1, canvas=Canvas(64, 64, 9, 16.0), stages=(BASE, REFINE))
STYLE, OTHER = Lora("style", 0.8), Lora("style2", -0.6)
TRAFFIC = (
    (TWO,),
    (replace(TWO, loras=(STYLE,)),),
    (replace(TWO, loras=(STYLE, Lora("distilled", stages=(0.25, 0.5)))),),
    (replace(TWO, loras=(Lora("style", stages=(1.0, 0.3)), OTHER), seed=2), TWO),
    (replace(TWO, loras=(Lora("distilled", 0.0),)),),
    (TWO,),
)
"""Batches in which the stages' own adapter is worn as they say, otherwise, and not at all."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder("2.3", tmp_path_factory.mktemp("residency"))


@pytest.fixture(scope="module")
def plain(folder: Path) -> Loom:
    return load(folder)


def load(folder: Path, mode: Mode = "original", order: Order = "together") -> Loom:
    components = Loom.load(str(folder)).denoiser.components if order != "together" else {}
    sizes = Sizes({name: size_of(part) for name, part in components.items()}, changed=1 << 24)
    made = plan(mode, order, sizes, USES if components else ())
    return with_styles(Loom.load(str(folder), plan=made), folder)


def with_styles(loom: Loom, folder: Path) -> Loom:
    loom.adapters.add("style2", folder / "adapters" / "style2")
    return loom


def size_of(module: torch.nn.Module) -> int:
    return sum(each.nbytes for each in (*module.parameters(), *module.buffers()))


def weights(loom: Loom) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": value.clone()
        for part, module in loom.denoiser.components.items()
        for name, value in module.state_dict().items()
    }


def assert_same_bits(loom: Loom, before: Mapping[str, torch.Tensor]) -> None:
    now = weights(loom)
    assert now.keys() == before.keys()
    assert all(torch.equal(now[name], value) for name, value in before.items())


def assert_near(got: Streams, want: Streams) -> None:
    for name, value in want.items():
        assert float((got[name] - value).abs().max()) <= WITHIN


@pytest.mark.parametrize(("mode", "order"), FASTEST)
def test_every_plan_gives_the_latents_of_every_other(
    mode: Mode, order: Order, folder: Path, plain: Loom
) -> None:
    loom = load(folder, mode, order)
    before = weights(loom)
    for batch in TRAFFIC:
        got, want = loom.streams(batch), plain.streams(batch)
        for mine, theirs in zip(got, want, strict=True):
            assert_near(mine, theirs)
        assert_same_bits(loom, before)


@pytest.mark.parametrize("residency", [snapshot(1 << 24), resident(1 << 24)], ids=str)
def test_where_copies_are_kept_the_stages_own_is_fused_and_the_users_adds_up(
    residency: Residency, folder: Path
) -> None:
    loom = with_styles(Loom.load(str(folder), means=Means(residency)), folder)
    pristine = weights(loom)
    seen: dict[str, set[bool]] = {"base": set(), "refine": set()}

    def look(tick: Tick) -> None:
        layer = loom.models[0].weights.layers["transformer_blocks.0.attn1.to_q"].weight
        name = "transformer.transformer_blocks.0.attn1.to_q.weight"
        seen[tick.stage].add(torch.equal(layer, pristine[name]))

    result = loom.videos([replace(TWO, loras=(STYLE,))], progress=look)[0]
    assert {worn.name: worn.manner.mode for worn in result.worn} == {
        "distilled": "fused",
        "style": "live",
    }
    # what a step wears is put on before it and told after it
    assert seen == {"base": {True}, "refine": {False}}


@pytest.mark.parametrize("mode", ["snapshot", "resident"])
def test_copies_are_used_under_the_policy_auto_too(mode: Mode, folder: Path, plain: Loom) -> None:
    loom = load(folder, mode)
    before = weights(loom)
    for _ in range(2):
        for batch in TRAFFIC[:4]:
            got, want = loom.streams(batch, policy="auto"), plain.streams(batch)
            for mine, theirs in zip(got, want, strict=True):
                assert_near(mine, theirs)
    (result,) = loom.images([replace(TWO, canvas=Canvas(64, 64))], policy="auto")
    assert [worn.manner.mode for worn in result.worn] == ["fused"]
    loom.bare()
    assert_same_bits(loom, before)


def test_shared_weights_never_change_under_a_request(plain: Loom) -> None:
    before = weights(plain)
    plain.streams(
        [replace(TWO, loras=(STYLE,))], progress=lambda _tick: assert_same_bits(plain, before)
    )


EVERYDAY = [("original", "together"), ("snapshot", "together"), ("original", "in turn")]
PLANS = [
    pytest.param(*each, marks=() if each in EVERYDAY else pytest.mark.slow) for each in FASTEST
]
"""All of them; what is alike in all is tried with the others in CI alone."""


class StopError(Exception):
    """What is injected."""


@pytest.mark.parametrize(("mode", "order"), PLANS)
def test_a_failure_at_any_step_leaves_no_trace(mode: Mode, order: Order, folder: Path) -> None:
    loom = load(folder, mode, order)
    before = weights(loom)
    want = loom.streams(TRAFFIC[1])[0]
    steps = 6
    for fails in range(1, steps + 1):

        def stop(tick: Tick, fails: int = fails) -> None:
            if tick.done == fails:
                raise StopError

        with pytest.raises(StopError):
            loom.streams(TRAFFIC[2], progress=stop)
        assert_same_bits(loom, before)
        again = loom.streams(TRAFFIC[1])[0]
        assert all(torch.equal(again[name], value) for name, value in want.items())


@pytest.mark.parametrize(("mode", "order"), PLANS)
@pytest.mark.parametrize("part", ["connectors", "latent_upsampler", "transformer"])
def test_a_failure_at_a_boundary_of_stages_leaves_no_trace(
    part: str, mode: Mode, order: Order, folder: Path
) -> None:
    loom = load(folder, mode, order)
    before, want = weights(loom), loom.streams(TRAFFIC[1])[0]
    module = loom.denoiser.components[part]
    calls = {"connectors": (1, 2), "latent_upsampler": (1,), "transformer": (1, 4, 6)}
    for fails in calls[part]:
        left = iter(range(1, 100))

        def stop(*_: object, fails: int = fails, left: Iterator[int] = left) -> None:
            if next(left) == fails:
                raise StopError

        hook = module.register_forward_pre_hook(stop)
        with pytest.raises(StopError):
            loom.streams(TRAFFIC[3])
        hook.remove()
        assert_same_bits(loom, before)
        again = loom.streams(TRAFFIC[1])[0]
        assert all(torch.equal(again[name], value) for name, value in want.items())


def test_any_history_of_requests_and_failures_is_forgotten(folder: Path) -> None:
    draw = random.Random(3)
    loom = load(folder)
    before, fresh = weights(loom), load(folder).streams(TRAFFIC[3])
    policies: tuple[Policy, ...] = ("live", "fused", "auto")
    for _ in range(12):
        batch, fails = draw.choice(TRAFFIC[:3]), draw.choice([0, 0, 1, 3, 4, 6])

        def maybe(tick: Tick, fails: int = fails) -> None:
            if tick.done == fails:
                raise StopError

        with suppress(StopError):
            loom.streams(batch, policy=draw.choice(policies), progress=maybe)
        loom.bare()
        assert_same_bits(loom, before)
    for got, want in zip(loom.streams(TRAFFIC[3]), fresh, strict=True):
        assert all(torch.equal(got[name], value) for name, value in want.items())
