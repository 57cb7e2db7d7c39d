"""The policy auto against the better of live and fused, for runs of 1 to 50 steps.

``python -m bench.auto``: forwards of a random Flux in bfloat16 with adapters on every linear layer
of attention and feed-forward; fusing and restoring are part of a run. Every run begins and ends
with pristine weights, as if the mix were asked for once.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from diffusers import FluxTransformer2DModel

from loraloom.core.adapter import Adapter, LowRank
from loraloom.core.mix import AdapterKey, Applied, Mix, Part
from loraloom.engine.auto import Auto
from loraloom.engine.traffic import Run, Shape
from loraloom.lora.calibrate import measure
from loraloom.lora.model import LoraModel

from .measure import AtLeast, AtMost, Clock, Row, Way
from .report import head, show
from .subject import COMPONENT, factors, targets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STEPS = (1, 4, 8, 20, 50)
RANKS = (16, 256)
CONFIG = {
    "num_layers": 1,
    "num_single_layers": 2,
    "num_attention_heads": 8,
    "joint_attention_dim": 512,
    "in_channels": 16,
}
IMAGE, TEXT = 256, 64
SHAPE = Shape(rows=1, tokens=IMAGE + TEXT, passes=(1,))
GOAL = AtLeast(1 / 1.1)


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A transformer that wears adapters, one forward of it, and mixes of every rank."""

    model: LoraModel
    forward: Callable[[], object]
    mixes: dict[int, Mix]

    def run(self, state: Applied, steps: int) -> None:
        self.model.become(state)
        for _ in range(steps):
            self.forward()
        self.model.become(Applied())


def make(device: str) -> Subject:
    torch.manual_seed(0)
    module: Any = FluxTransformer2DModel(**CONFIG).to(device, torch.bfloat16)
    module.eval().requires_grad_(requires_grad=False)
    generator = torch.Generator().manual_seed(0)
    adapters = {}
    for rank in RANKS:
        updates = {}
        for site, layer in targets(module).items():
            down, up = factors(layer.weight, rank, generator)
            updates[site] = LowRank(down, up, 1.0)
        adapter = Adapter(AdapterKey(f"rank {rank}", ""), {COMPONENT: updates})
        adapters[adapter.key] = adapter
    mixes = {rank: Mix.of([Part(key, 1.0)]) for rank, key in zip(RANKS, adapters, strict=True)}
    model = LoraModel(COMPONENT, module, adapters)
    return Subject(model, partial(module, **_inputs(module)), mixes)


def _inputs(module: Any) -> dict[str, Any]:
    config, like = module.config, next(module.parameters())
    return {
        "hidden_states": torch.randn(1, IMAGE, config.in_channels).to(like),
        "encoder_hidden_states": torch.randn(1, TEXT, config.joint_attention_dim).to(like),
        "pooled_projections": torch.randn(1, config.pooled_projection_dim).to(like),
        "timestep": torch.full((1,), 0.5).to(like),
        "img_ids": torch.zeros(IMAGE, 3, device=like.device),
        "txt_ids": torch.zeros(TEXT, 3, device=like.device),
        "guidance": torch.full((1,), 3.0).to(like) if config.guidance_embeds else None,
        "return_dict": False,
    }


def against_the_better(_: object, clock: Clock) -> list[Row]:
    """Of one rank, on a model of its own: what calibrating takes, and auto | the better."""
    subject = make(clock.device)
    auto, calibrated = prepared(subject)
    return [calibrated, *(row for row in rows(subject, auto, clock, RANKS[0]) if row.goal)]


def prepared(subject: Subject) -> tuple[Auto, Row]:
    """What decides, and how long it took to learn how fast the machine is."""
    started = time.perf_counter()
    rates = measure(subject.model, filed=False)
    row = Row("auto: calibration", time.perf_counter() - started, None, AtMost(2.0))
    auto = Auto([subject.model], lambda: rates)
    with auto.traffic.watching(Run(SHAPE, 1)):
        subject.forward()
    return auto, row


def rows(subject: Subject, auto: Auto, clock: Clock, rank: int) -> Iterator[Row]:
    """For every number of steps whether auto is as fast as the better, and what was predicted."""
    mix = subject.mixes[rank]
    live, fused, bare = Applied.rows([mix]), Applied(fused=mix), Applied()
    for steps in STEPS:

        def chosen(steps: int = steps) -> None:
            mode = auto.choice(mix, (), Run(SHAPE, steps)).mode
            subject.run(live if mode == "live" else fused, steps)

        ways = [Way(partial(subject.run, state, steps)) for state in (live, fused, bare)]
        mine, beside, inside, plain = clock.race(Way(chosen), *ways)
        choice = auto.choice(mix, (), Run(SHAPE, steps))
        better = min(beside.median, inside.median)
        name = f"auto: rank {rank}, {steps} steps ({choice.mode}) | the better"
        yield Row(name, mine.median, better, GOAL, mine.spread)
        for what, predicted, took in (
            ("live", choice.live_s, beside),
            ("fused", choice.fused_s, inside),
        ):
            extra = took.over(plain) * plain.median
            name = f"rank {rank}, {steps} steps: {what}, predicted | measured"
            yield Row(name, predicted, max(extra, 0.0), None)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    subject = make(args.device)
    auto, calibrated = prepared(subject)
    head()
    show([calibrated])
    for rank in RANKS:
        for row in rows(subject, auto, Clock(args.device, args.runs), rank):
            show([row])
    print(auto.rates())


if __name__ == "__main__":
    main()
