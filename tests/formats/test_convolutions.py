"""Convolutions: factors fit with the kernel's axes, or are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from loraloom.errors import AdapterCoverageError
from loraloom.formats.load import load
from loraloom.formats.names import NameTable
from loraloom.formats.read import survey

from .files import write

if TYPE_CHECKING:
    from pathlib import Path


CONV = NameTable({"unet": {"conv_in": (8, 4, 3, 3), "proj": (8, 4)}}, default="unet")


@pytest.mark.parametrize(
    ("down", "up", "fits"),
    [
        ((2, 4, 3, 3), (8, 2, 1, 1), True),
        ((2, 4, 3, 3), (8, 2, 3, 3), False),
        ((2, 4, 1, 1), (8, 2, 1, 1), False),
        ((2, 4, 3, 3), (8, 2), False),
        ((2, 4), (8, 2), False),
    ],
)
def test_convolutions_fit_with_their_kernel(
    down: tuple[int, ...], up: tuple[int, ...], fits: bool, tmp_path: Path
) -> None:
    tensors = {
        "unet.conv_in.lora_A.weight": torch.ones(down),
        "unet.conv_in.lora_B.weight": torch.ones(up),
    }
    path = write(tmp_path, tensors)
    if not fits:
        with pytest.raises(AdapterCoverageError, match=r"is 8x4x3x3 \(out x in x kernel\)"):
            survey(path, CONV)
        return
    update = load("conv", survey(path, CONV)).sites("unet")["conv_in"]
    assert update.shape == (8, 4, 3, 3)
