"""Every kind of layer: live and fused against float64 and against peft, row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import peft
import pytest
import torch
from torch import nn

from loraloom.core.adapter import Adapter, LowRank
from loraloom.core.algebra import reference
from loraloom.core.mix import NOTHING, Applied, Mix, Part
from loraloom.errors import AdapterMismatchError
from loraloom.lora.model import LoraModel

if TYPE_CHECKING:
    from collections.abc import Callable

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(6, 10),
    "without bias": lambda: nn.Linear(6, 10, bias=False),
    "conv 1-D": lambda: nn.Conv1d(6, 10, 3, padding=1),
    "conv 2-D": lambda: nn.Conv2d(6, 10, 3, stride=2, padding=1),
    "conv 1x1": lambda: nn.Conv2d(6, 10, 1),
    "conv dilated and reflected": lambda: nn.Conv2d(
        6, 10, 3, padding=2, dilation=2, padding_mode="reflect"
    ),
    "conv 3-D": lambda: nn.Conv3d(6, 10, (1, 3, 3), padding=(0, 1, 1)),
    "embedding": lambda: nn.Embedding(12, 10, padding_idx=0),
}


class Holder(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(hidden_states)
        return out


def holder(name: str) -> Holder:
    torch.manual_seed(0)
    return Holder(LAYERS[name]()).requires_grad_(requires_grad=False)


def inputs(name: str, rows: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    if name == "embedding":
        return torch.randint(0, 12, (rows, 7), generator=draw)
    space = {"1-D": (9,), "2-D": (8, 8), "1x1": (8, 8), "3-D": (3, 8, 8), "refl": (8, 8)}
    axes = next((size for word, size in space.items() if word in name), None)
    shape = (rows, 6, *axes) if axes else (rows, 5, 6)
    return torch.randn(shape, generator=draw)


def adapter(name: str, seed: int, rank: int) -> Adapter:
    weight = LAYERS[name]().weight
    assert isinstance(weight, torch.Tensor)
    draw = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, *weight.shape[1:], generator=draw)
    up = torch.randn(weight.shape[0], rank, *[1] * (weight.ndim - 2), generator=draw) * 0.3
    return Adapter.make(f"a{seed}", {"transformer": {"layer": LowRank(down, up, 0.7 / rank)}})


def model_of(name: str) -> tuple[Holder, LoraModel, Mix, Mix]:
    one, two = adapter(name, 1, 2), adapter(name, 2, 3)
    module = holder(name)
    model = LoraModel("transformer", module, {each.key: each for each in (one, two)})
    both = Mix.of([Part(one.key, 0.8), Part(two.key, -1.5)])
    return module, model, both, Mix.of([Part(two.key, 0.25)])


@pytest.mark.parametrize("name", LAYERS)
def test_live_and_fused_equal_float64(name: str) -> None:
    module, model, both, _ = model_of(name)
    x = inputs(name, 2)
    exact = holder(name).double()
    weight = exact.layer.weight
    assert isinstance(weight, nn.Parameter)
    updates = [model.fitter.adapters[part.key].sites("transformer")["layer"] for part in both.parts]
    weight.data = reference(weight.data, updates, [part.strength for part in both.parts])
    want = exact(x if name == "embedding" else x.double())
    for state in (Applied.rows([both]), Applied(fused=both)):
        with model.wearing(state):
            torch.testing.assert_close(module(x).double(), want, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(module(x).double(), want, atol=1e-2)


@pytest.mark.parametrize("name", LAYERS)
def test_every_row_wears_its_mix(name: str) -> None:
    module, model, both, other = model_of(name)
    mixes = [both, NOTHING, other]
    x = inputs(name, 6)
    base = module(x)
    with model.wearing(Applied.rows(mixes)):
        together = module(hidden_states=x)
    for row in range(6):
        with model.wearing(Applied.rows([mixes[row % 3]])):
            torch.testing.assert_close(together[row], module(x[row : row + 1])[0])
    assert torch.equal(together[1], base[1])
    assert torch.equal(together[4], base[4])


@pytest.mark.parametrize("name", ["linear", "conv 2-D", "conv 1-D", "conv 3-D", "embedding"])
def test_the_output_is_peft_s(name: str) -> None:
    config = peft.LoraConfig(r=3, lora_alpha=2, target_modules=["layer"], init_lora_weights=False)
    theirs: Any = peft.get_peft_model(holder(name), config).eval()
    state = {key.split("layer.")[-1]: value for key, value in theirs.state_dict().items()}
    if name == "embedding":
        down, up = state["lora_embedding_B.default"].T, state["lora_embedding_A.default"].T
    else:
        down, up = state["lora_A.default.weight"], state["lora_B.default.weight"]
    ours = Adapter.make("theirs", {"transformer": {"layer": LowRank(down, up, 2 / 3)}})
    module = holder(name)
    model = LoraModel("transformer", module, {ours.key: ours})
    x = inputs(name, 2)
    mix = Mix.of([Part(ours.key, 1.0)])
    for state_of in (Applied.rows([mix]), Applied(fused=mix)):
        with model.wearing(state_of):
            torch.testing.assert_close(module(x), theirs(x), rtol=1e-5, atol=1e-5)


class Scaled(nn.Embedding):
    """As some text encoders have: what the forward gives is not the weight's row."""

    def forward(self, *indices: torch.Tensor) -> torch.Tensor:
        return 2.5 * super().forward(*indices)


@pytest.mark.parametrize(
    "layer", [Scaled(4, 4), nn.MultiheadAttention(4, 2), nn.LayerNorm(4)], ids=type
)
def test_a_layer_that_is_more_than_its_weight_is_no_site(layer: nn.Module) -> None:
    assert LoraModel("transformer", Holder(layer), {}).weights.layers == {}


def test_a_second_model_on_the_same_layers_is_refused() -> None:
    module = holder("linear")
    first = LoraModel("transformer", module, {})
    with pytest.raises(AdapterMismatchError, match="layer wears adapters of another"):
        LoraModel("transformer", module, {})
    first.release()
    LoraModel("transformer", module, {}).release()
    assert type(module.layer) is nn.Linear


def test_a_module_that_is_refused_stays_as_it_was() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    other = LoraModel("transformer", module[1], {})
    with pytest.raises(AdapterMismatchError, match="1 wears adapters of another"):
        LoraModel("transformer", module, {})
    other.release()
    assert type(module[0]) is nn.Linear
    assert not module._forward_pre_hooks


def test_a_grouped_convolution_is_no_site() -> None:
    module = Holder(nn.Conv2d(4, 4, 3, groups=2))
    assert LoraModel("transformer", module, {}).weights.layers == {}
