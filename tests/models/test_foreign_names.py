"""Adapters with the original names act where diffusers' own converter puts them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from diffusers import LTX2VideoTransformer3DModel
from diffusers.loaders.lora_conversion_utils import (
    _convert_non_diffusers_ltx2_lora_to_diffusers as converted,
)
from diffusers.pipelines.ltx2 import LTX2TextConnectors
from safetensors.torch import load_file, save_file

from loraloom.errors import AdapterCoverageError
from loraloom.formats.names import NameTable
from loraloom.formats.read import survey
from loraloom.models.ltx2.names import FOREIGN, MODEL

from .originals import original

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

SMALL = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 16,
    "audio_num_attention_heads": 2,
    "audio_attention_head_dim": 4,
    "audio_cross_attention_dim": 8,
    "num_layers": 2,
    "caption_channels": 12,
}
NEW = dict.fromkeys(
    ("gated_attn", "cross_attn_mod", "audio_gated_attn", "audio_cross_attn_mod", "perturbed_attn"),
    True,
) | {"use_prompt_embeddings": False}
TEXT = {
    "caption_channels": 12,
    "text_proj_in_factor": 2,
    "video_connector_num_attention_heads": 2,
    "video_connector_attention_head_dim": 6,
    "video_connector_num_layers": 1,
    "audio_connector_num_attention_heads": 2,
    "audio_connector_attention_head_dim": 6,
    "audio_connector_num_layers": 1,
}
BOTH = {"per_modality_projections": True, "video_hidden_dim": 12, "audio_hidden_dim": 12}


def table(release: str) -> NameTable:
    parts = {
        "transformer": LTX2VideoTransformer3DModel(**SMALL, **(NEW if release == "2.3" else {})),
        "connectors": LTX2TextConnectors(**TEXT, **(BOTH if release == "2.3" else {})),
    }
    sites = {part: linear(module) for part, module in parts.items()}
    return NameTable(sites, default="transformer", foreign=FOREIGN)


def linear(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(layer.weight.shape)
        for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }


def factors(names: NameTable, component: str, prefix: str | None = None) -> dict[str, Tensor]:
    """Random factors for every layer of a component by its original name, or after ``prefix``."""
    held: dict[str, Tensor] = {}
    for site, (out, inside) in names.components[component].items():
        name = original(component, f"{site}.weight").removesuffix(".weight")
        name = name.removeprefix("model.") if prefix is None else prefix + name.removeprefix(MODEL)
        held[f"{name}.lora_A.weight"] = torch.randn(2, inside)
        held[f"{name}.lora_B.weight"] = torch.randn(out, 2)
    return held


def landed(path: Path, names: NameTable) -> dict[str, Tensor]:
    """The factors of a file by where they act, spelled as diffusers spells them."""
    tensors = load_file(path)
    reading = survey(path, names)
    assert not reading.problems
    return {
        f"{entry.place}.lora_{side}.weight": tensors[key]
        for entry in reading.entries
        for side, key in (("A", entry.down_key), ("B", entry.up_key))
    }


def equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("release", ["2.0", "2.3"])
def test_every_layer_of_the_transformer_lands_where_diffusers_puts_it(
    release: str, tmp_path: Path
) -> None:
    names = table(release)
    held = factors(names, "transformer")
    save_file(held, tmp_path / "a.safetensors")
    ours = landed(tmp_path / "a.safetensors", names)
    assert len(ours) == 2 * len(names.components["transformer"])
    equal(ours, converted(dict(held)))


@pytest.mark.parametrize("release", ["2.0", "2.3"])
def test_the_projections_of_the_text_land_where_diffusers_puts_them(
    release: str, tmp_path: Path
) -> None:
    names = table(release)
    spelled = factors(names, "connectors")
    held = {key: value for key, value in spelled.items() if key.startswith("text_embedding")}
    assert len(held) == (4 if release == "2.3" else 2)
    save_file(held, tmp_path / "a.safetensors")
    ours = landed(tmp_path / "a.safetensors", names)
    equal(ours, converted(dict(held), "text_embedding_projection"))


@pytest.mark.parametrize(
    "prefix", ["", "diffusion_model.", MODEL, "base_model.model.", "transformer."]
)
@pytest.mark.parametrize("release", ["2.0", "2.3"])
def test_every_layer_lands_with_any_prefix(release: str, prefix: str, tmp_path: Path) -> None:
    names = table(release)
    for component in ("transformer", "connectors"):
        save_file(factors(names, component, prefix), tmp_path / "a.safetensors")
        places = {entry.place for entry in survey(tmp_path / "a.safetensors", names).entries}
        assert {place.component for place in places} == {component}
        assert {place.site for place in places} == names.components[component].keys()


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("diffusion_model.patchify_proj.0", "transformer.proj_in"),
        ("diffusion_model.audio_adaln_single.linaer", "transformer.audio_time_embed.linear"),
        (
            "diffusion_model.video_embeddings_connector.transformer_1d_blocks.0.attn1.to_qq",
            "connectors.video_connector.transformer_blocks.0.attn1.to_q",
        ),
    ],
)
def test_an_original_name_that_is_wrong_is_refused_with_near_misses(
    path: str, near: str, tmp_path: Path
) -> None:
    held = {f"{path}.lora_A.weight": torch.ones(2, 4), f"{path}.lora_B.weight": torch.ones(4, 2)}
    save_file(held, tmp_path / "a.safetensors")
    with pytest.raises(AdapterCoverageError) as caught:
        survey(tmp_path / "a.safetensors", table("2.3"))
    assert near in str(caught.value)
    assert table("2.3").near(path)[0] == near


def test_both_spellings_of_one_layer_are_two_adapters(tmp_path: Path) -> None:
    held: dict[str, Any] = {}
    for layer in ("proj_in", "diffusion_model.patchify_proj"):
        held[f"{layer}.lora_A.weight"] = torch.ones(2, 128)
        held[f"{layer}.lora_B.weight"] = torch.ones(16, 2)
    save_file(held, tmp_path / "a.safetensors")
    with pytest.raises(AdapterCoverageError, match="spelled in 2 ways"):
        survey(tmp_path / "a.safetensors", table("2.3"))
