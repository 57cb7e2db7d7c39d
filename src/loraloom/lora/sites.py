"""The kinds of layers that wear adapters, and how a layer becomes one and is itself again."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from loraloom.errors import AdapterMismatchError
from loraloom.kernels.choose import Kernel, Way
from loraloom.kernels.cost import Extent, call_cost, side_by_side
from loraloom.kernels.tile import Tile

from .layer import Cell, LoraLayer
from .live import Live, Run, SideBySide
from .rows import Pass, order_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loraloom.core.adapter import LowRank
    from loraloom.core.mix import Shape, Site


@dataclass(frozen=True, slots=True, eq=False)
class Tiled:
    """What runs make, by a kernel and in the form that it takes."""

    kernel: Kernel
    packed: Any


class LinearSite(LoraLayer):
    """``x`` is ``[rows, …, in]``, or ``[in]``, which is one row."""

    def passing(self, x: Tensor) -> Pass:
        return Pass(self.cell.rows, x.shape[0] if x.ndim > 1 else 1)

    def joins(self, runs: Sequence[Run], x: Tensor, live: Live) -> bool:
        if live.kernel(x.device).way is not Way.TORCH:
            return False  # one launch for all tiles, whatever their number
        each = x.shape[1:-1].numel()
        tiles = [Extent((run.stop - run.start) * each, run.update.rank) for run in runs]
        ranks = {id(run.update): run.update.rank for run in runs}
        whole = Extent(x.shape[:-1].numel(), sum(ranks.values()))
        return side_by_side(
            tiles, whole, sum(self.shape), call_cost(x.dtype, torch.get_num_threads())
        )

    def apart(self, runs: Sequence[Run], x: Tensor, live: Live) -> Any:
        each = x.shape[1:-1].numel()
        tiles = [
            Tile(run.start * each, run.stop * each, run.update.down, run.update.up, run.scale)
            for run in runs
        ]
        kernel = live.kernel(x.device)
        return Tiled(kernel, kernel.pack(tiles, x.device))

    def wear(self, y: Tensor, x: Tensor, way: Any) -> Tensor:
        # added where it lies: a difference of the output's size would be written and read again
        y = y.contiguous()
        flat, given = y.view(-1, y.shape[-1]), x.reshape(-1, x.shape[-1])
        if isinstance(way, Tiled):
            way.kernel.add(flat, given, way.packed)
            return y
        down, up = way.update.tensors
        hidden = way.scaled(functional.linear(given.to(down.dtype), down))
        if y.dtype == up.dtype:
            flat.addmm_(hidden, up.t())
        else:
            flat += hidden @ up.t()
        return y


class OpaqueSite(LinearSite):
    """A linear layer that keeps its weight in a form of its own: quantised, or by another package.

    Adapters act beside it, in the type of its bias or of another number that it holds.
    """

    in_features: int
    out_features: int

    @property
    def shape(self) -> Shape:
        return self.out_features, self.in_features

    def check_fusible(self) -> None:
        plain, weight = type(self).__bases__[1], self.weight
        name = type(weight).__name__ if plain is nn.Linear else plain.__name__
        raise AdapterMismatchError(
            f"{self.site} keeps its weight as {name}, to which nothing can be added; "
            "want a live mix there"
        )

    def wear(self, y: Tensor, x: Tensor, way: Any) -> Tensor:
        return super().wear(y.clone(), x, way)  # whose memory it is, its class alone knows

    def like(self) -> Tensor:
        bias = self.bias() if callable(self.bias) else self.bias
        for each in (bias, self.weight, *self.parameters(), *self.buffers()):
            if isinstance(each, Tensor) and each.is_floating_point():
                return each
        return torch.empty(0)


class SlicedSite(LoraLayer):
    """A layer without a product of matrices: what a run wears is added to its entries."""

    def wear(self, y: Tensor, x: Tensor, way: Any) -> Tensor:
        if isinstance(way, SideBySide):
            hidden = self.shrink(x, way.update).contiguous()
            return y + self.expand(way.scaled(hidden, self.behind(hidden)), way.update).to(y.dtype)
        for run in way:
            hidden = self.shrink(x[run.start : run.stop], run.update) * run.scale
            y[run.start : run.stop] += self.expand(hidden, run.update).to(y.dtype)
        return y

    @abstractmethod
    def shrink(self, x: Tensor, update: LowRank) -> Tensor:
        """The ranks of every entry."""

    @abstractmethod
    def expand(self, hidden: Tensor, update: LowRank) -> Tensor:
        """What ranks add to the output."""

    @abstractmethod
    def behind(self, hidden: Tensor) -> int:
        """How many numbers follow one another behind the axis of ranks."""


class ConvSite(SlicedSite):
    """``x`` is ``[rows, in, *space]``; stride, padding and dilation are the layer's own."""

    def shrink(self, x: Tensor, update: LowRank) -> Tensor:
        conv = cast("nn.Conv2d", self)
        hidden: Tensor = conv._conv_forward(x.to(update.down.dtype), update.down, None)
        return hidden

    def expand(self, hidden: Tensor, update: LowRank) -> Tensor:
        one_by_one = (functional.conv1d, functional.conv2d, functional.conv3d)
        return one_by_one[update.up.ndim - 3](hidden, update.up)

    def behind(self, hidden: Tensor) -> int:
        return hidden.shape[2:].numel()


