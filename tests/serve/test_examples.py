"""Every example runs as it stands against a real server, and makes what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from loraloom.pipelines.media import read_provenance

EXAMPLES = Path(__file__).parents[2] / "examples"

MAKES = {
    "openai_client.py": {"star.png", "edited.png", "star.mp4"},
    "client.py": {"mixed.png", *(f"mix-{index}.png" for index in range(4)), "turning.mp4"},
    "curl.sh": {"curl.png", "curl.mp4"},
}
WEARS = {
    "star.png": {"neon"},
    "edited.png": {"sketch"},
    "star.mp4": {"neon"},
    "mixed.png": {"neon", "sketch"},
    "mix-0.png": set(),
    "mix-1.png": {"neon"},
    "mix-2.png": {"sketch"},
    "mix-3.png": {"neon", "sketch"},
    "turning.mp4": {"neon"},
    "curl.png": {"neon", "sketch"},
    "curl.mp4": {"neon"},
}


def test_there_is_no_example_that_is_not_run() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == MAKES.keys()


@pytest.mark.parametrize("name", MAKES)
def test_the_example_runs(name: str, server: str, tmp_path: Path) -> None:
    program = "sh" if name.endswith(".sh") else sys.executable
    done = subprocess.run(
        [program, EXAMPLES / name, server],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONWARNINGS": "error"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert {path.name for path in tmp_path.iterdir()} == MAKES[name]
    for made in MAKES[name]:
        worn = read_provenance(tmp_path / made).worn
        assert {each.name for each in worn} == WEARS[made]
        if made.endswith(".png"):
            with Image.open(tmp_path / made) as image:
                assert image.size == (64, 64)
    if name == "curl.sh":
        assert "event: completed" in done.stdout
        assert "adapter 'neom' is not known; did you mean 'neon'" in done.stdout
