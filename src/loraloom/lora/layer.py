"""A layer that looks up what it wears; it holds no state of any adapter.

All layers of a component share one :class:`Cell`. Changing what is worn replaces one reference in
it, whatever the number of layers and adapters.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from loraloom.errors import AdapterMismatchError, RowsError

from .rows import Order, entering, order_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loraloom.core.algebra import Folded
    from loraloom.core.mix import Site


@dataclass(frozen=True, slots=True, eq=False)
class Live:
    """What acts beside the weights of a component: one folded update per site it touches.

    Attributes:
        samples: how many samples of a batch the scales describe; 1 means that all wear the same.
        folded: by site, on the device and in the type of the site's weight.
    """

    samples: int
    folded: Mapping[Site, Folded]

    @property
    def nbytes(self) -> int:
        return sum(folded.nbytes for folded in self.folded.values())


BARE = Live(1, {})


class Cell:
    """The one place that all layers of a component look at.

    ``rows`` is the number of rows that entered the component in the forward pass under way; 0
    outside of one, where nobody counted them.
    """

    __slots__ = ("_watch", "component", "live", "rows")

    def __init__(self, module: nn.Module) -> None:
        self.component = type(module)
        self.live = BARE
        self.rows = 0
        self._watch = (
            module.register_forward_pre_hook(self._enter, with_kwargs=True),
            module.register_forward_hook(self._leave, always_call=True),
        )

    def close(self) -> None:
        """Stop watching the module."""
        for hook in self._watch:
            hook.remove()

    def _enter(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.live.samples > 1:
            self.rows = entering(args, kwargs)

    def _leave(self, _module: nn.Module, _args: object, _output: object) -> None:
        self.rows = 0


class LoraLayer(nn.Module):
    """Mixed into the class of a layer: its own forward, then what its site wears."""

    site: Site
    cell: Cell
    order: Order
    weight: nn.Parameter

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The input has the rows of the batch outermost, in the ``order`` of the layer."""
        y: Tensor = super().forward(*args, **kwargs)
        folded = self.cell.live.folded.get(self.site)
        if folded is None:
            return y
        x = args[0] if args else kwargs["input"]  # as torch's layers name it
        return self.wear(y, x, folded)

    @abstractmethod
    def wear(self, y: Tensor, x: Tensor, folded: Folded) -> Tensor:
        """``y`` plus what ``folded`` makes of ``x``; ``y`` is fresh and may be written to."""

    def scaled(self, hidden: Tensor, folded: Folded, axis: int) -> Tensor:
        """``hidden`` with every rank, along ``axis``, times its scale in the entry's row."""
        if self.cell.live.samples == 1:
            return hidden  # the scale is in the factors
        times, run = spread(self, hidden.shape[0])
        scale = folded.scale.repeat(times, 1).repeat_interleave(run, dim=0)
        shape = [1] * hidden.ndim
        shape[0], shape[axis] = scale.shape
        return (hidden * scale.reshape(shape)).to(hidden.dtype)


class LinearSite(LoraLayer):
    """``x`` is ``[rows, …, in]``."""

    def wear(self, y: Tensor, x: Tensor, folded: Folded) -> Tensor:
        hidden = functional.linear(x.to(folded.down.dtype), folded.down)
        hidden = self.scaled(hidden, folded, -1)
        if y.dtype != folded.up.dtype or not y.is_contiguous():
            return y + functional.linear(hidden, folded.up).to(y.dtype)
        # added where it lies: a difference of the output's size would be written and read again
        y.view(-1, y.shape[-1]).addmm_(hidden.reshape(-1, hidden.shape[-1]), folded.up.t())
        return y


class ConvSite(LoraLayer):
    """``x`` is ``[rows, in, *space]``; stride, padding and dilation are the layer's own."""

    def wear(self, y: Tensor, x: Tensor, folded: Folded) -> Tensor:
        conv = cast("nn.Conv2d", self)
        hidden = conv._conv_forward(x.to(folded.down.dtype), folded.down, None)
        one_by_one = (functional.conv1d, functional.conv2d, functional.conv3d)[folded.up.ndim - 3]
        return y + one_by_one(self.scaled(hidden, folded, 1), folded.up).to(y.dtype)