class EmbeddingSite(SlicedSite):
    """``x`` is ``[rows, …]`` of indices; ``up`` holds an entry's ranks, ``down`` their vectors."""

    def shrink(self, x: Tensor, update: LowRank) -> Tensor:
        return functional.embedding(x, update.up)

    def expand(self, hidden: Tensor, update: LowRank) -> Tensor:
        return hidden @ update.down

    def behind(self, _hidden: Tensor) -> int:
        return 1


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

    Grouped convolutions cannot, nor embeddings and convolutions with a forward of their own, nor
    the last layer of ``nn.MultiheadAttention``, whose weight is read without calling the layer.
    """
    if isinstance(module, NonDynamicallyQuantizableLinear) or getattr(module, "groups", 1) != 1:
        return False
    if getattr(module, "max_norm", None) is not None:
        return False  # an embedding that writes to its weight
    plain = (kind.forward for kind, _ in KINDS if isinstance(module, kind))
    return next(plain, None) is type(module).forward or opaque(module)


def opaque(module: nn.Module) -> bool:
    """Whether a layer is linear and keeps its weight in a form of its own."""
    if isinstance(module, torch.ao.nn.quantized.Linear):
        return True
    if not isinstance(module, nn.Linear):
        return False
    return type(module).forward is not nn.Linear.forward or type(module.weight) is not nn.Parameter


@cache
def worn_class(kind: type[Any], *, keeps: bool) -> type[LoraLayer]:
    """The class of layers of ``kind`` that look up what they wear.

    ``keeps``: they keep their weight in a form of their own.
    """
    how = OpaqueSite if keeps else next(site for known, site in KINDS if issubclass(kind, known))
    return cast("type[LoraLayer]", type(f"Lora{kind.__name__}", (how, kind), {}))


def check_free(module: nn.Module, site: Site) -> None:
    """Return if a layer wears nothing yet.

    Raises:
        AdapterMismatchError: it is a site of another :class:`~loraloom.lora.model.LoraModel`.
    """
    if isinstance(module, LoraLayer):
        raise AdapterMismatchError(f"{site} wears adapters of another LoraModel, want one alone")


def install(module: nn.Module, site: Site, cell: Cell) -> LoraLayer:
    """Make a layer look up what it wears; parameters, names and identity stay."""
    layer = cast("LoraLayer", module)
    kind: type[Any] = type(module)
    layer.__class__ = worn_class(kind, keeps=opaque(module))  # type: ignore[arg-type]  # classes are hashable
    layer.site, layer.cell = site, cell
    layer.order = order_of(cell.component, site, module)
    return layer


def uninstall(layer: LoraLayer) -> None:
    """The layer as it was before :func:`install`."""
    del layer.site, layer.cell, layer.order
    layer.__class__ = type(layer).__bases__[1]
