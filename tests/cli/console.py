"""Calls of the command line, and adapter files to call it with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from loraloom.cli import app
from loraloom.models import find

if TYPE_CHECKING:
    from typer.testing import Result


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
