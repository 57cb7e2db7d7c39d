"""Offloading with a device to offload from: the laws hold, and no more travels than has to."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from diffusers.hooks import apply_group_offloading

from loraloom.core.mix import Applied
from loraloom.errors import AdapterMismatchError
from loraloom.lora.model import LoraModel
from tests.lora.offloading import Watch, disable, groups_of
from tests.lora.strategies import ADAPTERS, mix, tiny
from tests.lora.test_laws import RESIDENCIES, bits, error, inputs, same_bits, worn

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

pytestmark = pytest.mark.cuda

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
LIVE = Applied.rows([mix(all=1), mix(half=-1)])
FUSED = Applied(fused=mix(all=0.5, one=1))
STATES = (LIVE, FUSED, Applied.rows([mix(half=1), mix()], fused=mix(attention=-1)), FUSED)


@dataclass(frozen=True, slots=True)
class Way:
    """How groups are offloaded, in diffusers' words."""

    offload_type: str
    use_stream: bool
    record_stream: bool = False
    low_cpu_mem_usage: bool = False

    def enable(self, module: nn.Module, files: Path | None = None) -> None:
        apply_group_offloading(
            module,
            CUDA,
            CPU,
            self.offload_type,
            num_blocks_per_group=1,
            use_stream=self.use_stream,
            record_stream=self.record_stream,
            low_cpu_mem_usage=self.low_cpu_mem_usage,
            offload_to_disk_path=None if files is None else str(files),
        )


WAYS = [
    *(Way(kind, use_stream=False) for kind in ("block_level", "leaf_level")),
    *(
        Way(kind, use_stream=True, record_stream=record, low_cpu_mem_usage=low)
        for kind, record, low in product(
            ("block_level", "leaf_level"), (False, True), (False, True)
        )
    ),
]
ways = pytest.mark.parametrize("way", WAYS, ids=str)


def plain(state: Applied) -> torch.Tensor:
    """What a module that stays on the device gives."""
    module = tiny().to(CUDA)
    LoraModel("transformer", module, ADAPTERS).become(state)
    out: torch.Tensor = module(inputs(2).to(CUDA))
    return out


def devices(module: nn.Module) -> set[str]:
    return {weight.device.type for weight in module.parameters()}


def no_fetching(patch: pytest.MonkeyPatch, groups: dict[int, Any]) -> None:
    """Let a group that is fetched fail the test."""
    kind = type(next(iter(groups.values())))
    patch.setattr(kind, "onload_", lambda self: pytest.fail("a group was fetched"))


@ways
@pytest.mark.parametrize("residency", RESIDENCIES)
@pytest.mark.parametrize("before", [True, False], ids=["worn before", "worn after"])
def test_an_offloaded_model_gives_what_it_gives_on_the_device(
    way: Way, residency: str, before: bool
) -> None:
    module = tiny()
    if before:
        way.enable(module)
    model = LoraModel("transformer", module, ADAPTERS, residency=RESIDENCIES[residency])
    if not before:
        way.enable(module)
    assert model.probe.where() == (CUDA, torch.float32)
    for state in (*STATES, *reversed(STATES), Applied()):
        model.become(state)
        want = plain(state)
        for _ in range(3):  # a stream learns at the first call what to fetch when at the others
            assert error(module(inputs(2).to(CUDA)), want) < 1e-5
        assert devices(module) == {"cpu"}
    assert same_bits(bits(module), bits(tiny()))


@ways
def test_neither_wearing_live_nor_fusing_fetches_a_layer(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, model = worn()
    way.enable(module)
    module(inputs(2).to(CUDA))
    with monkeypatch.context() as patch, Watch(module) as watch:
        no_fetching(patch, groups_of(module))
        model.become(LIVE)
        assert watch.moved == watch.written == []
        model.become(FUSED)
        model.become(Applied())
    assert watch.moved == []
    assert devices(module) == {"cpu"}
    assert same_bits(bits(module), bits(tiny()))


@ways
def test_what_is_fused_while_everything_is_fetched_is_there_at_the_next_call(way: Way) -> None:
    module = tiny()
    way.enable(module)
    model = LoraModel("transformer", module, ADAPTERS)
    module(inputs(2).to(CUDA))
    for state in (*STATES, Applied()):
        for group in groups_of(module).values():
            group.onload_()
        torch.cuda.synchronize()
        assert devices(module) == {"cuda"}  # as a call leaves them that failed
        model.become(state)
        assert error(module(inputs(2).to(CUDA)), plain(state)) < 1e-5
    for group in groups_of(module).values():
        group.offload_()
    assert same_bits(bits(module), bits(tiny()))


@ways
@pytest.mark.parametrize("residency", RESIDENCIES)
def test_offloading_may_come_and_go_while_adapters_are_fused(way: Way, residency: str) -> None:
    module, model = worn(residency=RESIDENCIES[residency])
    start = bits(module)
    module.to(CUDA)
    model.become(FUSED)
    way.enable(module)
    assert error(module(inputs(2).to(CUDA)), plain(FUSED)) < 1e-5
    model.become(Applied())
    assert same_bits(bits(module), start)
    model.become(FUSED)
    disable(module)
    module.to(CUDA)
    assert error(module(inputs(2).to(CUDA)), plain(FUSED)) < 1e-5
    model.become(LIVE)
    assert error(module(inputs(2).to(CUDA)), plain(LIVE)) < 1e-5
    model.become(Applied())
    assert same_bits(bits(module.to(CPU)), start)


def test_an_input_that_the_tool_moves_is_worn_beside_where_the_layer_computes() -> None:
    module = tiny()
    Way("leaf_level", use_stream=False).enable(module)
    model = LoraModel("transformer", module, ADAPTERS)
    state, x = Applied.rows([mix(all=1)]), inputs(2)
    model.become(state)
    assert error(module.time(x).cpu(), _time(state, x)) < 1e-5


def _time(state: Applied, x: torch.Tensor) -> torch.Tensor:
    module = tiny()
    LoraModel("transformer", module, ADAPTERS).become(state)
    out: torch.Tensor = module.time(x)
    return out


def test_weights_in_files_are_worn_live_alone(tmp_path: Path) -> None:
    module, model = worn()
    Way("leaf_level", use_stream=True).enable(module, tmp_path)
    model.become(LIVE)
    assert error(module(inputs(2).to(CUDA)), plain(LIVE)) < 1e-5
    with pytest.raises(AdapterMismatchError, match="in a file of its offloaded group"):
        model.become(FUSED)
    assert error(module(inputs(2).to(CUDA)), plain(LIVE)) < 1e-5


def test_weights_in_accelerate_s_map_are_worn_live_alone() -> None:
    module, model = worn()
    cpu_offload(module, CUDA)
    assert model.probe.where() == (CUDA, torch.float32)
    model.become(LIVE)
    assert error(module(inputs(2).to(CUDA)), plain(LIVE)) < 1e-5
    with pytest.raises(AdapterMismatchError, match="map"):
        model.become(FUSED)


@pytest.mark.parametrize("residency", RESIDENCIES)
def test_a_model_that_moves_as_a_whole_wears_wherever_it_is(residency: str) -> None:
    module, model = worn(residency=RESIDENCIES[residency])
    _, hook = cpu_offload_with_hook(module, CUDA)
    for state in (*STATES, Applied()):
        model.become(state)  # it is on the host, then on the device
        for _ in range(2):
            assert error(module(inputs(2).to(CUDA)), plain(state)) < 1e-5
            model.become(state)
        if state is STATES[1]:
            hook.offload()
    hook.offload()
    assert same_bits(bits(module), bits(tiny()))
