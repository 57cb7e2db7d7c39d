"""The command line: what it makes, what it refuses, and that it starts without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

import loraloom
from loraloom.cli import app, demo, generate
from loraloom.cli.options import Wish, parse_wish
from loraloom.cli.showcase import PICTURES, VIDEO, Shelf
from loraloom.core.request import Lora
from loraloom.core.schedule import Curve
from loraloom.errors import InvalidStrengthError
from loraloom.models import find
from loraloom.pipelines import media

if TYPE_CHECKING:
    from typer.testing import Result

    from loraloom import Loom

STAR = "a large red star on a blue background"
SMALL = ("--size", "64x64", "--steps", "2")
START = "from loraloom.cli import main; main()"


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def made(*words: str | Path) -> Result:
    result = run("generate", *words)
    assert result.exit_code == 0, result.output
    return result


def refused(*words: str | Path) -> str:
    """The one sentence on stderr with which a command is refused."""
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("loraloom: error: ")
    return lines[0].removeprefix("loraloom: error: ")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def adapter_file(path: Path, seed: int, *extra: str) -> Path:
    """A random adapter of the embedded model's query projections and of its last layer.

    The last layer is zero before training, so that no other can show.
    """
    draw = torch.Generator().manual_seed(seed)
    sites = find.name_table(find.card("mini")).components["transformer"]
    tensors = {}
    for site in ["proj_out", *(site for site in sites if site.endswith(".attn1.to_q")), *extra]:
        rows, columns = sites.get(site, (8, 8))
        tensors[f"transformer.{site}.lora_A.weight"] = torch.randn(4, columns, generator=draw)
        tensors[f"transformer.{site}.lora_B.weight"] = torch.randn(rows, 4, generator=draw)
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with adapters ``one``, ``two`` and ``odd``, which fits only in part."""
    folder = tmp_path_factory.mktemp("adapters")
    adapter_file(folder / "one.safetensors", 1)
    adapter_file(folder / "two.safetensors", 2)
    adapter_file(folder / "odd.safetensors", 3, "transformer_blocks.77.attn1.to_q")
    return folder


@pytest.fixture(scope="module")
def own() -> Loom:
    return loraloom.Loom.load("mini")


