"""Loraloom: one base model, any number of LoRA adapters, chosen per request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loraloom.core.mix import Scope
from loraloom.core.request import Canvas, Condition, Lora, Origin, Reference, Request, Sampling
from loraloom.core.schedule import Curve, Knot
from loraloom.core.stage import Guidance, Guides, Sigmas, Stage
from loraloom.errors import LoraloomError

if TYPE_CHECKING:
    from loraloom.client import Client
    from loraloom.engine.loom import Loom, Result
    from loraloom.engine.means import Means
    from loraloom.engine.wearer import Wearer

__version__ = "0.1.0"

__all__ = [
    "Canvas",
    "Client",
    "Condition",
    "Curve",
    "Guidance",
    "Guides",
    "Knot",
    "Loom",
    "Lora",
    "LoraloomError",
    "Means",
    "Origin",
    "Reference",
    "Request",
    "Result",
    "Sampling",
    "Scope",
    "Sigmas",
    "Stage",
    "Wearer",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """``Loom`` and what belongs to it import torch, which takes seconds: at first use."""
    if name in ("Loom", "Means", "Result"):
        from loraloom.engine import loom  # noqa: PLC0415  # keeps torch out of the CLI's start

        return getattr(loom, name)
    if name == "Client":
        from loraloom import client  # noqa: PLC0415  # takes a tenth of one

        return client.Client
    if name == "Wearer":
        from loraloom.engine import wearer  # noqa: PLC0415  # likewise

        return wearer.Wearer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
