"""Fixed memory for compiled models and captured graphs: another mix is other numbers in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from loraloom.core.adapter import LowRank
from loraloom.errors import BudgetError

from .live import Slot

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from loraloom.core.mix import AdapterKey, Site

    from .layer import LoraLayer
    from .live import Fitted, Live


class Slots:
    """Memory for the factors and scales of every site of a component.

    Adapters lie side by side from rank 0 on. What is computed with is the smallest of ``ranks``
    that holds what is worn, or 0 where nothing is. A compiled model has one graph for every such
    bucket and number of samples; another mix, strength or adapter only writes numbers.

    Args:
        layers: by site.
        ranks: the buckets.
        samples: at most so many samples of a batch wear different mixes.
    """

    def __init__(
        self, layers: Mapping[Site, LoraLayer], ranks: Sequence[int], samples: int
    ) -> None:
        assert ranks
        assert min(ranks) > 0 < samples
        self.layers = layers
        self.ranks = tuple(sorted(set(ranks)))
        self._keys: tuple[AdapterKey, ...] = ()
        device = next(iter(layers.values())).device
        self._scale = torch.zeros(len(layers), samples, self.ranks[-1], device=device)
        self._sites = {site: _empty(layer, self.ranks[-1]) for site, layer in layers.items()}

    def open(self) -> None:
        """Let the layers read here, instead of looking up what they wear."""
        for (site, layer), scale in zip(self.layers.items(), self._scale, strict=True):
            whole = self._sites[site]
            layer.slots = {
                rank: Slot(
                    LowRank(whole.down[:rank], whole.up[:, :rank], 1.0),
                    scale[None, :, None, :rank, None],
                )
                for rank in self.ranks
            }

    def close(self) -> None:
        """Give the layers back to what they look up."""
        for layer in self.layers.values():
            del layer.slots

    def check(self, live: Live) -> None:
        """Return if ``live`` has room.

        Raises:
            BudgetError: it has more ranks or samples than there are.
        """
        ranks = sum(_widths(live.fitted).values())
        for what, number, room in (
            ("ranks", ranks, self.ranks[-1]),
            ("samples", live.samples, self._scale.shape[1]),
        ):
            if number > room:
                raise BudgetError(
                    f"there is fixed room for {room} {what}, what is to be worn has {number}"
                )

    def hold(self, live: Live) -> int:
        """Write what ``live`` wears, which has been checked; returns the bucket that holds it."""
        widths = _widths(live.fitted)
        ranks = sum(widths.values())
        if ranks and self._keys != tuple(widths):
            self._keys = ()  # until all of it is written
            for site, memory in self._sites.items():
                _fill(memory, site, {each: widths[key] for key, each in live.fitted.items()})
            self._keys = tuple(widths)
        if ranks:
            self._scale[:, : live.samples, :ranks] = self._scales(live, widths)
            self._scale[:, :, ranks:] = 0
        return next(bucket for bucket in (0, *self.ranks) if bucket >= ranks)

    def _scales(self, live: Live, widths: Mapping[AdapterKey, int]) -> Tensor:
        """``[sites, samples, ranks]``, made once for a :class:`Live`."""
        kept: Tensor | None = live.ways.get("scales")
        if kept is None:
            mixes = [seg.mix for seg in live.segments for _ in range(seg.stop - seg.start)]
            rows = [
                [
                    scale
                    for key, each in live.fitted.items()
                    for worn in [each.scales(site, mix, key)]
                    for scale in [*worn, *[0.0] * (widths[key] - len(worn))]
                ]
                for site in self.layers
                for mix in mixes
            ]
            kept = torch.tensor(rows, dtype=torch.float32)
            kept = kept.view(len(self.layers), live.samples, -1).to(self._scale.device)
            live.ways["scales"] = kept
        return kept


def _widths(fitted: Mapping[AdapterKey, Fitted]) -> dict[AdapterKey, int]:
    """Ranks that an adapter takes: those of its largest site."""
    return {
        key: max((each.rank(site) for site in each.sites), default=0)
        for key, each in fitted.items()
    }


def _empty(layer: LoraLayer, rank: int) -> LowRank:
    """Zeros in the shape of an update of ``rank``."""
    out, *into = layer.shape
    down = torch.zeros(rank, *into, dtype=layer.kind, device=layer.device)
    return LowRank(down, down.new_zeros(out, rank, *[1] * (len(into) - 1)), 1.0)


def _fill(memory: LowRank, site: Site, fitted: Mapping[Fitted, int]) -> None:
    """Write adapters side by side, each in its width, and zeros where it has none or less."""
    memory.down.zero_()
    memory.up.zero_()
    first = 0
    for each, width in fitted.items():
        start = first
        for piece in each.sites.get(site, ()):
            ranks = slice(start, start + piece.update.rank)
            memory.down[ranks] = piece.update.down
            memory.up[:, ranks] = piece.update.up
            start = ranks.stop
        first += width
