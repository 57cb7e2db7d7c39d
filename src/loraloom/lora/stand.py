"""Layers that are there to be timed: what a model's layers cost, without touching the model."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from loraloom.core.adapter import Adapter, LowRank
from loraloom.core.mix import AdapterKey, Applied, Mix, Part

from .model import LoraModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from loraloom.core.mix import Site

    from .live import Where

RANKS, ENTRIES = (16, 128), (64, 512)

WEIGHTS = 2**21
"""Weights of a shape that are laid out; of a larger shape its first rows."""


@dataclass(frozen=True, slots=True)
class Point:
    """One measured thing: seconds for one layer ``[out, width]``.

    ``entries`` is 0 where weights are changed; ``rank`` is 0 for the bare layer and for restoring.
    """

    out: int
    width: int
    entries: int
    rank: int


class Copies(nn.Module):
    """Layers of one shape, called one after the other."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, hidden_states: Tensor) -> None:
        for layer in self.layers:
            layer(hidden_states)


class Stand:
    """Copies of a layer with adapters of every rank, ready to be timed."""

    def __init__(self, module: Copies, model: LoraModel, mixes: Mapping[int, Mix]) -> None:
        self.module = module
        self.model = model
        self.mixes = mixes

    @classmethod
    def of(cls, shape: tuple[int, int], where: Where, *, filed: bool) -> Stand:
        """A stand that computes ``where`` it is told."""
        (out, width), (device, dtype) = shape, where
        count = min(max(WEIGHTS // (out * width), 1), 4)
        layers = [
            nn.Linear(width, out, device="meta", dtype=dtype).to_empty(device=device)
            for _ in range(count)
        ]
        for layer in layers:
            layer.requires_grad_(requires_grad=False)
            layer.weight.copy_(torch.linspace(-0.1, 0.1, width))
            layer.bias.zero_()
        sites = [f"layers.{i}" for i in range(count)]
        files = {s: x.weight.detach().cpu().clone() for s, x in zip(sites, layers, strict=True)}
        adapters = [_adapter(rank, shape, sites) for rank in RANKS]
        module = Copies(layers)
        by_key = {adapter.key: adapter for adapter in adapters}
        model = LoraModel("stand", module, by_key, checkpoint=files if filed else None)
        mixes = zip(RANKS, adapters, strict=True)
        return cls(module, model, {rank: Mix.of([Part(a.key, 1.0)]) for rank, a in mixes})

    def wear(self) -> Iterator[tuple[Point, float]]:
        """Seconds of calls without and with adapters, side by side, each as it is measured."""
        weight = self.model.weights.layers["layers.0"].weight
        out, width = weight.shape
        for entries in ENTRIES:
            x = torch.ones(1, entries, width, dtype=weight.dtype, device=weight.device)
            for rank in (0, *self.mixes):
                self.model.become(Applied.rows([self.mixes[rank]]) if rank else Applied())
                yield Point(out, width, entries, rank), self._timed(partial(self.module, x))
        self.model.become(Applied())

    def fuse(self) -> Iterator[tuple[Point, float]]:
        """Seconds of fusing with every rank, and of restoring, each as it is measured."""
        out, width = self.model.weights.layers["layers.0"].weight.shape
        for rank, mix in self.mixes.items():
            for point, state in ((rank, Applied(fused=mix)), (0, Applied())):
                spent = self._timed(partial(self.model.become, state))
                yield Point(out, width, 0, point), spent

    def _timed(self, run: Callable[[], object]) -> float:
        """Seconds for one of the copies; a device is waited for before and after all of them."""
        wait = torch.cuda.synchronize if torch.cuda.is_available() else _nothing
        wait()
        start = time.perf_counter()
        run()
        wait()
        return (time.perf_counter() - start) / len(self.module.layers)


def _nothing() -> None:
    """A CPU is done when it returns."""


def _adapter(rank: int, shape: tuple[int, int], sites: Sequence[Site]) -> Adapter:
    down, up = torch.full((rank, shape[1]), 1e-3), torch.full((shape[0], rank), 1e-3)
    update = LowRank(down, up, 1.0)
    return Adapter(AdapterKey(f"rank {rank}", ""), {"stand": dict.fromkeys(sites, update)})