class EmbeddingSite(LoraLayer):
    """``x`` is ``[rows, …]`` of indices; ``up`` holds an entry's ranks, ``down`` their vectors."""

    def wear(self, y: Tensor, x: Tensor, folded: Folded) -> Tensor:
        hidden = functional.embedding(x, folded.up)
        return y + (self.scaled(hidden, folded, -1) @ folded.down).to(y.dtype)


KINDS: tuple[tuple[type[nn.Module], type[LoraLayer]], ...] = (
    (nn.Linear, LinearSite),
    (nn.Conv1d, ConvSite),
    (nn.Conv2d, ConvSite),
    (nn.Conv3d, ConvSite),
    (nn.Embedding, EmbeddingSite),
)
"""Layers that can wear adapters, and how a difference of their weight reaches their output."""


def adaptable(module: nn.Module) -> bool:
    """Whether a layer can wear adapters: its output is its class's function of its weight.

    Grouped convolutions cannot, nor classes with a forward of their own (a scaled embedding), nor
    the last layer of ``nn.MultiheadAttention``, whose weight is read without calling the layer.
    """
    if isinstance(module, NonDynamicallyQuantizableLinear) or getattr(module, "groups", 1) != 1:
        return False
    plain = (kind.forward for kind, _ in KINDS if isinstance(module, kind))
    return next(plain, None) is type(module).forward


def spread(layer: LoraLayer, entries: int) -> tuple[int, int]:
    """How the samples of a batch lie in the leading axis of a layer's input.

    A component sees its samples ``times`` over, one whole batch after the other (the passes of
    guidance); a layer sees each of these rows as ``run`` neighbouring entries (tokens flattened
    into the batch). Returns ``(times, run)`` with ``samples · times · run == entries``.

    Raises:
        RowsError: no row can be told from another: the numbers do not divide, or they might and
            the order of the layer's entries is another one.
    """
    samples, rows, order = layer.cell.live.samples, layer.cell.rows, layer.order
    divide = rows and rows % samples == 0 and entries % rows == 0
    if not divide or order is Order.UNKNOWN or (order is Order.SINGLE and entries != rows):
        raise RowsError(
            f"{entries} entries reach {layer.site} in a pass of {rows} rows, which cannot be "
            f"assigned to {samples} samples that wear different mixes; want multiples (their "
            f"order here: {order.value})"
        )
    if order is Order.BATCHES:
        return entries // samples, 1
    return rows // samples, entries // rows


@cache
def worn_class(kind: type[Any]) -> type[LoraLayer]:
    """The class of layers of ``kind`` that look up what they wear."""
    how = next(site for known, site in KINDS if issubclass(kind, known))
    return cast("type[LoraLayer]", type(f"Lora{kind.__name__}", (how, kind), {}))


def check_free(module: nn.Module, site: Site) -> None:
    """Return if nothing stands between a layer's class and its callers.

    Raises:
        AdapterMismatchError: the layer wears adapters already, or something replaced its own
            ``forward``, so that the lookup would never run.
    """
    if isinstance(module, LoraLayer):
        raise AdapterMismatchError(f"{site} wears adapters of another LoraModel, want one alone")
    if "forward" in vars(module):
        raise AdapterMismatchError(
            f"the forward of {site} ({type(module).__name__}) was replaced by another tool, "
            "want the layer as its class defines it"
        )


def install(module: nn.Module, site: Site, cell: Cell) -> LoraLayer:
    """Make a layer look up what it wears; parameters, names and identity stay."""
    layer = cast("LoraLayer", module)
    kind: type[Any] = type(module)
    layer.__class__ = worn_class(kind)  # type: ignore[arg-type]  # classes are hashable
    layer.site, layer.cell = site, cell
    layer.order = order_of(cell.component, site, module)
    return layer


def uninstall(layer: LoraLayer) -> None:
    """The layer as it was before :func:`install`."""
    del layer.site, layer.cell, layer.order
    layer.__class__ = type(layer).__bases__[1]
