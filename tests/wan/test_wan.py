"""What is known of Wan's folders and files before a weight is loaded, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import (
    _convert_non_diffusers_wan_lora_to_diffusers as converted,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from loraloom import Canvas, Condition, Loom, Lora, Request, Sampling
from loraloom.cli.app import app
from loraloom.core.stage import Guidance, Guides, Sigmas
from loraloom.errors import (
    AdapterMismatchError,
    InvalidRequestError,
    InvalidStageError,
    LoraloomError,
)
from loraloom.formats.names import renamed
from loraloom.models import find
from loraloom.models.wan import FOREIGN
from loraloom.pipelines import media

from . import tiny

if TYPE_CHECKING:
    from pathlib import Path

    from loraloom import Result
    from loraloom.core.request import Policy

CANVAS = Canvas(32, 32, 5, 16.0)
ORIGINALS = [
    *(f"blocks.0.{kind}_attn.{part}" for kind in ("self", "cross") for part in "qkvo"),
    *(f"blocks.0.ffn.{part}" for part in (0, 2)),
    *(f"{kind}_embedding.{part}" for kind in ("text", "time") for part in (0, 2)),
    "time_projection.1",
    "head.head",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("wan"))


@pytest.fixture(scope="module")
def ours(folder: Path) -> Loom:
    return Loom.load(str(folder))


def test_the_card_says_what_the_folder_is(ours: Loom) -> None:
    card = ours.card
    assert (card.family.name, card.grid.pixels, card.grid.frames) == ("wan", 16, 4)
    high, low = card.defaults.usual
    assert (high.component, low.component) == ("transformer", "transformer_2")
    assert high.sigmas
    assert (high.sigmas.steps, high.sigmas.until, low.sigmas) == (40, tiny.BOUNDARY, None)
    assert (high.guidance.video.cfg, low.guidance.video.cfg) == (4.0, 3.0)
    assert not card.defaults.audio


def test_layers_as_wan_spells_them_are_those_that_diffusers_converts_them_to() -> None:
    keys = [f"diffusion_model.{layer}.lora_A.weight" for layer in ORIGINALS]
    ups = {key.replace("_A", "_B"): torch.zeros(1) for key in keys}
    theirs = converted({key: torch.tensor([i]) for i, key in enumerate(keys)} | ups)
    layers = {int(v): k.removeprefix("transformer.") for k, v in theirs.items() if "_A" in k}
    for index, key in enumerate(keys):
        ours = renamed(key.removesuffix(".lora_A.weight"), FOREIGN)
        assert f"{ours}.lora_A.weight" == layers[index]


def test_a_file_goes_to_the_expert_that_it_is_added_for(folder: Path, ours: Loom) -> None:
    file = folder / "low.safetensors"
    high = ours.adapters.add("first", file)
    low = ours.adapters.add("second", file, component="transformer_2")
    assert set(high.updates) == {"transformer"}
    assert set(low.updates) == {"transformer_2"}
    assert set(high.sites("transformer")) == set(low.sites("transformer_2"))
    assert high.key.digest != low.key.digest


def test_a_file_that_names_the_main_expert_goes_where_it_is_added_for(
    folder: Path, ours: Loom, tmp_path: Path
) -> None:
    """Both files of a pair that diffusers wrote name ``transformer``."""
    tensors = load_file(folder / "both.safetensors")
    main = {key: value for key, value in tensors.items() if key.startswith("transformer.")}
    save_file(main, tmp_path / "pair.safetensors")
    low = ours.adapters.add("third", tmp_path / "pair.safetensors", component="transformer_2")
    assert set(low.updates) == {"transformer_2"}
    assert len(low.sites("transformer_2")) == len(main) // 2


def test_a_file_that_names_both_experts_is_for_both(folder: Path, ours: Loom) -> None:
    pair = ours.adapters.add("pair", folder / "both.safetensors")
    assert set(pair.updates) == {"transformer", "transformer_2"}


@pytest.mark.parametrize("policy", ["live", "fused", "auto"])
def test_one_expert_wears_its_part_of_an_adapter_for_both(
    policy: Policy, folder: Path, ours: Loom
) -> None:
    ours.adapters.add("pair", folder / "both.safetensors")
    low = ours.adapters.add("low", folder / "low.safetensors", component="transformer_2")
    asked = Request("a star", canvas=CANVAS, sampling=Sampling(steps=4))

    def made(lora: Lora) -> Result:
        return ours.videos([replace(asked, loras=(lora,))], policy=policy)[0]

    part, whole, own = (
        made(Lora("pair", target="transformer_2")),
        made(Lora("pair")),
        made(Lora("low")),
    )
    assert part.frames[0].tobytes() == own.frames[0].tobytes()
    assert part.frames[0].tobytes() != whole.frames[0].tobytes()
    assert part.worn[0].target == "transformer_2"
    assert part.worn[0].sites == len(low.sites("transformer_2"))


def test_what_cannot_be_worn_where_it_is_asked_for_is_refused(folder: Path, ours: Loom) -> None:
    ours.adapters.add("high", folder / "high.safetensors")
    asked = Request("a star", canvas=CANVAS, sampling=Sampling(steps=4))
    with pytest.raises(
        AdapterMismatchError, match=r"'unet', model .* has transformer, transformer_2"
    ):
        ours.videos([replace(asked, loras=(Lora("high", target="unet"),))])
    with pytest.raises(AdapterMismatchError, match="nothing for component 'transformer_2'"):
        ours.videos([replace(asked, loras=(Lora("high", target="transformer_2"),))])


def test_a_file_that_names_both_experts_is_refused_for_one(folder: Path, ours: Loom) -> None:
    with pytest.raises(LoraloomError, match="spelled in 2 ways"):
        ours.adapters.add("pair-2", folder / "both.safetensors", component="transformer_2")
    assert "pair-2" not in ours.adapters.names()


def test_a_component_that_is_not_there_is_refused(folder: Path, ours: Loom) -> None:
    with pytest.raises(AdapterMismatchError, match=r"'unet'.*transformer, transformer_2"):
        ours.adapters.add("nowhere", folder / "low.safetensors", component="unet")


def test_images_and_sound_are_refused(ours: Loom) -> None:
    image = Condition(Image.new("RGB", (32, 32)))
    with pytest.raises(InvalidRequestError, match=r"1 image is given.*family wan takes none"):
        ours.latents([Request("a boat", canvas=CANVAS, conditions=(image,))])
    with pytest.raises(InvalidRequestError, match=r"sound is asked for.*family wan makes none"):
        ours.latents([Request("a boat", canvas=CANVAS, audio=True)])


def test_stages_that_no_expert_can_run_are_refused(ours: Loom) -> None:
    high, low = ours.card.defaults.usual
    strange = {
        "transformer_3": (high, replace(low, component="transformer_3")),
        "perturbed": (replace(high, guidance=Guidance(Guides(4.0, stg=1.0))), low),
        "embedded guidance": (replace(high, guidance=Guidance(embedded=3.5)), low),
        "larger": (
            replace(high, sigmas=Sigmas(2), size=0.5),
            replace(low, sigmas=Sigmas(given=(0.5,))),
        ),
    }
    for what, stages in strange.items():
        with pytest.raises(InvalidStageError, match=what):
            ours.latents([Request("a boat", canvas=Canvas(64, 64, 5), stages=stages)])


def test_a_folder_without_its_second_expert_is_refused(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        if path.name != "transformer_2":
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(LoraloomError, match="lacks the component transformer_2"):
        find.card(str(tmp_path))


def test_the_command_line_makes_videos_and_pictures(folder: Path, tmp_path: Path) -> None:
    said = {"--model": str(folder), "--size": "32x32", "--steps": "3"}
    options = [text for pair in said.items() for text in pair]
    for name, more in (("out.mp4", ["--frames", "5"]), ("out.png", [])):
        output = tmp_path / name
        wish = ["--lora", f"pair={folder / 'both.safetensors'}:0.7,0.4"]
        asked = ["generate", "a boat", "--output", str(output), *options, *more, *wish]
        done = CliRunner().invoke(app, asked)
        assert done.exit_code == 0, done.output
        assert output.stat().st_size
        assert "pair" in done.output


def test_a_remade_file_is_the_same_to_the_bit(folder: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    options = ["--model", str(folder), "--size", "32x32", "--steps", "3", "--seed", "5"]
    runner = CliRunner()
    assert not runner.invoke(app, ["generate", "a boat", "-o", str(first), *options]).exit_code
    assert not runner.invoke(app, ["generate", "--like", str(first), "-o", str(second)]).exit_code
    assert first.read_bytes() == second.read_bytes()
    stages = media.read_provenance(first).asked.stages
    assert [stage.component for stage in stages] == ["transformer", "transformer_2"]
