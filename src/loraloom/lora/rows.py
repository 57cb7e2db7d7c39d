"""Which row of a pass every entry of a layer's input belongs to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from loraloom.core.mix import Segment
from loraloom.errors import RowsError

if TYPE_CHECKING:
    from collections.abc import Sequence

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


@dataclass(frozen=True, slots=True)
class Spread:
    """How the samples of a batch lie in the leading axis of a layer's input.

    A component sees its samples ``times`` over, one whole batch after the other (the passes of
    guidance); a layer sees each of these rows as ``run`` neighbouring entries (tokens flattened
    into the batch).
    """

    times: int
    samples: int
    run: int

    def segments(self, worn: Sequence[Segment]) -> tuple[Segment, ...]:
        """The segments of samples as segments of entries; those that wear nothing are left out."""
        return tuple(
            Segment(
                (time * self.samples + segment.start) * self.run,
                (time * self.samples + segment.stop) * self.run,
                segment.mix,
            )
            for time in range(self.times)
            for segment in worn
            if segment.mix
        )


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass as a layer sees it.

    Attributes:
        rows: that entered the component; 0 where nobody counted them.
        entries: in the leading axis of the layer's input.
    """

    rows: int
    entries: int

    def spread(self, samples: int, order: Order, site: Site) -> Spread:
        """Where the entries of every sample are.

        Raises:
            RowsError: no row can be told from another: the numbers do not divide, or they might
                and the order of the layer's entries is another one.
        """
        rows, entries = self.rows, self.entries
        if samples == 1:
            return Spread(1, 1, entries)
        divide = rows and rows % samples == 0 and entries % rows == 0
        if not divide or order is Order.UNKNOWN or (order is Order.SINGLE and entries != rows):
            raise RowsError(
                f"{entries} entries reach {site} in a pass of {rows} rows, which cannot be "
                f"assigned to {samples} samples that wear different mixes; want multiples (their "
                f"order here: {order.value})"
            )
        if order is Order.BATCHES:
            return Spread(entries // samples, samples, 1)
        return Spread(rows // samples, samples, entries // rows)


def order_of(component: type[nn.Module], site: Site, layer: nn.Module) -> Order:
    """How rows lie in what a layer of a component sees."""
    names = {each.__name__ for each in component.__mro__}
    for layout in LAYOUTS:
        if layout.component in names and re.fullmatch(layout.sites, site):
            return layout.order
    # positions and distances are looked up once for all rows; their number may divide by chance
    return Order.SINGLE if isinstance(layer, nn.Embedding) else Order.RUNS


MAIN = ("hidden_states", "sample", "inputs_embeds", "input_ids", "pixel_values")
"""What diffusers and transformers call the input that has a row for every sample."""


def entering(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """How many rows enter a component: the leading axis of its main input.

    That is the first of ``MAIN``, or the first tensor that is handed over without a name.

    Raises:
        RowsError: there is neither, and the other tensors have different leading axes.
    """
    main = [kwargs[name] for name in MAIN if name in kwargs]
    for value in (*main, *args):
        if isinstance(value, Tensor) and value.ndim:
            return value.shape[0]
    others = [value for value in kwargs.values() if isinstance(value, Tensor) and value.ndim]
    sizes = [value.shape[0] for value in others]
    if not sizes or sizes.count(sizes[0]) != len(sizes):
        raise RowsError(
            f"nothing tells which input has the rows of the batch: leading axes are {sizes}, "
            f"want one of {', '.join(MAIN)}, or the main input first and without a name"
        )
    return sizes[0]
