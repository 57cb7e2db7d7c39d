"""Rows: wearing something else that was worn before."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

import torch
from torch import nn

from loraloom.core.adapter import Adapter, LowRank
from loraloom.core.mix import Applied, Mix, Part
from loraloom.lora.model import LoraModel

from .measure import AtLeast, Way
from .sides import ours, peer
from .subject import factors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .measure import Clock, Row
    from .subject import Subject

CALLS = 1000
"""Switches in a row: one takes microseconds."""
WIDTH = 32
"""Of the layers of a stack, whose number is what counts."""


def against_peer(subject: Subject, clock: Clock) -> list[Row]:
    return [_loaded(subject, clock, count) for count in (2, 8)]


def _loaded(subject: Subject, clock: Clock, count: int) -> Row:
    worn = [{path.stem: 1.0} for path in subject.files[:2]]
    with ours(subject, count) as side, peer(subject, count) as other:
        turn = cycle(worn)
        return clock.often().compare(
            f"switch, {count} adapters loaded",
            alternate(side.model, [Applied.rows([side.mix(each)]) for each in worn]),
            Way(lambda: other.wear(next(turn)), calls=4),
            AtLeast(500),
        )


def alternate(model: LoraModel, wants: Sequence[Applied]) -> Way:
    """One of ``wants`` after the other; they are made beforehand, as a server does."""
    turn = cycle(wants)
    return Way(lambda: model.become(next(turn)), calls=CALLS)


def against_numbers(_subject: Subject, clock: Clock) -> list[Row]:
    """A switch should not depend on how many sites and adapters there are."""
    few_sites, many_sites = (_stack(sites=count, adapters=2) for count in (50, 1000))
    few, many = (_stack(sites=50, adapters=count) for count in (2, 200))
    goal = AtLeast(1 / 1.5)
    clock = clock.often()
    return [
        clock.compare("switch at 1000 sites | ours at 50", many_sites, few_sites, goal),
        clock.compare("switch with 200 loaded | ours with 2", many, few, goal),
    ]


def _stack(*, sites: int, adapters: int) -> Way:
    """Switching between two of ``adapters`` adapters that were all worn before."""
    torch.manual_seed(0)
    module = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(sites)))
    loaded = [_adapter(module, number) for number in range(adapters)]
    model = LoraModel("stack", module, {adapter.key: adapter for adapter in loaded})
    wants = [Applied.rows([Mix.of([Part(adapter.key, 1.0)])]) for adapter in loaded]
    for want in wants:
        model.become(want)
    return alternate(model, wants[:2])


def _adapter(module: nn.Sequential, seed: int) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    updates = {}
    for site, layer in module.named_children():
        assert isinstance(layer, nn.Linear)
        updates[site] = LowRank(*factors(layer.weight, 2, generator), 1.0)
    return Adapter.make(f"a{seed}", {"stack": updates})
