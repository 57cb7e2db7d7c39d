from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from loraloom.errors import AdapterConfigError
from loraloom.formats.load import load
from loraloom.formats.names import NameTable
from loraloom.formats.read import survey

if TYPE_CHECKING:
    from pathlib import Path

    from loraloom.core.adapter import Adapter

TARGETS = ["to_q", "to_out.0", "up"]

CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 4},
    "fractional alpha": {"r": 3, "lora_alpha": 0.7},
    "rslora": {"r": 3, "lora_alpha": 2, "use_rslora": True},
    "rank pattern": {"lora_alpha": 8, "rank_pattern": {"to_q": 3, "blocks.1.up": 1}},
    "anchored": {
        "rank_pattern": {"^blocks.0.to_q": 5},
        "alpha_pattern": {"^blocks.1.up": 0.25},
    },
    "regex": {
        "alpha_pattern": {r"blocks\.\d+\.to_.*": 1.5, "up": 7},
        "rank_pattern": {"(0|1).up": 6},
        "use_rslora": True,
    },
    "first match": {"alpha_pattern": {"blocks.0.to_q": 1, "to_q": 9}},
    "gaussian": {"init_lora_weights": "gaussian"},
}


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q = torch.nn.Linear(8, 8)
        self.to_out = torch.nn.ModuleList([torch.nn.Linear(8, 8)])
        self.up = torch.nn.Linear(8, 16)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([Block(), Block()])


def adapted(fields: dict[str, Any]) -> Any:
    """A PEFT model whose factors are all random."""
    torch.manual_seed(0)
    model = get_peft_model(
        Net(), LoraConfig(**{"target_modules": TARGETS, "r": 2, "lora_alpha": 3, **fields})
    )
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    return model


def table() -> NameTable:
    layers = [(n, m) for n, m in Net().named_modules() if isinstance(m, torch.nn.Linear)]
    return NameTable({"net": {n: (m.out_features, m.in_features) for n, m in layers}}, "net")


def compare(model: Any, adapter: Adapter) -> None:
    """Every layer changes its weight as PEFT says, computed in float64."""
    layers = {
        name.removeprefix("base_model.model."): layer
        for name, layer in model.double().named_modules()
        if hasattr(layer, "get_delta_weight")
    }
    updates = adapter.sites("net")
    assert set(layers) == set(updates)
    for site, layer in layers.items():
        update = updates[site]
        ours = update.scale * (update.up.double() @ update.down.double())
        torch.testing.assert_close(
            ours, layer.get_delta_weight("default"), rtol=1e-13, atol=1e-13, msg=site
        )


@pytest.mark.parametrize("name", CONFIGS)
def test_a_saved_peft_model_is_read_as_peft_computes_it(tmp_path: Path, name: str) -> None:
    model = adapted(CONFIGS[name])
    model.save_pretrained(tmp_path)
    reading = survey(tmp_path, table())
    assert reading.format == "peft"
    assert (reading.sites, reading.of, reading.problems) == (6, 6, ())
    compare(model, load("net", reading))


def test_a_training_state_with_its_slot_is_read_as_peft_computes_it(tmp_path: Path) -> None:
    model = adapted({"r": 3, "lora_alpha": 3})
    state = {key: tensor for key, tensor in model.state_dict().items() if "lora_" in key}
    assert any("lora_A.default.weight" in key for key in state)
    save_file(state, tmp_path / "state.safetensors")
    compare(model, load("net", survey(tmp_path, table())))
    other = adapted({"r": 3, "lora_alpha": 5})
    compare(other, load("net", survey(tmp_path, table(), alpha=5)))


# PEFT's own check of what it saves takes its biases for torn matrices
@pytest.mark.filterwarnings("ignore:Adapter 'default'.*lora_B.bias")
@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "lora_only"}, "bias"),
        ({"modules_to_save": ["up"], "target_modules": ["to_q"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
    ],
)
def test_what_peft_can_do_and_we_cannot_is_refused_by_name(
    tmp_path: Path, fields: dict[str, Any], named: str
) -> None:
    model = get_peft_model(Net(), LoraConfig(**{"target_modules": TARGETS, "r": 2, **fields}))
    model.save_pretrained(tmp_path)
    with pytest.raises(AdapterConfigError, match=named):
        survey(tmp_path, table())
