"""A layer that looks up what it wears; it holds no state of any adapter.

All layers of a component share one :class:`Cell`. Changing what is worn replaces one reference in
it, whatever the number of layers and adapters.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any
from weakref import ref

import torch
from torch import Tensor, nn

from loraloom.errors import AdapterMismatchError

from . import offload
from .live import BARE, Live, Run, SideBySide, Slot
from .rows import Order, Pass, entering

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loraloom.core.mix import Shape, Site

    from .live import Where


class Cell:
    """The one place that all layers of a component look at.

    ``samples`` is the number of samples of a batch that wear mixes of their own, 1 where all wear
    the same; ``rows`` is the number of rows that entered the component in the forward pass under
    way, 0 outside of one, where nobody counted them. ``bucket`` is the number of ranks that is
    computed with in fixed memory, ``None`` where layers look up what is ``live``.
    """

    __slots__ = ("_module", "_watch", "bucket", "live", "rows", "samples")

    def __init__(self, module: nn.Module) -> None:
        self._module = ref(module)  # in a cycle its weights would outlive it
        self.live = BARE
        self.samples = 1
        self.rows = 0
        self.bucket: int | None = None
        self._watch = (
            module.register_forward_pre_hook(self._enter, with_kwargs=True),
            module.register_forward_hook(self._leave, always_call=True),
        )

    @property
    def component(self) -> type[nn.Module]:
        """The class of the component."""
        return type(self.module)

    @property
    def module(self) -> nn.Module:
        """The component, which somebody else keeps."""
        module = self._module()
        assert module is not None
        return module

    def wear(self, live: Live) -> None:
        """Let every layer look up ``live``."""
        self.live, self.samples = live, live.samples

    def close(self) -> None:
        """Stop watching the module."""
        for hook in self._watch:
            hook.remove()

    def _enter(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.samples > 1:
            self.rows = entering(args, kwargs)

    def _leave(self, _module: nn.Module, _args: object, _output: object) -> None:
        self.rows = 0


class Probe:
    """Tells from one layer where a component computes; ``path`` leads to it from the component.

    It is asked at every change of what is worn, so it takes no detour through torch's attributes.
    """

    __slots__ = ("layer", "path")

    def __init__(self, module: nn.Module, layer: LoraLayer | None) -> None:
        names = layer.site.split(".") if layer is not None and layer.site else []
        self.path = [module]
        for name in names:
            self.path.append(self.path[-1].get_submodule(name))
        self.layer = layer

    def where(self) -> Where:
        """Where the component computes, and in which type."""
        if self.layer is None:
            return torch.device("cpu"), torch.float32
        weight = self.layer._parameters.get("weight")
        plain = type(weight) is nn.Parameter and weight.device.type != "meta"
        for module in self.path:
            if not plain or offload.marked(module.__dict__):
                return self.layer.where
        assert weight is not None
        return weight.device, weight.dtype


class LoraLayer(nn.Module):
    """Mixed into the class of a layer: what the layer gives, then what its site wears.

    The call is extended and not ``forward``, which offloading replaces on the instance. A forward
    hook of the layer itself sees its output without adapters.
    """

    site: Site
    cell: Cell
    order: Order
    weight: nn.Parameter
    slots: Mapping[int, Slot]

    @property
    def shape(self) -> Shape:
        """Of the weight."""
        return tuple(self.weight.shape)

    @property
    def where(self) -> Where:
        """Where the layer computes, wherever its weight lies meanwhile, and in which type."""
        like, above = self.like(), self.above
        if not above and not like.is_meta:
            return like.device, like.dtype
        return offload.onload(offload.look(like, above)), offload.casting(above) or like.dtype

    @property
    def device(self) -> torch.device:
        """Where adapters are worn."""
        return self.where[0]

    @property
    def kind(self) -> torch.dtype:
        """The type that adapters are worn in."""
        return self.where[1]

    @property
    def above(self) -> Sequence[nn.Module]:
        """The layer, and outwards what holds it, where a tool that moves weights left hooks."""
        return offload.hooked(self.cell.module, self.site)

    def like(self) -> Tensor:
        """A tensor of the layer that lies where adapters are worn, in their type."""
        return self.weight

    def check_fusible(self) -> None:
        """Return if the weight can be added to.

        Raises:
            AdapterMismatchError: it is kept in a form of its own, or where it cannot be written to.
        """
        where = offload.rest(offload.look(self.weight, self.above))
        if not where.writable:
            raise AdapterMismatchError(
                f"the weight of {self.site} is {where.value}, where nothing can be fused into it "
                "or taken out of it; want a live mix there"
            )

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """The input has the rows of the batch outermost, in the ``order`` of the layer."""
        y: Tensor = super().__call__(*args, **kwargs)
        x = args[0] if args else next(iter(kwargs.values()))  # whatever the layer names it
        if x.device != y.device:
            x = x.to(y.device)  # as a tool that fetches the weight did within the call
        bucket = self.cell.bucket
        if bucket is not None:
            works = bucket and x.numel()
            return self.wear(y, x, self.fixed(x, self.slots[bucket])) if works else y
        live = self.cell.live
        if self.site not in live.sites:
            return y
        seen = self.site, self.cell.rows, x.shape, x.device
        way = live.ways.get(seen)
        if way is None:
            if not x.numel():
                return y
            way = live.keep(seen, self.way(x, live))
        return self.wear(y, x, way)

    def way(self, x: Tensor, live: Live) -> Any:
        """How what ``live`` holds for this site is computed for inputs of one shape."""
        spread = self.passing(x).spread(live.samples, self.order, self.site)
        runs = live.runs(self.site, spread, x.device)
        if live.joined is not None and self.joins(runs, x, live):
            return live.beside(self.site, spread, x.device)
        return self.apart(runs, x, live)

    def fixed(self, x: Tensor, slot: Slot) -> SideBySide:
        """What lies in fixed memory."""
        spread = self.passing(x).spread(self.cell.samples, self.order, self.site)
        scale = slot.scale[:, : spread.samples]
        return SideBySide(slot.update, scale, scale == 0, spread.times)

    def passing(self, x: Tensor) -> Pass:
        """The forward pass under way, as the layer sees it."""
        return Pass(self.cell.rows, x.shape[0])

    def joins(self, runs: Sequence[Run], x: Tensor, _live: Live) -> bool:
        """Whether all ranks at once are computed faster than ``runs`` one after the other."""
        return len(runs) > 1 and all(run.stop - run.start == x.shape[0] for run in runs)

    def apart(self, runs: Sequence[Run], _x: Tensor, _live: Live) -> Any:
        """``runs`` in the form that :meth:`wear` takes."""
        return runs

    @abstractmethod
    def wear(self, y: Tensor, x: Tensor, way: Any) -> Tensor:
        """``y`` plus what the site makes of ``x``; ``y`` is fresh and may be written to."""
