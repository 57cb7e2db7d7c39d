"""What all tests share: no network, few threads, the embedded model loaded once."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from loraloom import Loom


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tensors are small here: a second thread costs more than it brings."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def loom() -> Loom:
    """The embedded model in float32; tests leave it as they found it."""
    from loraloom import Loom

    return Loom.load("mini")
