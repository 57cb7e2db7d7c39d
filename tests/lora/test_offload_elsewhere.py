"""Weights that a tool keeps where they cannot be written to: worn live, and never fused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from accelerate.big_modeling import attach_layerwise_casting_hooks
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from diffusers.hooks import apply_layerwise_casting

from loraloom.core.adapter import Adapter, LowRank
from loraloom.core.mix import NOTHING, Applied, Mix, Part
from loraloom.errors import AdapterMismatchError
from loraloom.lora.model import LoraModel
from loraloom.lora.sites import adaptable
from tests.families.tiny import build

from .offloading import CPU, WAYS, disable, grouped, groups_of, sequential, simulate_streams
from .strategies import ADAPTERS, Tiny, mix, tiny
from .test_laws import RESIDENCIES, bits, inputs, same_bits, worn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

FP8, BF16 = torch.float8_e4m3fn, torch.bfloat16
LIVE = Applied.rows([mix(all=1), mix(half=-1)])
FUSED = Applied(fused=mix(one=0.5))


def diffusers_casting(module: torch.nn.Module) -> None:
    apply_layerwise_casting(module, FP8, BF16)


def diffusers_casting_whole(module: torch.nn.Module) -> None:
    apply_layerwise_casting(module, FP8, BF16, skip_modules_pattern=None)


def accelerate_casting(module: torch.nn.Module) -> None:
    attach_layerwise_casting_hooks(module, FP8, BF16)


CASTING = (diffusers_casting, diffusers_casting_whole, accelerate_casting)
"""A model is stored in eight bits and computes in sixteen."""


@pytest.fixture(params=["blocks in files", "leaves in files", "sequential"])
def enable(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[torch.nn.Module], None]:
    if request.param == "sequential":
        return sequential
    kind = "block_level" if "blocks" in request.param else "leaf_level"
    return grouped(kind, files=tmp_path)


@pytest.mark.parametrize("before", [True, False], ids=["worn before", "worn after"])
def test_live_gives_what_it_gives_in_memory(
    enable: Callable[[torch.nn.Module], None], before: bool
) -> None:
    module, plain = tiny(), worn()
    if before:
        enable(module)
    model = LoraModel("transformer", module, ADAPTERS)
    if not before:
        enable(module)
    assert model.probe.where() == (CPU, torch.float32)
    for state in (LIVE, Applied.rows([mix(one=2)]), Applied(), LIVE):
        model.become(state)
        plain[1].become(state)
        assert torch.equal(module(inputs(2)), plain[0](inputs(2)))


def test_fusing_is_refused_with_the_site_and_changes_nothing(
    enable: Callable[[torch.nn.Module], None],
) -> None:
    module, model = worn()
    enable(module)
    model.become(LIVE)
    output = module(inputs(2))
    says = r"weight of blocks\.0\.ff\.0 is in .*nothing can be fused .*want a live mix"
    with pytest.raises(AdapterMismatchError, match=says):
        model.become(FUSED)
    assert model.applied == LIVE
    assert torch.equal(module(inputs(2)), output)


@pytest.mark.parametrize("residency", RESIDENCIES)
def test_what_was_fused_before_stays_until_the_weights_are_back(
    enable: Callable[[torch.nn.Module], None], residency: str
) -> None:
    module, model = worn(residency=RESIDENCIES[residency])
    model.become(FUSED)
    output = module(inputs(2))
    enable(module)
    for want in (Applied(), LIVE):
        with pytest.raises(AdapterMismatchError, match="or taken out of it"):
            model.become(want)
        assert model.applied == FUSED
        assert torch.equal(module(inputs(2)), output)
    for group in groups_of(module).values():
        group.onload_()
    disable(module)
    assert torch.equal(module(inputs(2)), output)
    model.become(Applied())
    assert same_bits(bits(module), bits(tiny()))


@pytest.mark.parametrize("inside", [True, False])
def test_a_map_counts_where_the_hook_moves_what_is_inside_its_module(inside: bool) -> None:
    module = tiny()
    block = module.blocks[0]
    block.register_parameter("own", torch.nn.Parameter(torch.ones(1)))
    hook = AlignDevicesHook(CPU, offload=True, place_submodules=inside)
    add_hook_to_module(block, hook)
    model = LoraModel("transformer", module, ADAPTERS)
    if inside:
        with pytest.raises(AdapterMismatchError, match="map"):
            model.become(FUSED)
    else:
        model.become(FUSED)
        assert torch.equal(module(inputs(2)), fused_in_memory())


def fused_in_memory() -> torch.Tensor:
    module, model = worn()
    model.become(FUSED)
    out: torch.Tensor = module(inputs(2))
    return out


def rounded() -> Tiny:
    """A transformer in bfloat16 whose layers' numbers are all of eight bits."""
    return tiny(BF16).to(FP8).to(BF16)


