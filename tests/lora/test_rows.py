"""How the samples of a batch reach layers as rows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from loraloom.core.adapter import Adapter, LowRank
from loraloom.core.mix import NOTHING, Applied, Mix, Part
from loraloom.errors import RowsError
from loraloom.lora.model import LoraModel

from .strategies import ADAPTERS, mix, tiny

THREE = [mix(all=1), NOTHING, mix(half=-0.5, one=2)]


def alone(rows: list[int], x: torch.Tensor) -> torch.Tensor:
    """Row by row: row *i* wears what sample ``rows[i]`` wears."""
    module = tiny()
    model = LoraModel("transformer", module, ADAPTERS)
    out = []
    for i, sample in enumerate(rows):
        with model.wearing(Applied.rows([THREE[sample]])):
            out.append(module(x[i : i + 1]))
    return torch.cat(out)


@pytest.mark.parametrize(
    ("name", "per_prompt", "passes"),
    [
        ("one row", 1, 1),
        ("guidance", 1, 2),
        ("three", 1, 3),
        ("two each", 2, 2),
    ],
)
def test_every_row_wears_the_mix_of_its_request(name: str, per_prompt: int, passes: int) -> None:
    samples = [i for i in range(3) for _ in range(per_prompt)]
    module = tiny()
    model = LoraModel("transformer", module, ADAPTERS)
    x = torch.randn(len(samples) * passes, 4, 16)
    with model.wearing(Applied.rows([THREE[i] for i in samples])):
        got = module(hidden_states=x)
    torch.testing.assert_close(got, alone(samples * passes, x), rtol=1e-4, atol=1e-5)


def test_a_layer_that_sees_one_entry_for_all_rows_cannot_tell_them_apart() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.time = nn.Linear(16, 16)

        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            shared: torch.Tensor = self.time(hidden_states[:1, 0])
            return hidden_states + shared

    update = LowRank(torch.ones(1, 16), torch.ones(16, 1), 1.0)
    adapter = Adapter.make("time", {"transformer": {"time": update}})
    module = Shared()
    model = LoraModel("transformer", module, {adapter.key: adapter})
    wears = Mix.of([Part(adapter.key, 1.0)])
    model.become(Applied.rows([wears, NOTHING]))
    with pytest.raises(RowsError, match=r"1 entries reach time .* 2 rows, .* 2 samples"):
        module(hidden_states=torch.randn(2, 3, 16))
    model.become(Applied.rows([wears, wears]))
    assert module(hidden_states=torch.randn(2, 3, 16)).shape == (2, 3, 16)


def test_rows_that_are_no_multiple_of_the_samples_are_an_error() -> None:
    module = tiny()
    model = LoraModel("transformer", module, ADAPTERS)
    with (
        model.wearing(Applied.rows(THREE)),
        pytest.raises(RowsError, match="want multiples"),
    ):
        module(torch.randn(4, 2, 16))


def test_equal_mixes_fit_any_number_of_rows() -> None:
    module = tiny()
    model = LoraModel("transformer", module, ADAPTERS)
    with model.wearing(Applied.rows([mix(all=1)] * 3)):
        assert module(torch.randn(7, 2, 16)).shape == (7, 2, 16)


def test_a_layer_whose_forward_another_tool_replaced_wears_too() -> None:
    module = tiny()
    x = torch.randn(2, 16)
    plain = module.time(x)
    model = LoraModel("transformer", module, ADAPTERS)
    with model.wearing(Applied.rows([mix(half=1)])):
        worn = module.time(x) - plain
    own = module.time.forward
    object.__setattr__(module.time, "forward", lambda x: 2 * own(x))
    with model.wearing(Applied.rows([mix(half=1)])):
        torch.testing.assert_close(module.time(x), 2 * plain + worn)


def model_of(module: nn.Module, site: str) -> tuple[LoraModel, Mix]:
    """``module`` with an adapter of ones on one site."""
    out, width = module.get_submodule(site).get_parameter("weight").shape
    update = LowRank(torch.ones(1, width), torch.ones(out, 1), 1.0)
    adapter = Adapter.make("ones", {"transformer": {site: update}})
    model = LoraModel("transformer", module, {adapter.key: adapter})
    return model, Mix.of([Part(adapter.key, 1.0)])


def test_a_layer_called_around_its_component_is_not_told_rows_of_an_earlier_pass() -> None:
    module = tiny()
    model = LoraModel("transformer", module, ADAPTERS)
    x = torch.randn(6, 4, 16)
    with model.wearing(Applied.rows(THREE)):
        module(x[:3])
        with pytest.raises(RowsError, match="a pass of 0 rows"):
            module.time(x)  # two passes of guidance would look like runs of two entries
        with pytest.raises(RowsError, match="4 rows"):
            module(x[:4])
        with pytest.raises(RowsError, match="a pass of 0 rows"):
            module.time(x)


@pytest.mark.parametrize("positions", [1, 4, 6])
def test_an_embedding_that_is_looked_up_once_for_all_rows_is_refused(positions: int) -> None:
    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position = nn.Embedding(8, 16)

        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.position(torch.arange(positions))
            return hidden_states + out.mean(0)

    module = Placed()
    model, wears = model_of(module, "position")
    with model.wearing(Applied.rows([wears, NOTHING])), pytest.raises(RowsError, match="one of"):
        module(torch.randn(2, 3, 16))
    with model.wearing(Applied.rows([wears, wears])):
        assert module(torch.randn(2, 3, 16)).shape == (2, 3, 16)


def test_a_layer_whose_weight_is_read_without_calling_it_is_no_site() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2)

    assert LoraModel("transformer", Pooled(), {}).weights.layers == {}


def test_a_layer_may_be_called_with_its_input_by_name() -> None:
    module = tiny()
    model = LoraModel("transformer", module, ADAPTERS)
    x = torch.randn(2, 16)
    assert torch.equal(module.time(input=x), module.time(x))
    with model.wearing(Applied.rows([mix(half=1)])):
        assert torch.equal(module.time(input=x), module.time(x))
