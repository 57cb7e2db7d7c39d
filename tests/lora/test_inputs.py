"""Inputs of every form reach the adapters of their rows, and strengths of every size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from loraloom.core.adapter import Adapter, LowRank
from loraloom.core.mix import NOTHING, Applied, Mix, Part, Scope
from loraloom.errors import AdapterMismatchError, RowsError
from loraloom.lora.live import SideBySide
from loraloom.lora.model import LoraModel

from .test_laws import error

if TYPE_CHECKING:
    from collections.abc import Callable

WIDTH = 16


class One(nn.Module):
    """One layer, called as ``call`` says."""

    def __init__(self, call: Callable[[nn.Module, torch.Tensor], torch.Tensor] | None = None):
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.call = call

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor
        out = self.call(self.layer, hidden_states) if self.call else self.layer(hidden_states)
        return out


def update(seed: int, size: float = 1.0, out: int = WIDTH) -> LowRank:
    draw = torch.Generator().manual_seed(seed)
    down, up = torch.randn(3, WIDTH, generator=draw), torch.randn(out, 3, generator=draw)
    return LowRank(down * size, up, 0.3 / size)


def named(name: str, seed: int, size: float = 1.0) -> Adapter:
    return Adapter.make(name, {"transformer": {"layer": update(seed, size)}})


A, B = named("a", 1), named("b", 2)
LARGE = named("large", 3, 1.5e4)
"""Its factors are numbers of float16; what they make of an input is not."""
BEYOND = named("beyond", 4, 1e6)
CATALOGUE = {each.key: each for each in (A, B, LARGE, BEYOND)}


def of(one: Adapter, strength: float = 1.0, *scopes: Scope) -> Mix:
    return Mix.of([Part(one.key, strength, scopes)])


BATCHES = {
    "alike": Applied.rows([of(A)]),
    "mixed": Applied.rows([of(A), of(B)]),
    "joined": Applied.rows([Mix.of([Part(A.key, 1.0), Part(B.key, -0.5)]), of(B)]),
}


def one_layer(
    dtype: torch.dtype = torch.float32,
    call: Callable[[nn.Module, torch.Tensor], torch.Tensor] | None = None,
) -> tuple[One, LoraModel]:
    torch.manual_seed(0)
    module = One(call).to(dtype).requires_grad_(requires_grad=False)
    return module, LoraModel("transformer", module, CATALOGUE)


def alone(x: torch.Tensor, state: Applied, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Every row of ``x`` in a batch of its own; sample *i* of a mixed batch are its *i*-th rows."""
    mixes = [seg.mix for seg in state.live for _ in range(seg.start, seg.stop)]
    module, model = one_layer(dtype)
    out = []
    for row in range(len(x)):
        with model.wearing(Applied.rows([mixes[row % len(mixes)]])):
            out.append(module(x[row : row + 1]))
    return torch.cat(out)


