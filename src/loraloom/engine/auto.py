"""The policy ``auto``: live or fused for every batch, by what either costs and would lose."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from loraloom.core.mix import NOTHING, Applied, Mix
from loraloom.core.request import Manner
from loraloom.lora.accuracy import Gauge
from loraloom.lora.cost import EXACT, Choice, Layers, Rounding, Work, choose, lost
from loraloom.lora.model import become

from .batch import Outfit
from .habits import Habits
from .traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from loraloom.core.adapter import Adapter
    from loraloom.core.mix import AdapterKey, Site
    from loraloom.lora.cost import Rates
    from loraloom.lora.model import LoraModel

    from .batch import Open
    from .traffic import Run


class Auto:
    """Decides for the components of one model, the main one first.

    Args:
        rates: of the main component, asked for when first needed; the others run on the same
            machine in the same type.
    """

    def __init__(self, models: Sequence[LoraModel], rates: Callable[[], Rates]) -> None:
        self.models = models
        self.rates = rates
        self.gauges = [Gauge(model) for model in models]
        self.traffic = Traffic(models)
        self.habits = Habits()
        # what rests in the weights must be there as long as it does
        self.resting: tuple[Adapter, ...] = ()

    def rest(self, mix: Mix, adapters: Mapping[AdapterKey, Adapter]) -> None:
        """Have ``mix`` in the weights and nothing beside them, or raise and be as before."""
        become(self.models, Applied(fused=mix))
        self.resting = tuple(adapters[part.key] for part in mix.parts)

    def outfit(self, what: Open, run: Run) -> Outfit:
        """How every adapter of a batch is worn.

        An adapter that rounding would drown stays live alone; the others are worn alike.
        """
        apart = {
            part.key: Manner("live", why)
            for part in what.candidates.parts
            if (why := lost(self.rounding(Mix((part,)))))
        }
        mix = what.candidates.only(
            part.key for part in what.candidates.parts if part.key not in apart
        )
        self.habits.note(mix)
        settled = {**what.settled, **apart}
        if not mix:
            return Outfit(settled, what.resting)
        live = [key for key, manner in settled.items() if manner.mode == "live"]
        choice = self.choice(mix, live, run, what.resting)
        manner = Manner(choice.mode, choice.why)
        both = Mix.of([*what.resting.parts, *(mix.parts if choice.mode == "fused" else ())])
        return Outfit({**settled, **dict.fromkeys((p.key for p in mix.parts), manner)}, both)

    def choice(
        self, mix: Mix, beside: Sequence[AdapterKey], run: Run, resting: Mix = NOTHING
    ) -> Choice:
        """Live or fused for ``mix``, ``beside`` being live and ``resting`` fused in any case."""
        work = Work(
            self._layers(mix, beside, run),
            run.steps,
            uses=self.habits.uses(mix),
            resident=self._rests(Mix.of([*resting.parts, *mix.parts])),
        )
        return choose(self.rates(), work, self.rounding(mix))

    def _rests(self, mix: Mix) -> bool:
        return all(model.applied.fused == mix.on(model.component) for model in self.models)

    def rounding(self, mix: Mix) -> Rounding:
        """What fusing would lose, over all components."""
        each = (gauge.rounding(mix.on(gauge.model.component)) for gauge in self.gauges)
        return sum(each, start=EXACT)

    def _layers(self, mix: Mix, beside: Sequence[AdapterKey], run: Run) -> tuple[Layers, ...]:
        """What ``mix`` asks of every site that it changes, those that are alike as one."""
        alike: Counter[Layers] = Counter()
        for model in self.models:
            own = [part.key for part in mix.on(model.component).parts]
            worn, other = (_ranks(model, some) for some in (own, beside))
            for site, rank in worn.items():
                out, *width = model.weights.layers[site].shape
                flow = self.traffic.flow(model, site, run)
                layers = Layers(
                    count=1,
                    out=out,
                    width=prod(width),
                    rank=rank,
                    beside=other[site],
                    passes=flow.calls / run.steps,
                    entries=flow.entries,
                )
                alike[layers] += 1
        return tuple(replace(each, count=count) for each, count in alike.items())


def _ranks(model: LoraModel, keys: Sequence[AdapterKey]) -> Counter[Site]:
    """Of all these adapters together, by the site that they act at."""
    total: Counter[Site] = Counter()
    for key in keys:
        for site, named in model.fitter.updates(key).items():
            total[site] += sum(update.rank for update in named.values())
    return total
