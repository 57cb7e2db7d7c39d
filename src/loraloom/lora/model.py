"""One component that wears adapters: its whole state is one frozen value, reached or not at all."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from torch import nn

from loraloom.core.algebra import Folded, fold, fused
from loraloom.core.mix import Applied, Mix
from loraloom.errors import AdapterMismatchError, UnknownAdapterError, closest, hint
from loraloom.memory.cache import Cache

from .layer import BARE, Cell, Live, LoraLayer, adaptable, check_free, install, uninstall
from .plan import Plan, plan
from .weights import Weights

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from torch import Tensor

    from loraloom.core.adapter import Adapter
    from loraloom.core.mix import AdapterKey, Component, Segment, Site

FOLD_BUDGET = 256 * 2**20
"""Bytes of folded mixes that a component keeps, so that wearing one again costs nothing."""


class LoraModel:
    """Puts adapters on one module.

    Args:
        component: the name that adapters call it by.
        module: any module; its linear, convolution and embedding layers are the sites.
        adapters: where adapters are found by key when they are first worn.
        checkpoint: the module's weights as they lie in files, by site: what of them is equal to
            the bit need not be kept in memory while it is fused.
        fold_budget: bytes of folded mixes to keep.

    ``applied`` is the state; :meth:`become` is the only way to change it.
    """

    def __init__(
        self,
        component: Component,
        module: nn.Module,
        adapters: Mapping[AdapterKey, Adapter],
        *,
        checkpoint: Mapping[Site, Tensor] | None = None,
        fold_budget: int = FOLD_BUDGET,
    ) -> None:
        found = dict(module.named_modules())
        for site, layer in found.items():
            if isinstance(layer, LoraLayer) or adaptable(layer):
                check_free(layer, site)
        self.component = component
        self.adapters = adapters
        self.applied = Applied()
        self.cell = Cell(module)
        layers = {
            site: install(layer, site, self.cell)
            for site, layer in found.items()
            if adaptable(layer)
        }
        self.weights = Weights(layers, checkpoint or {})
        self.coverage: dict[AdapterKey, frozenset[Site]] = {}
        self.folds: Cache[tuple[Segment, ...], Live] = Cache(fold_budget)

    def become(self, want: Applied) -> Plan:
        """Reach ``want`` completely, or raise and be as before. Returns what was done.

        Fused weights are computed from the pristine ones, whatever is worn now, so equal states
        have equal bytes. Live segments that were worn before are one assignment.

        Raises:
            UnknownAdapterError: a mix names an adapter that is not there.
            AdapterMismatchError: an adapter updates a site that the module lacks, or one of
                another shape.
        """
        return self._reach(want, None)

    def _reach(self, want: Applied, live: Live | None) -> Plan:
        """:meth:`become`, with what acts beside the weights if it is at hand."""
        if want.fused != self.applied.fused:
            self._cover(part.key for part in want.fused.parts)
        step = plan(self.applied, want, self.coverage)
        weights = {site: self._fused(site, mix) for site, mix in step.fuse.items()}
        if live is None:
            live = self.folds.get(want.live, lambda: self._live(want.live)) if want.live else BARE
        self.weights.change(weights, step.restore)
        self.cell.live, self.applied = live, want
        return step

    @contextmanager
    def wearing(self, want: Applied) -> Iterator[LoraModel]:
        """``want`` inside the block, and what was worn before after it."""
        before, live = self.applied, self.cell.live
        self.become(want)
        try:
            yield self
        finally:
            self._reach(before, live)

    def release(self) -> None:
        """Take everything off and leave the module as it was before."""
        self.become(Applied())
        self.cell.close()
        for layer in self.weights.layers.values():
            uninstall(layer)

    def check(self, adapter: Adapter) -> None:
        """Return if every update of ``adapter`` for this component has a site that it fits.

        Raises:
            AdapterMismatchError: one has not.
        """
        layers = self.weights.layers
        for site, update in adapter.sites(self.component).items():
            where = f"adapter {adapter.key.name!r} at {self.component}.{site}"
            if site not in layers:
                near = hint(closest(site, layers), layers)
                raise AdapterMismatchError(f"{where}: there is no such layer{near}")
            shape = tuple(layers[site].weight.shape)
            if shape != update.shape:
                got, wanted = "×".join(map(str, update.shape)), "×".join(map(str, shape))
                raise AdapterMismatchError(f"{where} is {got}, the layer is {wanted}")

    def _cover(self, keys: Iterable[AdapterKey]) -> None:
        """Learn which sites adapters update. A key is a content: what fitted once fits."""
        for key in keys:
            if key not in self.coverage:
                adapter = self._adapter(key)
                self.check(adapter)
                self.coverage[key] = frozenset(adapter.sites(self.component))

    def _adapter(self, key: AdapterKey) -> Adapter:
        adapter = self.adapters.get(key)
        if adapter is None:
            raise UnknownAdapterError(str(key), [str(known) for known in self.adapters])
        return adapter

    def _fused(self, site: Site, mix: Mix) -> nn.Parameter:
        weight = self.weights.pristine(site)
        folded = self._fold(site, [mix])
        return nn.Parameter(fused(weight.detach(), folded), requires_grad=weight.requires_grad)

    def _live(self, segments: Sequence[Segment]) -> Live:
        mixes = [segment.mix for segment in segments for _ in range(segment.stop - segment.start)]
        keys = {part.key for mix in mixes for part in mix.parts}
        self._cover(keys)
        folded = {}
        for site in sorted(frozenset().union(*(self.coverage[key] for key in keys))):
            worn = self._fold(site, mixes)
            worn = worn if len(mixes) > 1 else worn.absorbed()
            folded[site] = worn.to(self.weights.layers[site].weight.dtype)
        return Live(len(mixes), folded)

    def _fold(self, site: Site, mixes: Sequence[Mix]) -> Folded:
        named = sorted({part.key for mix in mixes for part in mix.parts})
        keys = [key for key in named if site in self.coverage[key]]
        updates = [self._adapter(key).sites(self.component)[site] for key in keys]
        strengths = [[mix.at(site, key) for key in keys] for mix in mixes]
        return fold(updates, strengths, self.weights.layers[site].weight.device)


def become(models: Iterable[LoraModel], want: Applied) -> None:
    """``want`` on every component; if one refuses, all are as before."""
    with ExitStack() as undo:
        for model in models:
            undo.callback(model.become, model.applied)
            model.become(want)
        undo.pop_all()


@contextmanager
def wearing(models: Collection[LoraModel], want: Applied) -> Iterator[None]:
    """``want`` on every component inside the block, and what was worn before after it."""
    with ExitStack() as undo:
        for model in models:
            undo.enter_context(model.wearing(model.applied))
        become(models, want)
        yield
