"""What the tests of the command line share: adapter files, and the model loaded once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

import loraloom
from loraloom.cli import demo, generate

if TYPE_CHECKING:
    from loraloom import Loom

from .console import adapter_file


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
        monkeypatch.setattr(module, "load", lambda *_: own)


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