@pytest.fixture
def once(own: Loom, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands share one loaded model; that they load one is what the subprocesses test."""
    for module in (generate, demo):
        monkeypatch.setattr(module, "load", lambda _name: own)


# ------------------------------------------------------------------ what is made


@pytest.mark.usefixtures("once")
@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_a_picture_says_what_it_wears_and_is_made_again_from_itself(
    tmp_path: Path, files: Path, suffix: str
) -> None:
    first, again = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    one = f"one={files / 'one.safetensors'}"
    said = made(STAR, "-o", first, "--lora", f"{one}:0.5", "--seed", "3", *SMALL).stdout
    provenance = media.read_provenance(first)
    worn = provenance.worn[0]
    assert (worn.name, worn.strength, worn.sites) == ("one", 0.5, 7)
    assert f"wears one@{worn.digest[:12]} at 0.5 on 7 sites (live)" in said
    assert str(first) in said
    assert provenance.asked.seed == 3
    assert media.load_image(first).size == (64, 64)
    made("--like", first, "-o", again, "--lora", one)
    assert first.read_bytes() == again.read_bytes()


@pytest.mark.usefixtures("once")
def test_an_adapter_changes_the_picture(tmp_path: Path, files: Path) -> None:
    pictures = []
    for index, lora in enumerate(((), ("--lora", f"one={files / 'one.safetensors'}"))):
        path = tmp_path / f"{index}.png"
        said = made(STAR, "-o", path, *lora, *SMALL).stdout
        assert ("wears nothing" in said) == (not lora)
        pictures.append(media.load_image(path).tobytes())
    assert pictures[0] != pictures[1]


@pytest.mark.usefixtures("once")
def test_several_prompts_are_one_batch_with_seeds_that_count_up(
    tmp_path: Path, files: Path
) -> None:
    loras = [f"{name}={files / name}.safetensors:{s}" for name, s in (("one", 0.5), ("two", -1))]
    prompts = (STAR, "a small blue heart on a white background")
    made(
        *prompts, "-o", tmp_path / "a.png", "--lora", loras[0], "--lora", loras[1], "--seed", "5",
        "--negative", "blue", "--guidance", "2", "--policy", "fused", *SMALL,
    )  # fmt: skip
    assert names(tmp_path) == ["a-1.png", "a-2.png"]
    for index, prompt in enumerate(prompts):
        provenance = media.read_provenance(tmp_path / f"a-{index + 1}.png")
        assert provenance.asked.prompt == prompt
        assert provenance.asked.seed == 5 + index
        assert provenance.asked.negative_prompt == "blue"
        assert provenance.asked.sampling.guidance == 2.0
        assert provenance.policy == "fused"
        assert {(worn.name, worn.strength) for worn in provenance.worn} == {
            ("one", 0.5),
            ("two", -1.0),
        }


@pytest.mark.usefixtures("once")
def test_a_video_from_its_first_and_last_image_is_made_again_from_itself(tmp_path: Path) -> None:
    ends = [tmp_path / "first.png", tmp_path / "last.png"]
    for colour, path in zip(("red", "blue"), ends, strict=True):
        Image.new("RGB", (64, 64), colour).save(path)
    images = [word for path in ends for word in ("--image", path)]
    first, again = tmp_path / "a.mp4", tmp_path / "b.mp4"
    assert made(STAR, "-o", first, "--frames", "5", *images, *SMALL).stderr == ""
    asked = media.read_provenance(first).asked
    assert asked.canvas == replace(find.card("mini").defaults.video, width=64, height=64, frames=5)
    assert [shown.frame for shown in asked.images] == [0, -1]
    assert [shown.digest for shown in asked.images] == [
        media.digest_of_image(media.load_image(path)) for path in ends
    ]
    assert "give as many with --image" in refused("generate", "--like", first, "-o", again)
    made("--like", first, "-o", again, *images)
    assert first.read_bytes() == again.read_bytes()
    swapped = made("--like", first, "-o", again, *images[2:], *images[:2])
    assert "loraloom: note: an image of --image is not the one" in swapped.stderr
    assert first.read_bytes() != again.read_bytes()


@pytest.mark.usefixtures("once")
def test_options_override_the_remade_file(tmp_path: Path, files: Path) -> None:
    one, two = (f"{name}={files / name}.safetensors" for name in ("one", "two"))
    first, again = tmp_path / "a.png", tmp_path / "b.png"
    made(STAR, "-o", first, "--lora", f"{one}:0.5", "--seed", "3", "--policy", "fused", *SMALL)
    made("--like", first, "-o", again, "--lora", f"{one}:0.25", "--lora", two, "--seed", "4")
    before, after = media.read_provenance(first), media.read_provenance(again)
    assert after.asked == replace(before.asked, seed=4)
    assert after.policy == "fused"
    assert {(worn.name, worn.strength) for worn in after.worn} == {("one", 0.25), ("two", 1.0)}
    made("another prompt", "--like", first, "-o", again, "--lora", "one:0", "--steps", "3")
    after = media.read_provenance(again)
    assert after.asked.prompt == "another prompt"
    assert after.asked.sampling == replace(before.asked.sampling, steps=3)
    assert after.worn == ()


@pytest.mark.usefixtures("once")
def test_the_pieces_of_a_file_that_fits_in_part_are_worn_if_that_is_allowed(
    tmp_path: Path, files: Path
) -> None:
    odd = ("--lora", f"odd={files / 'odd.safetensors'}", "-o", tmp_path / "a.png", *SMALL)
    assert "transformer_blocks.77.attn1.to_q" in refused("generate", STAR, *odd)
    made(STAR, *odd, "--allow-partial", "--alpha", "2")
    assert media.read_provenance(tmp_path / "a.png").worn[0].sites == 7


@pytest.mark.usefixtures("once")
def test_alpha_is_part_of_what_an_adapter_is(tmp_path: Path, files: Path) -> None:
    lora = ("--lora", f"one={files / 'one.safetensors'}")
    digests = set()
    for index, alpha in enumerate(((), ("--alpha", "2"), ("--alpha", "8"))):
        path = tmp_path / f"{index}.png"
        made(STAR, "-o", path, *lora, *alpha, *SMALL)
        digests.add(media.read_provenance(path).worn[0].digest)
    assert len(digests) == 3


# ------------------------------------------------------------------ what is refused


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("no picture")
    (tmp_path / "pickle.bin").write_bytes(b"PK\x03\x04 and so on")
    (tmp_path / "image.png").write_bytes(b"no picture")
    Image.new("RGB", (64, 64)).save(tmp_path / "plain.png")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text('{"_class_name": "LTX2Pipeline"}')
    (tmp_path / "out").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("PROMPT -o out/a.gif", "ends in '.gif', want one of .png, .webp, .mp4"),
        ("PROMPT -o none/a.png", "none is not a folder"),
        ("PROMPT -o text.txt/a.png", "text.txt is not a folder"),
        ("PROMPT", "Missing option '-o' / '--output'."),
        ("-o out/a.png", "there is no prompt"),
        ("EMPTY -o out/a.png", "a prompt is empty"),
        ("PROMPT EMPTY -o out/a.png", "a prompt is empty"),
        ("PROMPT -o out/a.png --lora neom", "adapter 'neom' is not known; did you mean 'neon'?"),
        ("PROMPT -o out/a.png --lora neom:0", "adapter 'neom' is not known"),
        ("PROMPT -o out/a.png --lora neon:nan", "the strength of 'neon' is nan, want a finite"),
        ("PROMPT -o out/a.png --lora neon:inf", "the strength of 'neon' is inf, want a finite"),
        ("PROMPT -o out/a.png --lora neon:abc", "the strength of 'neon' is 'abc', want a finite"),
        ("PROMPT -o out/a.png --lora neon:", "the strength of 'neon' is '', want a finite"),
        ("PROMPT -o out/a.png --lora :1", "--lora ':1' has no name"),
        ("PROMPT -o out/a.png --lora neon --lora neon:2", "names adapter 'neon' 2 times"),
        ("PROMPT -o out/a.png --lora x=absent.safetensors", "there is no 'absent.safetensors'"),
        ("PROMPT -o out/a.png --lora x=", "there is no ''"),
        ("PROMPT -o out/a.png --lora x=pickle.bin", "is a zip archive, as torch.save writes"),
        ("PROMPT -o out/a.png --lora x=text.txt", "adapter file 'text.txt' announces a header of"),
        ("PROMPT -o out/a.png --alpha 4", "--alpha and --allow-partial are for files"),
        ("PROMPT -o out/a.png --size 64", "--size is '64', want WIDTHxHEIGHT"),
        ("PROMPT -o out/a.png --size 0x64", "--size is '0x64', want WIDTHxHEIGHT"),
        ("PROMPT -o out/a.png --size 64x-64", "--size is '64x-64', want WIDTHxHEIGHT"),
        ("PROMPT -o out/a.png --size 65x64", "width is 65, model 'mini' wants a multiple of 32"),
        ("PROMPT -o out/a.png --frames 9", "out/a.png is a picture, and 9 frames are not"),
        ("PROMPT -o out/a.mp4 --frames 1", "out/a.mp4 is a video, and 1 frames are not"),
        ("PROMPT -o out/a.mp4 --frames 0", "--frames is 0, want 1 or more"),
        ("PROMPT -o out/a.mp4 --frames 10", "frames is 10, model 'mini' wants a multiple of 4"),
        ("PROMPT -o out/a.png --image plain.png", "--image is for videos"),
        ("PROMPT -o out/a.mp4 --image image.png", "cannot be read as a picture: its format is"),
        ("PROMPT -o out/a.mp4 --image none.png", "cannot be read as a picture: No such file"),
        ("PROMPT -o out/a.mp4" + 3 * " --image plain.png", "--image is given 3 times"),
        ("PROMPT -o out/a.png --model gpt", "model 'gpt' is no folder"),
        ("PROMPT -o out/a.png --model model", "lacks the component transformer, vae"),
        ("PROMPT -o out/a.png --model out", "lacks model_index.json"),
        ("PROMPT -o out/a.png --policy molten", "Invalid value for '--policy'"),
        ("PROMPT -o out/a.png --steps many", "Invalid value for '--steps'"),
        ("PROMPT -o out/a.png --steps 0", "the number of steps is 0"),
        ("PROMPT -o out/a.png --seed -1", "the seed is -1"),
        ("PROMPT -o out/a.png --guidance nan", "guidance is nan"),
        ("PROMPT -o out/a.png --colour red", "No such option: --colour"),
        ("--like plain.png -o out/a.png", "plain.png does not say how it was made"),
        ("--like image.png -o out/a.png", "image.png cannot be read"),
        ("--like none.png -o out/a.png", "none.png cannot be read: No such file"),
    ],
)
@pytest.mark.usefixtures("once")
def test_bad_input_is_refused_with_one_sentence_and_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: str, said: str
) -> None:
    monkeypatch.chdir(folder)
    given = [{"PROMPT": STAR, "EMPTY": " "}.get(word, word) for word in words.split()]
    assert said in refused("generate", *given)
    assert names(folder / "out") == []


@pytest.mark.usefixtures("once")
def test_a_remade_file_wants_the_same_adapters_and_model(tmp_path: Path, files: Path) -> None:
    first, again = tmp_path / "a.png", tmp_path / "b.png"
    made(STAR, "-o", first, "--lora", f"one={files / 'one.safetensors'}", *SMALL)
    provenance = media.read_provenance(first)
    digest = provenance.worn[0].digest
    like = ("generate", "--like", first, "-o", again)
    assert "give it with --lora one=PATH" in refused(*like)
    other = refused(*like, "--lora", f"one={files / 'two.safetensors'}")
    assert f"the file was made with {digest}" in other
    assert other.count(digest) == 1
    picture = media.load_image(first)
    media.save_image(picture, first, replace(provenance, worn=(), model_version="0" * 64))
    assert "the file was made with 000000000000; give --model" in refused(*like)
    made("--like", first, "-o", again, "--model", "mini")
    versions = replace(provenance.versions, torch="1.0")
    media.save_image(picture, first, replace(provenance, worn=(), versions=versions))
    assert "made with loraloom 0.1.0, torch 1.0" in made("--like", first, "-o", again).stderr
    assert "a picture, and 5 frames are not" in refused(*like, "--frames", "5")
    assert "a video, and 1 frames are not" in refused(*like[:-1], tmp_path / "b.mp4")


def test_what_follows_the_last_colon_is_a_strength_unless_it_is_a_path(tmp_path: Path) -> None:
    path = tmp_path / "a:b"
    path.touch()
    assert parse_wish("a") == Wish("a")
    assert parse_wish("a:-.5") == Wish("a", strength=-0.5)
    assert parse_wish("a: 2 ") == Wish("a", strength=2.0)
    assert parse_wish("a:2@0.2-0.7") == Wish("a", strength=2.0, curve=Curve.window(0.2, 0.7))
    assert parse_wish("a@0-1~.5") == Wish("a", curve=Curve.window(0, 1, 0.5))
    assert parse_wish(f"a={path}@0-.5") == Wish("a", path, curve=Curve.window(0, 0.5))
    assert parse_wish(f"a={path}") == Wish("a", path)
    assert parse_wish(f"a={path}:2") == Wish("a", path, 2.0)
    assert parse_wish(f"a={tmp_path}:1e-3") == Wish("a", tmp_path, 0.001)
    with pytest.raises(InvalidStrengthError):
        parse_wish(f"a={path}:c")


# ------------------------------------------------------------------ the other commands


def test_inspect_says_what_a_file_would_do(files: Path) -> None:
    result = run("adapters", "inspect", files / "one.safetensors")
    assert result.exit_code == 0
    facts = dict(line.split(maxsplit=1) for line in result.stdout.splitlines()[1:])
    total = len(find.name_table(find.card("mini")))
    assert facts["layers"] == f"7 of the {total} of mini"
    assert facts["keys"] == "14 of 14 used"
    assert facts["rank"] == "4"


def test_inspect_tells_programs_the_same(files: Path) -> None:
    result = run("adapters", "inspect", files / "one.safetensors", "--json", "--alpha", "2")
    data = json.loads(result.stdout)
    assert data["model"] == "mini"
    assert len(data["sha256"]) == 64
    assert len(data["entries"]) == data["sites"] == 7
    assert {entry["scale"] for entry in data["entries"]} == {0.5}


def test_inspect_refuses_what_generate_would_refuse(files: Path, folder: Path) -> None:
    said = refused("adapters", "inspect", files / "odd.safetensors")
    assert "transformer_blocks.77.attn1.to_q" in said
    result = run("adapters", "inspect", files / "odd.safetensors", "--allow-partial")
    assert result.exit_code == 0
    assert "unused: " in result.stdout
    assert "pickle" in refused("adapters", "inspect", folder / "pickle.bin")
    assert "absent" in refused("adapters", "inspect", folder / "none")
    assert "model 'gpt'" in refused("adapters", "inspect", folder, "--model", "gpt")


def test_models_lists_what_comes_with_the_package() -> None:
    result = run("models")
    assert result.exit_code == 0
    for word in ("mini", "ltx2", *find.card("mini").adapters):
        assert word in result.stdout


def test_every_adapter_of_the_demo_comes_with_its_model() -> None:
    worn = {
        lora.name for shelf in (*PICTURES, VIDEO) for each in shelf.exhibits for lora in each.loras
    }
    assert worn <= set(find.card("mini").adapters)


@pytest.mark.usefixtures("once")
def test_the_demo_writes_a_sheet_and_a_video(
    tmp_path: Path, files: Path, own: Loom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On two steps and small canvases: what is shown is data, and how it is shown the command's."""
    for name in ("one", "two"):
        own.adapters.add(name, files / f"{name}.safetensors")
    small = replace(own.card.defaults.picture, width=64, height=64)
    defaults = replace(
        own.card.defaults,
        picture=small,
        video=replace(small, frames=5, rate=16.0),
        sampling=replace(own.card.defaults.sampling, steps=2),
    )
    monkeypatch.setattr(own, "card", replace(own.card, defaults=defaults))
    swap = {"neon": "one", "sketch": "two"}

    def renamed(shelf: Shelf) -> Shelf:
        return replace(
            shelf,
            exhibits=tuple(
                replace(each, loras=tuple(Lora(swap[x.name], x.strength) for x in each.loras))
                for each in shelf.exhibits
            ),
        )

    monkeypatch.setattr(demo, "PICTURES", tuple(map(renamed, PICTURES)))
    monkeypatch.setattr(demo, "VIDEO", renamed(VIDEO))
    result = run("demo", "-o", tmp_path / "new" / "folder")
    assert result.exit_code == 0, result.output
    assert names(tmp_path / "new" / "folder") == ["pictures.png", "video.mp4"]
    for name in ("pictures.png", "video.mp4", "One batch: 4 pictures as one batch"):
        assert name in result.stdout


def test_the_demo_refuses_a_folder_that_is_a_file(folder: Path) -> None:
    assert "cannot be made" in refused("demo", "-o", folder / "text.txt")


def test_words_that_are_no_command_are_refused() -> None:
    assert "No such command 'weave'" in refused("weave")


# ------------------------------------------------------------------ as a process


def process(*words: str | Path, code: str = START) -> subprocess.CompletedProcess[str]:
    source = str(Path(loraloom.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": source, "COLUMNS": "100", "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "--version",
        "generate --help",
        "adapters inspect one.safetensors",
        "models",
        "generate x -o none/a.png",
        "generate x -o a.png --lora nothing",
        "generate x -o a.png --lora x=odd.safetensors",
    ],
)
def test_what_makes_no_picture_imports_no_torch(
    files: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.chdir(files)
    code = (
        "import sys\n"
        "from loraloom.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print([x for x in ('torch', 'diffusers', 'transformers', 'peft')"
        " if x in sys.modules], file=sys.stderr)\n"
    )
    done = process(*words.split(), code=code)
    assert done.returncode == (2 if "generate x" in words else 0), done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


def test_a_process_makes_a_picture_and_is_silent_on_stderr(tmp_path: Path, files: Path) -> None:
    lora = f"one={files / 'one.safetensors'}"
    done = process("generate", STAR, "-o", tmp_path / "a.png", "--lora", lora, *SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert names(tmp_path) == ["a.png"]
    assert media.read_provenance(tmp_path / "a.png").worn[0].sites == 7


def test_a_process_refuses_with_one_line_and_no_traceback(tmp_path: Path) -> None:
    done = process("generate", STAR, "-o", tmp_path / "a.png", "--size", "65x64")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("loraloom: error: width is 65")
    assert names(tmp_path) == []
