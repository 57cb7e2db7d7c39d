"""One component that wears adapters: its whole state is one frozen value, reached or not at all."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from torch import nn

from loraloom.core.algebra import Folded, fold, fused
from loraloom.core.mix import Applied, Mix
from loraloom.errors import AdapterMismatchError, UnknownAdapterError, closest, hint

from .layer import BARE, Cell, Live, install, uninstall
from .plan import Plan, plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import TypeAlias

    from loraloom.core.adapter import Adapter
    from loraloom.core.mix import AdapterKey, Component, Segment, Site

    Adapters: TypeAlias = Mapping[AdapterKey, Adapter]


class LoraModel:
    """Puts adapters on one module.

    Args:
        component: the name that adapters call it by.
        module: any module; its ``nn.Linear`` layers are the sites.
        adapters: where adapters are found by key; looked up again at every change.

    ``applied`` is the state; :meth:`become` is the only way to change it.
    """

    def __init__(
        self, component: Component, module: nn.Module, adapters: Mapping[AdapterKey, Adapter]
    ) -> None:
        self.component = component
        self.adapters = adapters
        self.applied = Applied()
        self.worn: Mapping[AdapterKey, Adapter] = {}
        self.cell = Cell(module)
        self.pristine: dict[Site, nn.Parameter] = {}
        self.layers = {
            site: install(layer, site, self.cell)
            for site, layer in list(module.named_modules())
            if isinstance(layer, nn.Linear)
        }

    def become(self, want: Applied) -> Plan:
        """Reach ``want`` completely, or raise and be as before. Returns what was done.

        Fused weights are computed from the pristine ones, whatever is worn now, so equal states
        have equal bytes.

        Raises:
            UnknownAdapterError: a mix names an adapter that is not there.
            AdapterMismatchError: an adapter updates a site that the module lacks, or one of
                another shape.
        """
        wanted = {key: self._adapter(key) for key in sorted(_keys(want))}
        step = plan(self.applied, want, self._coverage({**self.worn, **wanted}))
        weights = {site: self._fused(site, mix, wanted) for site, mix in step.fuse.items()}
        live = self.cell.live if step.live is None else self._live(step.live, wanted)
        self._commit(weights, step.restore, live)
        self.applied, self.worn = want, wanted
        return step

    @contextmanager
    def wearing(self, want: Applied) -> Iterator[LoraModel]:
        """``want`` inside the block, and what was worn before after it."""
        before = self.applied
        self.become(want)
        try:
            yield self
        finally:
            self.become(before)

    def release(self) -> None:
        """Take everything off and leave the module as it was before."""
        self.become(Applied())
        self.cell.close()
        for layer in self.layers.values():
            uninstall(layer)
        self.layers = {}

    def weight(self, site: Site) -> nn.Parameter:
        """The pristine weight ``[out, in]`` of a site, whatever is fused."""
        return self.pristine[site] if site in self.pristine else self.layers[site].weight

    def check(self, adapter: Adapter) -> None:
        """Whether every update of ``adapter`` for this component has a site that it fits.

        Raises:
            AdapterMismatchError: one has not.
        """
        for site, update in adapter.sites(self.component).items():
            where = f"adapter {adapter.key.name!r} at {self.component}.{site}"
            if site not in self.layers:
                near = hint(closest(site, self.layers), self.layers)
                raise AdapterMismatchError(f"{where}: there is no such layer{near}")
            shape = tuple(self.weight(site).shape)
            if shape != update.shape:
                got, wanted = "×".join(map(str, update.shape)), "×".join(map(str, shape))
                raise AdapterMismatchError(f"{where} is {got}, the layer is {wanted}")

    def _adapter(self, key: AdapterKey) -> Adapter:
        adapter = self.worn.get(key) or self.adapters.get(key)
        if adapter is None:
            raise UnknownAdapterError(str(key), [str(known) for known in self.adapters])
        self.check(adapter)
        return adapter

    def _coverage(self, adapters: Adapters) -> dict[AdapterKey, frozenset[Site]]:
        return {key: frozenset(each.sites(self.component)) for key, each in adapters.items()}

    def _fused(self, site: Site, mix: Mix, adapters: Adapters) -> nn.Parameter:
        weight = self.weight(site)
        folded = self._fold(site, [mix], adapters)
        return nn.Parameter(fused(weight.detach(), folded), requires_grad=weight.requires_grad)

    def _live(self, segments: Sequence[Segment], adapters: Adapters) -> Live:
        mixes = [segment.mix for segment in segments for _ in range(segment.stop - segment.start)]
        keys = {part.key for mix in mixes for part in mix.parts}
        sites = {site for key in keys for site in adapters[key].sites(self.component)}
        folded = {}
        for site in sorted(sites):
            worn = self._fold(site, mixes, adapters)
            worn = worn if len(mixes) > 1 else worn.absorbed()
            folded[site] = worn.to(self.weight(site).dtype)
        return Live(len(mixes), folded) if mixes else BARE

    def _fold(self, site: Site, mixes: Sequence[Mix], adapters: Adapters) -> Folded:
        named = sorted({part.key for mix in mixes for part in mix.parts})
        keys = [key for key in named if site in adapters[key].sites(self.component)]
        updates = [adapters[key].sites(self.component)[site] for key in keys]
        strengths = [[mix.strength(key) for key in keys] for mix in mixes]
        return fold(updates, strengths, self.weight(site).device)

    def _commit(
        self, weights: Mapping[Site, nn.Parameter], restore: Iterable[Site], live: Live
    ) -> None:
        """Only assignments; what a failure leaves half done is undone."""
        before = {site: self.layers[site].weight for site in {*weights, *restore}}
        pristine, worn = dict(self.pristine), self.cell.live
        try:
            for site in restore:
                self.layers[site].weight = self.pristine.pop(site)
            for site, weight in weights.items():
                self.pristine.setdefault(site, before[site])
                self.layers[site].weight = weight
            self.cell.live = live
        except BaseException:
            for site, weight in before.items():
                self.layers[site].weight = weight
            self.pristine, self.cell.live = pristine, worn
            raise


@contextmanager
def wearing(models: Iterable[LoraModel], want: Applied) -> Iterator[None]:
    """``want`` on every component inside the block; if one refuses, none wears it."""
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(model.wearing(want))
        yield


def _keys(applied: Applied) -> set[AdapterKey]:
    mixes = [applied.fused, *(segment.mix for segment in applied.live)]
    return {part.key for mix in mixes for part in mix.parts}