@pytest.mark.parametrize("fixed", [False, True])
def test_a_vector_is_one_row(fixed: bool) -> None:
    module, model = one_layer()
    x = torch.randn(WIDTH)
    base = module(x)
    if fixed:
        model.fix((8,), samples=2)
    with model.wearing(BATCHES["alike"]):
        torch.testing.assert_close(module(x), module(x[None])[0])
        assert not torch.allclose(module(x), base, atol=1e-2)
    with model.wearing(BATCHES["mixed"]), pytest.raises(RowsError):
        module(x)
    with model.wearing(Applied(fused=of(A))):
        fused = module(x)
    with model.wearing(BATCHES["alike"]):
        torch.testing.assert_close(module(x), fused, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("shape", [(2, 0, WIDTH), (0, WIDTH), (0, 5, WIDTH)], ids=str)
def test_an_empty_batch_gives_an_empty_output(
    shape: tuple[int, ...], batch: str, fixed: bool
) -> None:
    module, model = one_layer()
    if fixed:
        model.fix((8,), samples=2)
    with model.wearing(BATCHES[batch]):
        assert module(torch.zeros(shape)).shape == shape
        x = torch.randn(2, 5, WIDTH)
        torch.testing.assert_close(module(x), alone(x, BATCHES[batch]), rtol=1e-5, atol=1e-5)


class Text(nn.Module):
    """Inputs as a text encoder of transformers takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(
        self,
        cache_position: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        out: torch.Tensor = self.layer(inputs_embeds)
        return out


def rows_of(module: nn.Module) -> LoraModel:
    module.get_submodule("layer").load_state_dict(one_layer()[0].layer.state_dict())
    model = LoraModel("transformer", module.requires_grad_(requires_grad=False), CATALOGUE)
    model.become(BATCHES["mixed"])
    return model


def test_rows_are_those_of_the_embedded_tokens() -> None:
    module = Text()
    rows_of(module)
    x = torch.randn(4, 2, WIDTH)
    got = module(cache_position=torch.arange(2), inputs_embeds=x)
    torch.testing.assert_close(got, alone(x, BATCHES["mixed"]), rtol=1e-5, atol=1e-5)


class Guided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, latents: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(latents) + 0 * time.sum()
        return out


def test_rows_are_those_of_the_first_tensor_without_a_name() -> None:
    module = Guided()
    rows_of(module)
    x, time = torch.randn(4, 2, WIDTH), torch.ones(2)
    want = alone(x, BATCHES["mixed"])
    torch.testing.assert_close(module(x, time), want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(module(x, time=time), want, rtol=1e-5, atol=1e-5)


def test_rows_that_no_input_tells_are_an_error() -> None:
    module = Guided()
    model = rows_of(module)
    x = torch.randn(4, 2, WIDTH)
    with pytest.raises(RowsError, match=r"leading axes are \[2, 4\].*inputs_embeds"):
        module(time=torch.ones(2), latents=x)
    want = alone(x, BATCHES["mixed"])
    got = module(time=torch.ones(4), latents=x)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    with model.wearing(BATCHES["alike"]):
        assert module(time=torch.ones(2), latents=x).shape == x.shape


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("batch", BATCHES)
def test_a_layer_may_be_called_twice_in_a_pass_with_other_shapes(batch: str, fixed: bool) -> None:
    def twice(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = layer(x)
        pooled: torch.Tensor = layer(x[:, 0])
        flat: torch.Tensor = layer(x.flatten(0, 1))
        again: torch.Tensor = layer(x)
        return torch.cat([tokens, pooled[:, None], flat.view(x.shape), again], 1)

    module, model = one_layer(call=twice)
    if fixed:
        model.fix((8,), samples=2)
    x = torch.randn(4, 3, WIDTH)
    want = alone(x, BATCHES[batch])
    for _ in range(2):
        with model.wearing(BATCHES[batch]):
            got = module(x)
        torch.testing.assert_close(
            got, torch.cat([want, want[:, :1], want, want], 1), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("batch", BATCHES)
def test_an_input_and_an_output_may_lie_in_memory_in_any_order(batch: str) -> None:
    module, model = one_layer()
    own = module.layer.forward
    x = torch.randn(WIDTH, 3, 4).permute(2, 1, 0)
    want = alone(x.contiguous(), BATCHES[batch])
    with model.wearing(BATCHES[batch]):
        torch.testing.assert_close(module(x), want, rtol=1e-5, atol=1e-5)
        shuffled = lambda x: own(x).transpose(0, 1).contiguous().transpose(0, 1)  # noqa: E731
        object.__setattr__(module.layer, "forward", shuffled)
        assert not module.layer.forward(x).is_contiguous()
        torch.testing.assert_close(module(x), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tokens", [3, 700])
def test_an_output_of_another_type_is_added_to(tokens: int) -> None:
    module, model = one_layer()
    x = torch.randn(2, tokens, WIDTH)
    want = {name: alone(x, state) for name, state in BATCHES.items()}
    with torch.autocast("cpu", torch.bfloat16):
        for name, state in BATCHES.items():
            with model.wearing(state):
                got = module(x)
            assert got.dtype == torch.bfloat16
            assert error(got, want[name]) < 2e-2
        with model.wearing(Applied(fused=of(A))):
            assert error(module(x), want["alike"]) < 2e-2


@pytest.mark.parametrize("fixed", [False, True])
def test_what_overflows_in_one_row_is_no_nan_in_another(fixed: bool) -> None:
    module, model = one_layer(torch.float16)
    x = torch.randn(3, 4, WIDTH).half()
    base = module(x)
    state = Applied.rows([of(LARGE), of(B), NOTHING])
    want = alone(x[1:2], Applied.rows([of(B)]), torch.float16)
    if fixed:
        model.fix((8,), samples=3)
    model.become(state)
    got = module(x)
    if not fixed:
        assert [SideBySide] == [
            type(way) for key, way in model.cell.live.ways.items() if key != "cpu"
        ]
    assert not got[0].isfinite().all()
    torch.testing.assert_close(got[1:2], want, rtol=1e-2, atol=1e-2)
    assert torch.equal(got[2], base[2])


def test_an_adapter_beyond_float16_is_refused() -> None:
    module, model = one_layer(torch.float16)
    model.become(Applied.rows([of(A)]))
    x = torch.randn(2, 4, WIDTH).half()
    output = module(x)
    with pytest.raises(AdapterMismatchError, match="'beyond' at layer has numbers beyond float16"):
        model.become(Applied.rows([of(BEYOND), of(A)]))
    assert model.applied == Applied.rows([of(A)])
    assert torch.equal(module(x), output)
    for dtype in (torch.bfloat16, torch.float32):
        module, model = one_layer(dtype)
        model.become(Applied.rows([of(BEYOND)]))
        assert module(x.to(dtype)).isfinite().all()
