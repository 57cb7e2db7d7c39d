"""One component that wears adapters: its whole state is one frozen value, reached or not at all."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loraloom.core.mix import Applied, Mix
from loraloom.memory.residency import ORIGINAL, live_budget

from .fitter import Fitter
from .layer import Cell, Probe
from .live import Live
from .packs import idle
from .plan import plan
from .sites import adaptable, check_free, install, uninstall
from .slots import Slots
from .wardrobe import Wardrobe
from .weights import Fusion, Ground, Weights, fixed_sites

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from loraloom.core.adapter import Adapter, Update
    from loraloom.core.mix import AdapterKey, Component, Site
    from loraloom.memory.residency import Residency


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What a component wears: the wish, and what it takes to fulfil it."""

    applied: Applied
    live: Live
    fused: Mapping[Site, Fusion]


class LoraModel:
    """Puts adapters on one module.

    Args:
        component: the name that adapters call it by.
        module: any module; its linear, convolution and embedding layers are the sites.
        adapters: where adapters are found by key when they are first worn.
        checkpoint: the module's weights as they lie in files, by site: what of them is equal to
            the bit need not be kept in memory while it is fused.
        budget: bytes of adapters, in the types of the weights, that may be ready to be worn live;
            a quarter of the weights' by default, or 256 MiB for a small module.
        residency: what memory is given for quick changes of fused weights.

    ``applied`` is the state; :meth:`become` is the only way to change it. One thread at a time may
    use a model: the one that computes with it.
    """

    def __init__(
        self,
        component: Component,
        module: nn.Module,
        adapters: Mapping[AdapterKey, Adapter],
        *,
        checkpoint: Mapping[Site, Tensor] | None = None,
        budget: int | None = None,
        residency: Residency = ORIGINAL,
    ) -> None:
        unused = idle(module)
        found = {
            site: layer
            for site, layer in module.named_modules()
            if adaptable(layer) and site not in unused
        }
        for site, layer in found.items():
            check_free(layer, site)
        self.applied = Applied()
        self.cell = Cell(module)
        layers = {site: install(layer, site, self.cell) for site, layer in found.items()}
        fixed = fixed_sites(module, layers)
        self.weights = Weights(layers, Ground(checkpoint or {}, fixed, residency))
        self.fitter = Fitter(component, module, layers, adapters)
        if budget is None:
            budget = live_budget(sum(each.nbytes for each in module.parameters()))
        self.probe = Probe(module, next(iter(layers.values()), None))
        self.slots: Slots | None = None
        self.wardrobe = Wardrobe(budget, f"adapters on {component}", self.fitter)

    @property
    def component(self) -> Component:
        """The name that adapters call the module by."""
        return self.fitter.component

    def become(self, want: Applied) -> None:
        """Reach what ``want`` says of this component completely, or raise and be as before.

        Fused weights are computed from the pristine ones, whatever is worn now, so equal states
        have equal bytes. What was worn live before is one assignment.

        Raises:
            UnknownAdapterError: a mix names an adapter that is not there.
            AdapterMismatchError: an adapter updates a site that the module lacks, one of another
                shape, or, fused, one whose weight cannot be added to.
            BudgetError: what is to be worn live exceeds the budget.
            RestoreError: pristine bytes are lost.
        """
        want = want.on(self.component)
        where = self.probe.where()
        live = self.wardrobe.ready(want.live, where)
        if live is not None and want.fused == self.applied.fused:
            before = self.cell.live, self.applied
            try:
                self._wear(live, want)
            except BaseException:
                self._wear(*before)
                raise
            return
        fusions, restore = self._fusions(want)
        live = self.wardrobe.live(want.live, where)
        with ExitStack() as undo:
            undo.callback(self.put_back, self.state())
            self.weights.change(fusions, restore)
            self._wear(live, want)
            undo.pop_all()

    def prefetch(self, keys: Iterable[AdapterKey]) -> None:
        """Make adapters ready to be worn, as far as they have room beside what is worn now.

        Raises:
            UnknownAdapterError, AdapterMismatchError: as :meth:`become`.
        """
        self.wardrobe.bring(keys, self.cell.live)

    def state(self) -> State:
        """What is worn, with all that it takes to wear it again."""
        return State(self.applied, self.cell.live, dict(self.weights.fused))

    def put_back(self, state: State) -> None:
        """What was worn before; it needs no catalogue and no budget."""
        self.weights.become(state.fused)
        self._wear(state.live, state.applied)

    def _wear(self, live: Live, applied: Applied) -> None:
        if self.slots is not None:
            self.slots.check(live)
            self.cell.bucket = self.slots.hold(live)
        self.cell.wear(live)
        self.applied = applied

    def fix(self, ranks: Sequence[int] = (16, 64), *, samples: int = 1) -> None:
        """Wear adapters through fixed memory from now on, for ``torch.compile`` and CUDA graphs.

        Takes the largest of ``ranks`` ranks of memory for every site. A compiled module has a graph
        for nothing worn and for each of ``ranks``, both for a batch that wears one mix and for one
        whose samples wear mixes of their own; :meth:`warming` goes through them. After that no mix,
        strength or adapter compiles anything.

        Args:
            ranks: sizes to choose from, summed over the adapters of a batch.
            samples: at most so many samples of a batch wear mixes of their own.

        Raises:
            BudgetError: what is worn now has no room.
        """
        slots = Slots(self.weights.layers, ranks, samples)
        slots.check(self.cell.live)
        slots.open()
        self.slots, self.cell.bucket = slots, slots.hold(self.cell.live)

    def warming(self, samples: int = 1) -> Iterator[int]:
        """Every size that a graph is compiled for, in turn: call the module with a batch at each.

        ``samples`` of the batch wear mixes of their own, or 1: all wear the same. What is computed
        meanwhile means nothing.
        """
        assert self.slots is not None
        cell, now = self.cell, (self.cell.bucket, self.cell.samples)
        try:
            cell.samples = samples
            for bucket in (0, *self.slots.ranks):
                cell.bucket = bucket
                yield bucket
        finally:
            cell.bucket, cell.samples = now

    def _fusions(self, want: Applied) -> tuple[dict[Site, Fusion], frozenset[Site]]:
        """What :func:`plan` says, with the adapters that it takes."""
        if want.fused != self.applied.fused:
            self.fitter.cover(part.key for part in want.fused.parts)
        step = plan(self.applied.fused, want.fused, self.fitter.coverage)
        keys = {part.key for mix in step.fuse.values() for part in mix.parts}
        updates = {key: self.fitter.updates(key) for key in keys}
        fusions = {site: _fusion(site, mix, updates) for site, mix in step.fuse.items()}
        return fusions, step.restore

    @contextmanager
    def keeping(self) -> Iterator[LoraModel]:
        """What is worn now is worn again after the block."""
        state = self.state()
        try:
            yield self
        finally:
            self.put_back(state)

    @contextmanager
    def wearing(self, want: Applied) -> Iterator[LoraModel]:
        """``want`` inside the block, and what was worn before after it."""
        with self.keeping():
            self.become(want)
            yield self

    def release(self) -> None:
        """Take everything off and leave the module as it was before."""
        try:
            self.become(Applied())
        finally:
            if self.slots is not None:
                self.slots.close()
            self.cell.close()
            for layer in self.weights.layers.values():
                uninstall(layer)


def _fusion(
    site: Site, mix: Mix, updates: Mapping[AdapterKey, Mapping[Site, Mapping[Site, Update]]]
) -> Fusion:
    worn = [
        (part.at(named), update)
        for part in mix.parts
        for named, update in updates[part.key][site].items()
    ]
    return Fusion(site, mix, tuple(u for _, u in worn), tuple(s for s, _ in worn))


def become(models: Iterable[LoraModel], want: Applied) -> None:
    """``want`` on every component; if one refuses, all are as before."""
    with ExitStack() as undo:
        for model in models:
            undo.callback(model.put_back, model.state())
            model.become(want)
        undo.pop_all()


@contextmanager
def wearing(models: Collection[LoraModel], want: Applied) -> Iterator[None]:
    """``want`` on every component inside the block, and what was worn before after it."""
    with ExitStack() as undo:
        for model in models:
            undo.enter_context(model.keeping())
        become(models, want)
        yield
