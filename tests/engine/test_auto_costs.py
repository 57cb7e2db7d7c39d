"""What the policy auto costs by its own figures, and where it may not fuse or counts otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from diffusers.hooks import apply_layerwise_casting
from diffusers.models.transformers.transformer_flux import FluxAttention, FluxAttnProcessor
from hypothesis import given, settings
from hypothesis import strategies as st

from loraloom import Canvas, Loom, Lora, Request, Sampling
from loraloom.core.adapter import Adapter, LowRank
from loraloom.core.mix import NOTHING, Applied, Mix, Part
from loraloom.engine.auto import Auto
from loraloom.engine.batch import Open
from loraloom.engine.traffic import Run, Shape
from loraloom.lora.cost import Rates
from loraloom.lora.model import LoraModel
from loraloom.models.find import card as find_card
from loraloom.models.load import load
from tests.lora.offloading import sequential
from tests.lora.strategies import ADAPTERS, mix, tiny

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

FUSES = Rates(1.0, 1e-3, 1e-9, 1e-6, 1e-12, 1e-12, 1e-12)
MIXES = [mix(all=1), mix(all=1, one=1), mix(all=0.5), mix(one=1), mix(attention=1, half=-1)]


def costs(auto: Auto, worn: Sequence[Mix], run: Run) -> tuple[float, float]:
    """Seconds of wearing mixes in turn as auto chooses, and always live, by its own figures."""
    chosen = live = 0.0
    for each in worn:
        fresh = Auto(auto.models, auto.rates)  # one that expects nothing, of pristine weights
        before = auto.models[0].applied
        auto.models[0].become(Applied())
        figures = fresh.choice(each, (), run)
        auto.models[0].become(before)
        live += figures.live_s
        outfit = auto.outfit(Open(each, {}), run)
        if outfit.resting != each:
            chosen += figures.live_s
        elif before.fused != each:
            chosen += figures.fused_s
        auto.rest(outfit.resting, ADAPTERS)
    return chosen, live


@given(
    st.floats(0.1, 8),
    st.lists(st.sampled_from(MIXES), min_size=2, max_size=2, unique=True),
    st.integers(1, 50),
    st.integers(2, 8),
)
@settings(deadline=None)
def test_two_mixes_in_turn_never_cost_more_than_live(
    ratio: float, two: list[Mix], steps: int, times: int
) -> None:
    """Fusing costs ``ratio`` times what a batch does live, or nearly so."""
    rates = Rates(1e-3, 1e-12, 1e-12, 1e-3 * steps * ratio, 1e-12, 1e-12, 1e-12)
    auto = Auto([LoraModel("transformer", tiny(), ADAPTERS)], lambda: rates)
    chosen, live = costs(auto, two * times, Run(Shape(1, 16, (1,)), steps))
    assert chosen <= live * (1 + 1e-9)


def test_a_part_of_what_is_in_the_weights_is_not_there_already() -> None:
    """Taking the rest out computes every weight anew, and that is what it costs."""
    auto = Auto([LoraModel("transformer", tiny(), ADAPTERS)], lambda: FUSES)
    run = Run(Shape(1, 16, (1,)), 4)
    both, one = mix(all=1, one=1), mix(all=1)
    auto.rest(auto.outfit(Open(both, {}), run).resting, ADAPTERS)
    assert auto.models[0].applied.fused == both
    assert "already" in auto.choice(both, (), run).why
    assert "already" in auto.choice(one, (), run, resting=mix(one=1)).why
    assert "already" not in auto.choice(one, (), run).why


def test_habits_of_long_runs_are_forgotten_when_mixes_come_in_turn() -> None:
    dear = replace(FUSES, call=1e-3, flop=1e-12, fuse_call=3e-3)
    auto = Auto([LoraModel("transformer", tiny(), ADAPTERS)], lambda: dear)
    run = Run(Shape(1, 16, (1,)), 1)
    one, other = MIXES[0], MIXES[3]
    costs(auto, [one] * 30 + [other] * 30, run)
    assert auto.models[0].applied.fused == other
    costs(auto, [one, other] * 6, run)
    chosen, live = costs(auto, [one, other] * 10, run)
    assert chosen == live
    assert auto.models[0].applied.fused == NOTHING


def cast(module: torch.nn.Module) -> None:
    apply_layerwise_casting(module, torch.float8_e4m3fn, torch.bfloat16)


@pytest.mark.parametrize("enable", [sequential, cast])
def test_what_cannot_be_fused_is_worn_live_and_auto_says_why(
    enable: Callable[[torch.nn.Module], None],
) -> None:
    module = tiny()
    enable(module)
    auto = Auto([LoraModel("transformer", module, ADAPTERS)], lambda: FUSES)
    outfit = auto.outfit(Open(mix(all=1), {}), Run(Shape(1, 16, (1,)), 50))
    (manner,) = outfit.by_key.values()
    assert manner.mode == "live"
    assert manner.why.startswith("weights of float")
    assert manner.why.endswith("cannot hold it")
    auto.rest(outfit.resting, ADAPTERS)
    assert not auto.models[0].applied.fused


def packed_loom(cache: Path) -> Loom:
    """The embedded model with an attention that has one layer for three."""
    card = find_card("mini")
    pipe = load(card, dtype="float32", device="cpu")
    attention = FluxAttention(16, heads=2, dim_head=8, processor=FluxAttnProcessor())
    attention.requires_grad_(requires_grad=False).fuse_projections()
    pipe.transformer.extra = attention.requires_grad_(requires_grad=False)
    return Loom(card, pipe, cache)


def test_a_layer_that_is_several_to_adapters_is_one_to_auto_and_several_to_people(
    tmp_path: Path,
) -> None:
    loom = packed_loom(tmp_path)
    loom.auto = Auto(loom.models, lambda: FUSES)
    draw = torch.Generator().manual_seed(0)
    updates = {
        f"extra.to_{name}": LowRank(
            torch.randn(rank, 16, generator=draw), torch.randn(16, rank, generator=draw), 1.0
        )
        for name, rank in (("q", 2), ("k", 3), ("v", 4))
    }
    adapter = Adapter.make("packed", {"transformer": updates})
    loom.adapters.put(adapter)
    worn = Mix.of([Part(adapter.key, 1.0)])
    (layers,) = loom.auto._layers(worn, (), Run(Shape(1, 4, (1,)), 2))
    assert (layers.count, layers.out, layers.width, layers.rank) == (1, 48, 16, 9)
    assert not loom.auto.rounding(worn).share > 1e-3
    asked = Request("a", canvas=Canvas(64, 64), sampling=Sampling(2, 1.0), loras=(Lora("packed"),))
    for policy in ("auto", "fused", "live"):
        (told,) = loom.images([asked], policy=policy)[0].worn
        assert told.sites == 3
    loom.bare()
