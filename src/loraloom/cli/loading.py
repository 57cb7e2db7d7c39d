"""Loading a model from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import loraloom

from .console import waiting

if TYPE_CHECKING:
    from loraloom.engine.loom import Loom


def load(model: str) -> Loom:
    """The model; the wait begins with the import of torch.

    Raises:
        ModelError: there is no such model, or it cannot be loaded.
    """
    with waiting(f"loading {model}"):
        return loraloom.Loom.load(model)
