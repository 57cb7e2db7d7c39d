"""A pair of files for the two experts, as the command line takes it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import ImageChops

from loraloom import Canvas, Loom, Lora, Request
from loraloom.cli import generate
from loraloom.core.request import Sampling
from loraloom.pipelines import media
from tests.cli.console import made, refused

from . import tiny

if TYPE_CHECKING:
    from pathlib import Path

WORDS = ("a boat", "--size", "32x32", "--steps", "3", "--seed", "5")
ASKED = Request("a boat", 5, canvas=Canvas(32, 32), sampling=Sampling(steps=3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("wan"))


@pytest.fixture
def loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Loom:
    """What the command runs, and the adapters that it adds."""
    loom = Loom.load(str(folder))
    monkeypatch.setattr(generate, "load", lambda *_: loom)
    return loom


def pair(folder: Path, low: str = "low@transformer_2") -> tuple[str, ...]:
    files = {"high": folder / "high.safetensors", low: folder / "low.safetensors"}
    strengths = {"high": 0.7, low: -1.5}
    named = [f"{name}={file}:{strengths[name]}" for name, file in files.items()]
    return "--model", str(folder), "--lora", named[0], "--lora", named[1]


def test_a_pair_of_files_is_what_the_catalogue_is_told(
    folder: Path, tmp_path: Path, loaded: Loom
) -> None:
    path = tmp_path / "a.png"
    said = made(*WORDS, "-o", path, *pair(folder)).stdout
    ours = Loom.load(str(folder))
    high = ours.adapters.add("high", folder / "high.safetensors")
    low = ours.adapters.add("low", folder / "low.safetensors", component="transformer_2")
    worn = {each.name: each for each in media.read_provenance(path).worn}
    assert {name: (each.digest, each.strength, each.sites) for name, each in worn.items()} == {
        "high": (high.key.digest, 0.7, 10),
        "low": (low.key.digest, -1.5, 10),
    }
    assert f"wears low@{low.key.digest[:12]} at -1.5 on 10 sites" in said
    assert set(loaded.adapters.get("low").updates) == {"transformer_2"}
    request = replace(ASKED, loras=(Lora("high", 0.7), Lora("low", -1.5)))
    (want,) = ours.images([request])
    assert media.load_image(path).tobytes() == want.frames[0].tobytes()
    (latent,) = ours.latents([request])
    assert torch.equal(latent, loaded.latents([request])[0])
    ours.adapters.add("low", folder / "low.safetensors")  # for the other expert
    assert not torch.equal(latent, ours.latents([request])[0])


@pytest.mark.parametrize("residency", ["resident", "snapshot"])
def test_a_pair_is_remade_and_counted_in_a_plan(
    residency: str, folder: Path, tmp_path: Path
) -> None:
    first, again = tmp_path / "a.png", tmp_path / "b.png"
    made(*WORDS, "-o", first, *pair(folder))
    said = made("--like", first, "-o", again, *pair(folder), "--residency", residency).stderr
    assert said == f"loraloom: note: residency {residency}, components together\n"
    assert first.read_bytes() == again.read_bytes()


def test_experts_that_come_and_go_make_the_same(folder: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "a.png", tmp_path / "b.png"
    made(*WORDS, "-o", first, *pair(folder))
    made(*WORDS, "-o", again, *pair(folder), "--offload", "in turn")
    assert media.read_provenance(first) == media.read_provenance(again)
    apart = ImageChops.difference(media.load_image(first), media.load_image(again))
    # sums of numbers that lie elsewhere in memory may round otherwise
    assert max(apart.tobytes()) <= 1


@pytest.mark.parametrize(
    ("lora", "says"),
    [
        ("low@unet=FOLDER/low.safetensors", "for component 'unet', the model has transformer, "),
        ("low@transformer_2=FOLDER/none.safetensors", "there is no"),
        ("both@transformer_2=FOLDER/both.safetensors", "spelled in 2 ways"),
        ("@transformer_2=FOLDER/low.safetensors", "has no name"),
        ("low@transformer_2", "adapter 'low@transformer_2' is not known"),
        ("low@transformer_2=FOLDER/low.safetensors:1,2,3", "has strengths for 3 stages"),
    ],
)
@pytest.mark.usefixtures("loaded")
def test_what_no_expert_can_wear_is_refused(
    lora: str, says: str, folder: Path, tmp_path: Path
) -> None:
    wish = lora.replace("FOLDER", str(folder))
    words = (*WORDS, "--model", folder, "-o", tmp_path / "a.png", "--lora", wish)
    assert says in refused("generate", *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("loaded")
def test_one_name_for_both_files_is_refused(folder: Path, tmp_path: Path) -> None:
    words = (*WORDS, *pair(folder, "high@transformer_2"))
    said = refused("generate", *words, "-o", tmp_path / "a.png")
    assert "names adapter 'high' 2 times" in said
