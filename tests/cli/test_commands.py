"""The other commands, and the command line as a process that starts without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import loraloom
from loraloom.cli import demo
from loraloom.cli.showcase import PICTURES, VIDEO, Shelf
from loraloom.core.request import Lora, Sampling
from loraloom.core.stage import asked
from loraloom.models import find
from loraloom.pipelines import media

if TYPE_CHECKING:
    from loraloom import Loom

from .console import SMALL, STAR, START, names, refused, run


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
        pipelines={"usual": asked(own.card.defaults.usual, Sampling(steps=2))},
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
