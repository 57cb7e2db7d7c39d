"""Two-stage LTX-2.3, ours and diffusers + peft in one run: switches, steps, requests, bytes.

Random weights in bfloat16: a transformer of 388 M parameters, a style of rank 16 in both stages,
and a distilled adapter of rank 144 in the second.
"""

from __future__ import annotations

import gc
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from torch import nn

from loraloom.core.adapter import Adapter, LowRank
from loraloom.core.mix import Applied, Mix, Part
from loraloom.core.stage import Sigmas
from loraloom.lora.model import LoraModel
from loraloom.models.ltx2.family import FEW, REFINE

from . import held
from .folder import DISTILLED, SIZES
from .measure import AtLeast, AtMost, Clock, Row, Times, Way, row
from .options import Options, parse
from .peer import quiet
from .report import head, show
from .subject import factors
from .twostage import BASE, FIRST, SECOND, Ours, Subject, asked, check, make, planned

if TYPE_CHECKING:
    from loraloom.memory.staging import Mode, Order, Plan

PLANS: tuple[tuple[Mode, Order], ...] = (
    ("original", "together"),
    ("original", "in turn"),
    ("snapshot", "together"),
    ("resident", "together"),
)
"""Those whose bytes are looked at."""
NEAR = 0.02
"""The most that a plan may be off, as a share of the bytes that it predicts."""
LAYERS, COVERED, WIDTH = 1000, 100, 32
BRIEF = replace(BASE, sigmas=Sigmas(2)), replace(REFINE, sigmas=Sigmas(given=FEW[-3:-2]))
"""Bytes are the same after a step as after many."""


@torch.no_grad()
def rows(options: Options) -> list[Row]:
    """After a check that ours and the peer agree; shown as they come."""
    if options.size == "ltx2" or not options.chooses("stages"):
        return []
    quiet()
    clock = Clock(options.device, options.runs)
    made = []
    with TemporaryDirectory() as folder:
        subject = make(SIZES[options.size], options.device, Path(folder))
        check(subject)
        for measure in (switches, coverage, steps, requests, peaks):
            some = measure(subject, clock)
            show(some)
            made += some
    return made


def switches(subject: Subject, clock: Clock) -> list[Row]:
    """From what the first stage wears to what the second does; both were worn before."""
    theirs, ours = subject.theirs, subject.ours
    worn = Way(partial(theirs.wear, SECOND), before=partial(theirs.wear, FIRST))
    into = Way(
        partial(theirs.fuse, DISTILLED), before=partial(theirs.wear, SECOND), after=theirs.unfuse
    )
    name = "stage switch, {} | {}"
    live = clock.often().compare(
        name.format("original", "set_adapters"), ours["original"].switch(), worn, AtLeast(100)
    )
    modes: tuple[Mode, ...] = ("resident", "snapshot")
    *mine, set_again, fused = clock.race(*(ours[mode].switch() for mode in modes), worn, into)
    return [
        live,
        *(
            row(name.format(mode, what), times, peer, goal)
            for what, peer, goal in (
                ("set_adapters", set_again, None),
                ("fuse_lora", fused, AtLeast(3)),
            )
            for mode, times in zip(modes, mine, strict=True)
        ),
    ]


def coverage(_subject: Subject, clock: Clock) -> list[Row]:
    """Putting on again what covers some of the layers should take what all of them take."""
    module = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
    adapters = [_adapter(module, count) for count in (COVERED, LAYERS)]
    model = LoraModel("stack", module, {each.key: each for each in adapters})
    ways = [
        Way(
            partial(model.become, Applied.rows([Mix.of([Part(each.key, 1.0)])])),
            before=partial(model.become, Applied()),
        )
        for each in adapters
    ]
    name = f"on again, {LAYERS} of {LAYERS} layers | {COVERED} of {LAYERS}"
    return [clock.often().compare(name, ways[1], ways[0], AtLeast(1 / 1.5))]


def _adapter(module: nn.Sequential, count: int) -> Adapter:
    generator = torch.Generator().manual_seed(count)
    updates = {}
    for site, layer in islice(module.named_children(), count):
        assert isinstance(layer, nn.Linear)
        updates[site] = LowRank(*factors(layer.weight, 2, generator), 1.0)
    return Adapter.make(f"on {count}", {"stack": updates})


def steps(subject: Subject, clock: Clock) -> list[Row]:
    """A pass of the second stage, with what it wears put on before."""

    def mine(ours: Ours) -> Way:
        return Way(subject.step(ours.transformer), before=partial(ours.wear, ours.second))

    theirs = Way(
        subject.step(subject.theirs.pipe.transformer), before=partial(subject.theirs.wear, SECOND)
    )
    bare, live, fused, peer = clock.race(
        Way(subject.step(subject.plain)),
        mine(subject.ours["original"]),
        mine(subject.ours["snapshot"]),
        theirs,
    )

    def share(name: str, times: Times) -> Row:
        goal = AtLeast(2)
        return Row(name, times.over(bare), peer.over(bare), goal, times.spread, "share")

    return [
        Row("a step of stage 2 without adapters", bare.median, None, None, bare.spread),
        share("overhead of a step of stage 2, all live", live),
        share("overhead of a step of stage 2, distilled fused", fused),
    ]


def requests(subject: Subject, clock: Clock) -> list[Row]:
    """Four guided steps and three at twice the size, from the prompt to the latents."""
    wish = asked(subject.size.request)
    modes: tuple[Mode, ...] = ("original", "snapshot", "resident")
    ways = [Way(partial(subject.ours[mode].video, wish)) for mode in modes]
    *mine, theirs = clock.race(*ways, Way(subject.their_video))
    return [
        row(f"a request in two stages, {mode}", times, theirs, AtLeast(1))
        for mode, times in zip(modes, mine, strict=True)
    ]


def peaks(subject: Subject, _clock: Clock) -> list[Row]:
    """How far the bytes on the device are from what was planned, of a model of its own each."""
    made = []
    for mode, order in PLANS:
        plan = planned(subject.folder, mode, order)
        off = abs(_peak(subject, plan) / plan.peak - 1)
        made.append(Row(f"peak off its plan, {plan}", off, None, AtMost(NEAR), unit="share"))
    return made


def _peak(subject: Subject, plan: Plan) -> int:
    """The most bytes on the device during a request."""
    gc.collect()
    others = held.covered(held.tensors(subject.device))
    ours = Ours.load(subject.folder, subject.device, plan)
    with held.watched(ours.loom, others) as seen:
        ours.video(replace(asked(subject.size.step), stages=BRIEF))
    return max(seen)


def main() -> None:
    options = parse(__doc__)
    head()
    rows(options)


if __name__ == "__main__":
    main()
