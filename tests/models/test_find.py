"""From a name, a folder or a hub id to a card, without torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from torch import nn

from loraloom import Canvas, Loom
from loraloom.core.request import Sampling
from loraloom.errors import InvalidRequestError, ModelError
from loraloom.models import find

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the embedded model that a test may break."""
    return shutil.copytree(find.BUNDLED["mini"], tmp_path / "model")


def test_the_name_table_from_headers_is_that_of_the_loaded_modules(loom: Loom) -> None:
    table = find.name_table(loom.card)
    for model in loom.models:
        layers = {site: tuple(layer.weight.shape) for site, layer in model.weights.layers.items()}
        assert dict(table.components[model.component]) == layers
    assert all(isinstance(layer, nn.Linear) for layer in loom.models[0].weights.layers.values())


def test_the_grid_is_the_vae_s(loom: Loom) -> None:
    assert loom.card.grid.frames == loom.pipe.vae.temporal_compression_ratio
    assert loom.card.grid.pixels == max(32, loom.pipe.vae.spatial_compression_ratio)


def test_a_folder_without_recommendations_gets_those_of_its_family(folder: Path) -> None:
    (folder / "loraloom.json").unlink()
    card = find.card(str(folder))
    assert card.defaults.picture == Canvas(768, 512)
    assert card.defaults.sampling == Sampling(30, 3.0)
    assert card.family.options == {}


def test_the_version_changes_with_weights_and_not_with_the_place(folder: Path) -> None:
    version = find.card("mini").version
    assert find.card(str(folder)).version == version
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert find.card(str(folder)).version != version


def test_a_folder_that_diffusers_saved_is_loaded(loom: Loom, tmp_path: Path) -> None:
    loom.pipe.save_pretrained(tmp_path / "saved")
    other = Loom.load(str(tmp_path / "saved"))
    assert other.card.family.name == "ltx2"
    ours = loom.pipe.transformer.state_dict()
    for name, value in other.pipe.transformer.state_dict().items():
        assert value.equal(ours[name])


def test_a_hub_id_is_found_in_the_hub_s_cache(folder: Path, tmp_path: Path) -> None:
    repo = tmp_path / "hub" / "models--somebody--tiny-ltx2"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0123456789abcdef0123456789abcdef01234567")
    shutil.copytree(folder, repo / "snapshots" / "0123456789abcdef0123456789abcdef01234567")
    code = (
        "import sys; from loraloom.models import find;"
        "card = find.card('somebody/tiny-ltx2');"
        "print(card.family.name, len(find.name_table(card)), 'torch' in sys.modules)"
    )
    env = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["ltx2", str(len(find.name_table(find.card("mini")))), "False"]


@pytest.mark.parametrize(
    ("size", "says"),
    [
        (Canvas(128, 130), "height is 130"),
        (Canvas(16, 128), "width is 16"),
        (Canvas(128, 128, frames=0), "frames is 0, .* e.g. 1"),
        (Canvas(128, 128, frames=16), "frames is 16, .* e.g. 17"),
    ],
)
def test_sizes_that_the_vae_cannot_divide_are_refused(size: Canvas, says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        find.card("mini").check(size)


def test_a_model_of_another_family_is_refused(folder: Path) -> None:
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "SomePipeline"}))
    with pytest.raises(ModelError, match="is a SomePipeline, want one of LTX2Pipeline"):
        find.card(str(folder))


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_broken_index_is_refused(text: str, folder: Path) -> None:
    (folder / "model_index.json").write_text(text)
    with pytest.raises(ModelError, match=r"model_index\.json"):
        find.card(str(folder))


def test_a_broken_checkpoint_is_refused_by_name(folder: Path) -> None:
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"diffusion_pytorch_model\.safetensors"):
        find.name_table(find.card(str(folder)))
    weights.unlink()
    with pytest.raises(ModelError, match=r"no \*\.safetensors in"):
        find.name_table(find.card(str(folder)))
