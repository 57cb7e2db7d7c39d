"""Layers that keep their weight in a form of their own wear adapters live, and are never fused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from loraloom.core.adapter import Adapter, LowRank
from loraloom.core.mix import NOTHING, Applied, Mix, Part
from loraloom.errors import AdapterMismatchError
from loraloom.lora.model import LoraModel

from .quantised import KINDS, OUT, WIDTH, Net

if TYPE_CHECKING:
    from collections.abc import Mapping


@pytest.fixture(params=KINDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def net_of(name: str) -> Net:
    torch.manual_seed(0)
    net = Net().requires_grad_(requires_grad=False).eval()
    KINDS[name].quantise(net)
    return net.requires_grad_(requires_grad=False)


def inputs(net: Net, rows: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(rows, 5, WIDTH, generator=draw).to(net.last.weight.dtype)


def update(seed: int, rank: int, out: int = OUT, width: int = WIDTH) -> LowRank:
    draw = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, width, generator=draw) / width**0.5
    return LowRank(down, torch.randn(out, rank, generator=draw) * 0.3, 0.7)


def adapter(name: str, **updates: LowRank) -> Adapter:
    return Adapter.make(name, {"transformer": updates})


ONE, TWO = adapter("one", layer=update(1, 2)), adapter("two", layer=update(2, 3))
BOTH = Mix.of([Part(ONE.key, 0.8), Part(TWO.key, -1.5)])
SOME = Mix.of([Part(TWO.key, 0.25)])
ADAPTERS = {each.key: each for each in (ONE, TWO)}


def difference(mix: Mix, x: torch.Tensor) -> torch.Tensor:
    """What a mix adds to the output of the layer, in float64."""
    total = torch.zeros(*x.shape[:-1], OUT, dtype=torch.float64)
    for part in mix.parts:
        one = ADAPTERS[part.key].sites("transformer")["layer"]
        product = x.double() @ one.down.double().T @ one.up.double().T
        total = total + part.strength * one.scale * product
    return total


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    exact = 2e-2 if got.dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(got.double(), want, rtol=exact, atol=exact)


def objects(net: Net) -> Mapping[str, int]:
    """The identity of every parameter, buffer and packed weight."""
    held = {**net.layer.state_dict(keep_vars=True), **dict(net.named_parameters())}
    return {name: id(value) for name, value in held.items() if isinstance(value, nn.Parameter)}


def test_live_is_its_own_output_and_the_difference(name: str) -> None:
    net = net_of(name)
    x = inputs(net, 2)
    base = net(x)
    model = LoraModel("transformer", net, ADAPTERS)
    with model.wearing(Applied.rows([BOTH])):
        got = net(x)
    assert got.dtype == base.dtype
    close(got, base.double() + difference(BOTH, x))
    assert not torch.allclose(got, base, atol=1e-1)


def test_every_row_wears_its_mix(name: str) -> None:
    net = net_of(name)
    x = inputs(net, 6)
    base = net(x)
    model = LoraModel("transformer", net, ADAPTERS)
    mixes = [BOTH, NOTHING, SOME]
    with model.wearing(Applied.rows(mixes)):
        got = net(x)
    for row in range(6):
        # activations may be quantised by the batch: compare with its own output in this batch
        close(got[row], base[row].double() + difference(mixes[row % 3], x[row]))
    assert torch.equal(got[1], base[1])
    assert torch.equal(got[4], base[4])


def test_taken_off_it_is_bit_for_bit_what_it_was(name: str) -> None:
    net = net_of(name)
    x = inputs(net, 2)
    base, kind, held, keys = net(x), type(net.layer), objects(net), list(net.state_dict())
    model = LoraModel("transformer", net, ADAPTERS)
    model.become(Applied.rows([BOTH, SOME]))
    net(x)
    assert list(net.state_dict()) == keys
    model.become(Applied())
    assert torch.equal(net(x), base)
    assert objects(net) == held
    model.release()
    assert type(net.layer) is kind
    assert torch.equal(net(x), base)
    assert not net._forward_hooks


def test_fusing_is_refused_and_nothing_changes(name: str) -> None:
    net = net_of(name)
    x = inputs(net, 2)
    base, held = net(x), objects(net)
    model = LoraModel("transformer", net, ADAPTERS)
    for before in (Applied(), Applied.rows([SOME])):
        model.become(before)
        worn = net(x)
        with pytest.raises(AdapterMismatchError, match=rf"layer\b.*\b{KINDS[name].called}\b.*live"):
            model.become(Applied(fused=BOTH))
        assert model.applied == before
        assert torch.equal(net(x), worn)
        assert objects(net) == held
    model.release()
    assert torch.equal(net(x), base)


def test_other_layers_are_fused_beside_it(name: str) -> None:
    net = net_of(name)
    other = adapter("other", last=update(3, 2, out=8, width=OUT))
    model = LoraModel("transformer", net, {**ADAPTERS, other.key: other})
    mix = Mix.of([Part(other.key, 1.0)])
    x = inputs(net, 2)
    base, weight = net(x), net.last.weight.clone()
    model.become(Applied.rows([BOTH], fused=mix))
    close(net(x), base.double() + difference(BOTH, x))
    assert not torch.equal(net.last.weight, weight)
    model.become(Applied())
    assert torch.equal(net.last.weight, weight)
    assert torch.equal(net(x), base)


def test_an_adapter_of_another_shape_is_refused(name: str) -> None:
    model = LoraModel("transformer", net_of(name), {})
    bad = adapter("bad", layer=update(1, 2, out=OUT + 1))
    with pytest.raises(AdapterMismatchError, match=r"is 33×64, the layer is 32×64"):
        model.fitter.check(bad)


def test_the_input_may_go_by_the_name_that_the_layer_gives_it() -> None:
    net = net_of("coded")
    x = inputs(net, 2)
    model = LoraModel("transformer", net, ADAPTERS)
    with model.wearing(Applied.rows([BOTH])):
        assert torch.equal(net.layer(hidden=x), net.layer(x))
