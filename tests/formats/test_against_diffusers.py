from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.loaders.lora_pipeline import FluxLoraLoaderMixin
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from loraloom.formats.load import load
from loraloom.formats.names import NameTable
from loraloom.formats.read import survey

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = LoraConfig(
    r=4,
    lora_alpha=2.5,
    rank_pattern={"^transformer_blocks.0.attn.to_k": 3},
    alpha_pattern={"^transformer_blocks.0.attn.to_q": 1.5, "proj_mlp": 0.3},
    target_modules=["to_q", "to_k", "to_out.0", "proj_mlp", "ff.net.2"],
)
PLAIN = LoraConfig(r=3, lora_alpha=3, target_modules=["to_q", "to_out.0"])


def transformer() -> Any:
    torch.manual_seed(0)
    return FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=(2, 2, 4),
    )


def adapted(config: LoraConfig) -> Any:
    """A tiny Flux with an adapter whose factors are all random."""
    model = transformer()
    model.add_adapter(config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    return model


def table() -> NameTable:
    layers = [(n, m) for n, m in transformer().named_modules() if isinstance(m, torch.nn.Linear)]
    sites = {n: (m.out_features, m.in_features) for n, m in layers}
    return NameTable({"transformer": sites}, default="transformer")


def compare(folder: Path, prefix: str | None) -> None:
    """Every layer changes its weight as it does in diffusers when that loads the same file."""
    reading = survey(folder, table())
    assert reading.format == "diffusers"
    assert not reading.problems
    theirs = transformer()
    theirs.load_lora_adapter(str(folder), prefix=prefix, adapter_name="x", use_safetensors=True)
    layers = {
        name: layer
        for name, layer in theirs.double().named_modules()
        if hasattr(layer, "get_delta_weight")
    }
    updates = load("flux", reading).sites("transformer")
    assert set(layers) == set(updates)
    for site, update in updates.items():
        ours = update.scale * (update.up.double() @ update.down.double())
        torch.testing.assert_close(
            ours, layers[site].get_delta_weight("x"), rtol=1e-13, atol=1e-13, msg=site
        )


@pytest.mark.parametrize("metadata", [True, False])
def test_what_a_pipeline_saves_is_read_as_diffusers_loads_it(
    tmp_path: Path, metadata: bool
) -> None:
    model = adapted(CONFIG)
    said = _collate_lora_metadata({"transformer": model}) if metadata else {}
    layers = get_peft_model_state_dict(model)
    FluxLoraLoaderMixin.save_lora_weights(tmp_path, transformer_lora_layers=layers, **said)
    compare(tmp_path, "transformer")
    scales = {entry.scale for entry in survey(tmp_path, table()).entries}
    assert scales == ({2.5 / 4, 1.5 / 4, 2.5 / 3, 0.3 / 4} if metadata else {1.0})


def test_what_a_model_saves_is_read_as_diffusers_loads_it(tmp_path: Path) -> None:
    adapted(CONFIG).save_lora_adapter(tmp_path)
    compare(tmp_path, None)


def test_the_older_spelling_is_read_as_diffusers_loads_it(tmp_path: Path) -> None:
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(adapted(PLAIN)))
    assert any(".lora.down.weight" in key for key in layers)
    FluxLoraLoaderMixin.save_lora_weights(tmp_path, transformer_lora_layers=layers)
    compare(tmp_path, "transformer")
