"""The laws of wearing, while tools that offload move the weights about."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import torch

from loraloom.core.adapter import Adapter, LowRank
from loraloom.core.mix import Applied, Mix, Part
from loraloom.lora.model import LoraModel

from .offloading import (
    CPU,
    WAYS,
    Stream,
    Twice,
    Watch,
    disable,
    grouped,
    groups_of,
    simulate_streams,
)
from .strategies import ADAPTERS, mix, tiny
from .test_failures import Writing, failures
from .test_laws import RESIDENCIES, bits, inputs, same_bits, worn

if TYPE_CHECKING:
    from collections.abc import Callable

META = torch.device("meta")
STATES = [
    Applied.rows([mix(all=1)]),
    Applied(fused=mix(all=0.5, one=1)),
    Applied.rows([mix(half=1), mix()], fused=mix(all=0.5, attention=-1)),
    Applied.rows([mix(one=-1)]),
    Applied(fused=mix(half=2)),
]


@pytest.fixture(autouse=True)
def _streams(monkeypatch: pytest.MonkeyPatch) -> None:
    simulate_streams(monkeypatch)


@pytest.fixture(params=WAYS)
def enable(request: pytest.FixtureRequest) -> Callable[[torch.nn.Module], None]:
    return WAYS[request.param]


@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_wearing_live_prepares_adapters_where_layers_compute_and_moves_no_weight(kind: str) -> None:
    module = tiny()
    grouped(kind)(module)
    for group in groups_of(module).values():
        group.onload_device = META  # the only device but the processor that every machine has
    model = LoraModel("transformer", module, ADAPTERS)
    with Watch(module) as watch:
        for state in (Applied.rows([mix(all=1)]), Applied.rows([mix(half=1), mix()]), Applied()):
            model.become(state)
    assert watch.moved == watch.written == []
    assert model.probe.where() == (META, torch.float32)
    fitted = model.wardrobe.live(Applied.rows([mix(all=1)]).live, model.probe.where()).fitted
    pieces = [piece for each in fitted.values() for of in each.sites.values() for piece in of]
    assert {tensor.device for piece in pieces for tensor in piece.update.tensors} == {META}
    assert {weight.device for weight in module.parameters()} == {CPU}


def test_what_acts_beside_a_layer_is_computed_where_its_output_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, model = worn()
    model.become(Applied.rows([mix(all=1)]))
    forward = module.time.forward
    monkeypatch.setattr(module.time, "forward", lambda x: forward(x).to(META))
    assert module.time(inputs(1)).device == META


@pytest.mark.parametrize("residency", RESIDENCIES)
@pytest.mark.parametrize("before", [True, False], ids=["worn before", "worn after"])
def test_an_offloaded_model_gives_what_it_gives_in_memory(
    enable: Callable[[torch.nn.Module], None], residency: str, before: bool
) -> None:
    module, plain = tiny(), worn(residency=RESIDENCIES[residency])
    if before:
        enable(module)
    model = LoraModel("transformer", module, ADAPTERS, residency=RESIDENCIES[residency])
    if not before:
        enable(module)
    for state in (*STATES, *reversed(STATES), Applied()):
        model.become(state)
        plain[1].become(state)
        for _ in range(2):  # a stream learns at the first call what to fetch when at the others
            assert torch.equal(module(inputs(2)), plain[0](inputs(2)))
    assert same_bits(bits(module), bits(tiny()))


@pytest.mark.parametrize("residency", RESIDENCIES)
@pytest.mark.parametrize("state", STATES, ids=range(len(STATES)))
def test_offloading_may_come_and_go_while_adapters_are_worn(
    enable: Callable[[torch.nn.Module], None], state: Applied, residency: str
) -> None:
    module, model = worn(residency=RESIDENCIES[residency])
    model.become(state)
    want = module(inputs(2))
    for toggle in (enable, disable, enable):
        toggle(module)
        assert torch.equal(module(inputs(2)), want)
        model.become(Applied())
        assert torch.equal(module(inputs(2)), tiny()(inputs(2)))
        assert same_bits(bits(module), bits(tiny()))
        model.become(state)
        assert torch.equal(module(inputs(2)), want)
    disable(module)
    model.release()
    assert same_bits(bits(module), bits(tiny()))


def test_only_groups_of_weights_that_change_go_back_and_none_is_fetched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, model = worn()
    grouped("leaf_level", streamed=True)(module)
    by_weight = groups_of(module)
    for group in by_weight.values():
        group.onload_()  # as a call leaves them that failed
    went: list[object] = []
    waited: list[Stream] = []
    kind = type(next(iter(by_weight.values())))
    real = kind.offload_

    def offload(self: Any) -> None:
        assert waited[-1:] == [self.stream]  # it might still read what is to be written to
        went.append(self)
        real(self)

    def wait(self: Stream) -> None:
        waited.append(self)

    monkeypatch.setattr(kind, "offload_", offload)
    monkeypatch.setattr(Stream, "synchronize", wait)
    monkeypatch.setattr(kind, "onload_", lambda self: pytest.fail("fetched"))
    changed = ["blocks.0.ff.2", "blocks.0.to_out", "time"]
    with Watch(module) as watch:
        model.become(Applied(fused=mix(half=1)))
    assert sorted(dict.fromkeys(watch.written)) == changed
    runs = [s for i, s in enumerate(watch.written) if i == 0 or watch.written[i - 1] != s]
    assert sorted(runs) == changed  # one after the other, none twice
    assert {id(group) for group in went} == {id(by_weight[id(_weight(module, s))]) for s in changed}
    assert len(went) == len(changed)
    assert {site.removesuffix(".bias") for site in watch.moved} == set(changed)
    went.clear()
    model.become(Applied())
    assert not went  # they rest already


def test_what_is_fused_while_a_group_is_fetched_is_there_at_the_next_call() -> None:
    for way in ("blocks with a stream", "leaves with a stream"):
        module, plain = tiny(), worn()
        WAYS[way](module)
        model = LoraModel("transformer", module, ADAPTERS)
        for state in STATES:
            for group in groups_of(module).values():
                group.onload_()
            model.become(state)
            plain[1].become(state)
            assert torch.equal(module(inputs(2)), plain[0](inputs(2)))


@pytest.mark.parametrize("way", ["blocks with a stream", "leaves with a stream"])
def test_a_weight_that_two_layers_share_is_fused_in_one_of_them(way: str) -> None:
    results = []
    for tool in (WAYS[way], lambda module: None):
        module = tiny()
        for block in module.blocks:
            block.get_submodule("to_out").weight = module.time.weight
        tool(module)
        model = LoraModel("transformer", module, ADAPTERS)
        for state in (*STATES, Applied()):
            model.become(state)
            results.append(module(inputs(2)))
    half = len(results) // 2
    assert all(map(torch.equal, results[:half], results[half:]))
    assert not torch.equal(results[0], results[half - 1])


def test_a_group_keeps_a_weight_that_another_of_its_layers_still_has() -> None:
    only = Adapter.make(
        "only",
        {"transformer": {"blocks.0.0": LowRank(torch.ones(1, 4), torch.ones(4, 1), 0.5)}},
    )
    state = Applied(fused=Mix.of([Part(only.key, 1.0)]))
    outputs = []
    with torch.no_grad():
        for tool in (WAYS["blocks with a stream"], lambda module: None):
            module = Twice()
            tool(module)
            model = LoraModel("transformer", module, {only.key: only})
            for each in (state, Applied(), state):
                model.become(each)
                outputs.append(module(torch.ones(2, 4)))
    assert all(map(torch.equal, outputs[:3], outputs[3:]))
    assert not torch.equal(outputs[0], outputs[1])


def _weight(module: torch.nn.Module, site: str) -> torch.nn.Parameter:
    return module.get_parameter(f"{site}.weight")


@pytest.mark.parametrize("fail_at", [0, 1, 3])
@pytest.mark.parametrize("residency", ["original", "resident"])
def test_a_failure_in_the_middle_leaves_an_offloaded_model_as_it_was(
    enable: Callable[[torch.nn.Module], None],
    residency: str,
    fail_at: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, model = worn(residency=RESIDENCIES[residency])
    enable(module)
    before = Applied.rows([mix(one=1)], fused=mix(half=0.5))
    model.become(before)
    start, output = bits(module), module(inputs(2))
    failed = set()
    for what in failures(Writing(module, fail_at, rubbish=False), fail_at, monkeypatch):
        try:
            model.become(Applied(fused=mix(all=-0.5, attention=1)))
        except MemoryError:
            failed.add(what)
        else:  # that many are not needed on the way there, but perhaps on the way back
            after = bits(module)
            with suppress(MemoryError):
                model.become(before)
            if model.applied != before:
                assert same_bits(bits(module), after)
                model.become(before)
        assert model.applied == before
        assert same_bits(bits(module), start)
        assert torch.equal(module(inputs(2)), output)
    assert len(failed) >= 2
    model.become(Applied())
    assert same_bits(bits(module), bits(tiny()))