@pytest.mark.parametrize("cast", CASTING)
@pytest.mark.parametrize("before", [True, False], ids=["worn before", "worn after"])
def test_a_model_stored_in_eight_bits_wears_live_in_those_it_computes_in(
    cast: Callable[[torch.nn.Module], None], before: bool
) -> None:
    module, plain = tiny(BF16), rounded()
    if before:
        cast(module)
    model = LoraModel("transformer", module, ADAPTERS)
    other = LoraModel("transformer", plain, ADAPTERS)
    if not before:
        cast(module)
    assert model.probe.where() == (CPU, BF16)
    for state in (LIVE, Applied(), Applied.rows([mix(half=1, attention=0.5)])):
        model.become(state)
        other.become(state)
        assert torch.equal(module(inputs(2).to(BF16)), plain(inputs(2).to(BF16)))
    assert {weight.dtype for weight in module.parameters()} == {FP8}


@pytest.mark.parametrize("cast", CASTING)
def test_nothing_is_fused_into_a_type_that_is_only_stored_in(
    cast: Callable[[torch.nn.Module], None],
) -> None:
    module, model = worn(BF16)
    cast(module)
    start = bits(module)
    with pytest.raises(AdapterMismatchError, match=r"blocks\.0\.ff\.0 is in a type .*only stored"):
        model.become(FUSED)
    assert model.applied == Applied()
    assert same_bits(bits(module), start)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    simulate_streams(monkeypatch)
    return str(request.param)


def two(module: torch.nn.Module) -> list[Adapter]:
    """Random adapters of every other layer, and of all."""
    layers = [(n, m) for n, m in module.named_modules() if adaptable(m)]
    draw = torch.Generator().manual_seed(0)

    def update(weight: torch.Tensor) -> LowRank:
        down = torch.randn(3, *weight.shape[1:], generator=draw) / weight[0].numel() ** 0.5
        up = torch.randn(weight.shape[0], 3, *[1] * (weight.ndim - 2), generator=draw)
        return LowRank(down, up, 0.2)

    return [
        Adapter.make(f"every {n}", {"transformer": {s: update(m.weight) for s, m in layers[::n]}})
        for n in (1, 2)
    ]


@pytest.mark.parametrize("name", ["flux", "wan 2.2"])
def test_a_stock_pipeline_gives_what_it_gives_in_memory(way: str, name: str) -> None:
    families = [build(name), build(name)]
    WAYS[way](families[0].pipe.transformer)
    adapters = {each.key: each for each in two(families[0].pipe.transformer)}
    models = [LoraModel("transformer", each.pipe.transformer, adapters) for each in families]
    one, other = ([Mix.of([Part(key, 0.7)])] for key in adapters)
    states: Sequence[Applied] = [
        Applied.rows([*one, *other]),
        Applied(fused=one[0]),
        Applied.rows([*other, NOTHING], fused=other[0]),
        Applied(),
    ]
    guidance = next(iter(families[0].guidance))
    for state in states:
        for model in models:
            model.become(state)
        got, want = (each.latents([0, 1], guidance) for each in families)
        assert torch.equal(got, want)
    assert same_bits(*(bits(each.pipe.transformer) for each in families))
