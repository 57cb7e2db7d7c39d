"""Fixed memory: compiled models wear any mix, and nothing compiles again."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounter

from loraloom.core.mix import Applied, Mix, Part
from loraloom.errors import BudgetError
from loraloom.lora.model import LoraModel

from .strategies import ADAPTERS, Tiny, adapter, mix, mixes, tiny
from .test_layers import LAYERS, model_of
from .test_layers import inputs as inputs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TEN = {
    each.key: each
    for number, rank in enumerate((4, 4, 7, 8, 12, 16, 24, 32, 48, 64))
    for each in [adapter(f"ten{number}", number, rank=rank)]
}


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    """Every test compiles for itself."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def inputs(rows: int) -> torch.Tensor:
    return torch.randn(rows, 5, 16, generator=torch.Generator().manual_seed(rows))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(mixes(), min_size=1, max_size=3), min_size=1, max_size=5), mixes())
def test_fixed_memory_gives_what_looking_up_gives(batches: list[list[Mix]], fused: Mix) -> None:
    module, model = tiny(), None
    model = LoraModel("transformer", module, ADAPTERS)
    states = [Applied.rows(batch, fused=fused) for batch in batches]
    want = []
    for state, batch in zip(states, batches, strict=True):
        model.become(state)
        want.append(module(inputs(2 * len(batch))))
    model.fix((8, 24), samples=3)
    for state, batch, wanted in zip(states, batches, want, strict=True):
        model.become(state)
        torch.testing.assert_close(module(inputs(2 * len(batch))), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_every_kind_of_layer_has_fixed_memory(name: str) -> None:
    module, model, both, other = model_of(name)
    x = inputs_of(name, 6)
    states = [Applied.rows([both]), Applied(), Applied.rows([other, Mix(), both])]
    want = []
    for state in states:
        model.become(state)
        want.append(module(hidden_states=x))
    model.fix((8,), samples=3)
    for state, wanted in zip(states, want, strict=True):
        model.become(state)
        torch.testing.assert_close(module(hidden_states=x), wanted)


def switching(
    model: LoraModel, call: Callable[[torch.Tensor], torch.Tensor], reference: Tiny
) -> None:
    """A hundred random mixes of ten adapters, live in batches and alone, and in the weights."""
    draw = random.Random(0)
    keys = list(TEN)

    def wish() -> Mix:
        some = draw.sample(keys, draw.randint(0, 2))
        return Mix.of([Part(key, draw.choice([1.0, -0.5, draw.random()])) for key in some])

    other = LoraModel("transformer", reference, TEN)
    for number in range(100):
        fused = wish() if number % 10 == 0 else model.applied.fused
        state = Applied.rows([wish()] if number % 2 else [wish(), wish()], fused=fused)
        model.become(state)
        other.become(state)
        x = inputs(4)
        torch.testing.assert_close(call(x), reference(x), rtol=1e-4, atol=1e-4)


def test_a_hundred_switches_between_ten_adapters_compile_nothing() -> None:
    module = tiny()
    model = LoraModel("transformer", module, TEN)
    model.fix((16, 64, 256), samples=2)
    counter = CompileCounter()
    compiled = torch.compile(module, backend=counter, fullgraph=True, dynamic=False)
    with torch.no_grad():
        for samples in (1, 2):
            for _ in model.warming(samples):
                compiled(inputs(4))
        warm = counter.frame_count
        assert warm >= 4
        with torch._dynamo.config.patch(error_on_recompile=True):
            switching(model, compiled, tiny())
    assert counter.frame_count == warm


@pytest.mark.slow
def test_inductor_s_code_wears_what_it_is_given() -> None:
    module = tiny()
    model = LoraModel("transformer", module, TEN)
    model.fix((256,), samples=2)
    compiled = torch.compile(module, fullgraph=True, dynamic=False)
    with torch.no_grad():
        for samples in (1, 2):
            for _ in model.warming(samples):
                compiled(inputs(4))
        with torch._dynamo.config.patch(error_on_recompile=True):
            switching(model, compiled, tiny())


def test_without_fixed_memory_another_mix_compiles_again() -> None:
    """What the test above would not notice if compiling were not counted."""
    module = tiny()
    model = LoraModel("transformer", module, ADAPTERS)
    counter = CompileCounter()
    compiled = torch.compile(module, backend=counter)
    with torch.no_grad():
        for state in (Applied.rows([mix(all=1)]), Applied.rows([mix(half=1)])):
            model.become(state)
            compiled(inputs(2))
    assert counter.frame_count > 1


def test_what_has_no_room_is_refused_and_changes_nothing() -> None:
    module = tiny()
    model = LoraModel("transformer", module, TEN)
    model.fix((8, 16), samples=2)
    small, large = min(TEN), max(TEN)
    before = Applied.rows([Mix.of([Part(small, 1.0)])])
    model.become(before)
    output = module(inputs(3))
    with pytest.raises(BudgetError, match="fixed room for 16 ranks, what is to be worn has 64"):
        model.become(Applied.rows([Mix.of([Part(large, 1.0)])], fused=Mix.of([Part(small, 1)])))
    three = [Mix.of([Part(small, s)]) for s in (1.0, 2.0, 3.0)]
    with pytest.raises(BudgetError, match="room for 2 samples, what is to be worn has 3"):
        model.become(Applied.rows(three))
    assert model.applied == before
    assert torch.equal(module(inputs(3)), output)
    with pytest.raises(BudgetError, match="2 ranks, what is to be worn has 4"):
        LoraModel.fix(model, (2,))
    assert torch.equal(module(inputs(3)), output)


def test_release_frees_the_layers_of_fixed_memory() -> None:
    module = tiny()
    model = LoraModel("transformer", module, ADAPTERS)
    model.fix((8, 32))
    model.become(Applied.rows([mix(all=1)]))
    model.release()
    assert [sorted(vars(m)) for m in module.modules()] == [
        sorted(vars(m)) for m in tiny().modules()
    ]
    assert torch.equal(module(inputs(2)), tiny()(inputs(2)))
