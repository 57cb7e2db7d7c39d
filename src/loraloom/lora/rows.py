"""Which row of a pass every entry of a layer's input belongs to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from loraloom.core.mix import Site


class Order(Enum):
    """How the entries of the rows lie in the leading axis of a layer's input."""

    RUNS = "those of a row side by side"
    BATCHES = "whole batches one after the other"
    SINGLE = "one of every row"
    UNKNOWN = "unknown from their number"


@dataclass(frozen=True, slots=True)
class Layout:
    """The order in the layers of a class of components whose sites match a pattern."""

    component: str
    sites: str
    order: Order


LAYOUTS = (
    # zero_cond_t: every row modulated at its time and, behind all rows, at time zero
    Layout("QwenImageTransformer2DModel", r"time_text_embed\..*|.*\.img_mod\.1", Order.BATCHES),
    # prompts of unequal lengths run together
    Layout("ZImageTransformer2DModel", r"(cap|siglip)_embedder\.1", Order.UNKNOWN),
    # tokens sorted by the expert that a gate chose for them
    Layout("HiDreamImageTransformer2DModel", r".*\.experts\..*", Order.UNKNOWN),
    # tokens of texts, images and sounds packed into one sequence
    Layout("Cosmos3OmniTransformer", r".*", Order.UNKNOWN),
    # tokens are the leading axis, rows the second
    Layout("ChatGLMModel", r".*", Order.UNKNOWN),
)
"""Components that break the rule of runs, which flattening any axis into the batch follows."""


def order_of(component: type[nn.Module], site: Site, layer: nn.Module) -> Order:
    """How rows lie in what a layer of a component sees."""
    names = {each.__name__ for each in component.__mro__}
    for layout in LAYOUTS:
        if layout.component in names and re.fullmatch(layout.sites, site):
            return layout.order
    # positions and distances are looked up once for all rows; their number may divide by chance
    return Order.SINGLE if isinstance(layer, nn.Embedding) else Order.RUNS


def entering(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """How many rows enter a component: the leading axis of its main input."""
    named = [kwargs[name] for name in ("hidden_states", "sample", "input_ids") if name in kwargs]
    tensors = [value for value in (*named, *args, *kwargs.values()) if isinstance(value, Tensor)]
    assert tensors, "a component is called with tensors"
    return tensors[0].shape[0]
