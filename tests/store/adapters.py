"""Small adapter files for a small model."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from loraloom.formats.names import NameTable

if TYPE_CHECKING:
    from pathlib import Path

NAMES = NameTable(
    {"transformer": {"to_q": (8, 4), "to_k": (4, 4)}, "encoder": {"fc": (6, 6)}}, "transformer"
)

NBYTES = 4 * 2 * (8 + 4 + 4 + 4)
"""Of an adapter of rank 2."""


def write(path: Path, seed: int, *, rank: int = 2, age: float = 60) -> Path:
    """An adapter file that was written some seconds ago."""
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for site, (out, width) in NAMES.components["transformer"].items():
        tensors[f"transformer.{site}.lora_A.weight"] = torch.randn(rank, width, generator=draw)
        tensors[f"transformer.{site}.lora_B.weight"] = torch.randn(out, rank, generator=draw)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    then = time.time() - age
    os.utime(path, (then, then))
    return path
