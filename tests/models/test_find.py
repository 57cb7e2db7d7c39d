"""From a name, a folder or a hub id to a card, without torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from loraloom import Canvas, Loom, Request, Sampling
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
    assert list(card.defaults.pipelines) == ["one-stage", "two-stage", "two-stage-hq", "distilled"]
    (base,) = card.defaults.usual
    assert base.sigmas is not None
    assert base.sigmas.count == 30
    assert base.guidance.passes == {"prompt", "negative", "perturbed", "isolated"}
    assert (base.guidance.video.cfg, base.guidance.audio.cfg) == (3.0, 7.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"picture": {}}', r"loraloom.json has no field"),
        ("[]", "holds no JSON object"),
        (None, r"has an unknown field 'wide'"),
    ],
)
def test_recommendations_that_are_none_are_refused(
    text: str | None, says: str, folder: Path
) -> None:
    path = folder / "loraloom.json"
    path.write_text(text or path.read_text().replace("{", '{"wide": 1,', 1))
    with pytest.raises(ModelError, match=says):
        find.card(str(folder))


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "vocoder"])
def test_a_checkpoint_that_lacks_a_tensor_is_refused(part: str, folder: Path) -> None:
    (path,) = (folder / part).glob("*.safetensors")
    tensors = load_file(path)
    weights = (key for key, value in tensors.items() if key.endswith("weight") and value.ndim > 1)
    name = next(weights)
    del tensors[name]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ModelError, match=f"{part} of model|cannot be loaded"):
        Loom.load(str(folder))


def test_a_truncated_text_encoder_is_refused(folder: Path) -> None:
    (path,) = (folder / "text_encoder").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelError, match="cannot be loaded"):
        Loom.load(str(folder))


def test_shards_are_followed_and_variants_left_alone(folder: Path) -> None:
    table = find.name_table(find.card(str(folder)))
    transformer = folder / "transformer"
    (path,) = transformer.glob("*.safetensors")
    tensors = load_file(path)
    shards: dict[str, dict[str, torch.Tensor]] = {"a.safetensors": {}, "b.safetensors": {}}
    for number, (key, value) in enumerate(tensors.items()):
        shards["ab"[number % 2] + ".safetensors"][key] = value
    for name, part in shards.items():
        save_file(part, transformer / name)
    places = {key: name for name, part in shards.items() for key in part}
    index = {"metadata": {}, "weight_map": places}
    (transformer / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"ghost.weight": tensors["proj_out.weight"]}, transformer / "x.fp16.safetensors")
    path.unlink()
    assert find.name_table(find.card(str(folder))) == table


def test_a_folder_for_another_pipeline_of_the_family_runs_all(folder: Path) -> None:
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("LTX2Pipeline", "LTX2ImageToVideoPipeline"))
    other = Loom.load(str(folder))
    request = Request("a star", canvas=Canvas(64, 64), sampling=Sampling(2, 1.0))
    assert len(other.latents([request])) == 1


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
