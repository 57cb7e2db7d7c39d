"""The runtime on a transformer as large as LTX-2.3's, with random weights; CUDA only.

No file of 38 GB is written, so that there is no checkpoint to read pristine weights from. The
stages are those of the released model: the second wears the distilled adapter beside the style, at
1536x1024 and 121 frames. ``--size tiny`` tries the code, on any device.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from diffusers import LTX2VideoTransformer3DModel

from loraloom import Canvas
from loraloom.core.adapter import Adapter, LowRank
from loraloom.core.mix import Applied, Mix, Part
from loraloom.lora.model import LoraModel
from loraloom.memory.staging import Mode, Sizes, plan
from loraloom.models.card import Card, Grid
from loraloom.models.ltx2.family import LTX2
from loraloom.models.sizes import working

from . import held
from .folder import DISTILLED, SIZES, STYLE, VERSION, transformer_config
from .measure import AtMost, Clock, Row, Times, Way
from .report import show
from .subject import COMPONENT, factors, targets
from .twostage import inputs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from loraloom.memory.staging import Plan

    from .options import Options

NEEDED = 1.8
"""Memory that is wanted, in bytes of the model: itself, the adapters, what fusing keeps."""
MOST: dict[Mode, float | None] = {"original": 1e-4, "snapshot": None, "resident": None}
"""The most seconds that a stage switch may take."""
NEAR = 0.02
"""The most that a plan may be off, as a share of the bytes that it predicts."""
LIVE, FUSED = 0.25, 0.05
"""The most that a step may take longer, with everything live and with the distilled one fused."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A transformer, the ranks of adapters for it, and what its second stage is called with."""

    config: Mapping[str, Any]
    ranks: Mapping[str, int]
    canvas: Canvas
    words: int


REAL = Scale(VERSION, {STYLE: 32, DISTILLED: 384}, Canvas(1536, 1024, 121, 24.0), 1024)
TINY = Scale(
    transformer_config(SIZES["tiny"]), SIZES["tiny"].ranks, Canvas(64, 64, 9, 16.0), words=8
)


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """The transformer, and adapters on the host."""

    scale: Scale
    module: Any
    adapters: tuple[Adapter, ...]

    def step(self) -> Callable[[], object]:
        inputs = inputs_of(self.module, self.scale.canvas, self.scale.words)
        return partial(self.module, **inputs)

    @property
    def mixes(self) -> tuple[Mix, Mix]:
        """The style, and the distilled adapter."""
        style, distilled = (Mix.of([Part(each.key, 1.0)]) for each in self.adapters)
        return style, distilled

    def planned(self, mode: Mode) -> Plan:
        style, distilled = self.adapters
        changed = sum(layer.weight.nbytes for layer in targets(self.module).values())
        sizes = Sizes({COMPONENT: _bytes(self.module)}, style.nbytes, distilled.nbytes, changed)
        return plan(mode, "together", sizes, ((COMPONENT,),))


@torch.no_grad()
def rows(options: Options) -> list[Row]:
    """None, and the reason on the screen, where they cannot be measured."""
    tiny = options.size == "tiny"
    wanted = tiny or options.size == "ltx2" or options.cuda
    if not wanted or not options.chooses("ltx2"):
        return []
    if not options.cuda and not tiny:
        print("ltx2: not measured, it wants a CUDA device")
        return []
    scale = TINY if tiny else REAL
    with torch.device("meta"):
        module: Any = LTX2VideoTransformer3DModel(**scale.config).to(torch.bfloat16)
    if not _room(options.device, NEEDED * _bytes(module), "ltx2"):
        return []
    adapters = tuple(
        _adapter(_filled(module, options.device), *each) for each in scale.ranks.items()
    )
    made = []
    for row in _measured(Subject(scale, module, adapters), Clock(options.device, options.runs)):
        show([row])
        made.append(row)
    return made


def _measured(subject: Subject, clock: Clock) -> Iterator[Row]:
    step = Way(subject.step())
    (bare,) = clock.race(step)
    yield Row("ltx2: a step of stage 2 without adapters", bare.median, None, None, bare.spread)
    yield _working(subject, clock)
    for mode in get_args(Mode):
        made = subject.planned(mode)
        if _room(clock.device, made.peak - _bytes(subject.module), f"ltx2: {mode}"):
            yield from _kept(subject, clock, made, bare)


def _working(subject: Subject, clock: Clock) -> Row:
    """What a step takes beside the weights, as a share of what is reckoned with."""
    scale, config = subject.scale, dict(subject.module.config)
    steps, pixels, _ = config["vae_scale_factors"]
    card = Card(
        name="random",
        root=Path(),
        family=LTX2,
        grid=Grid(pixels=pixels, frames=steps, steps=1),
        defaults=LTX2.defaults(lambda _part: config),
        version="",
        adapters={},
        config=config,
    )
    before, step = _now(clock.device), subject.step()
    share = (_most(step, clock.device) - before) / working(card, scale.canvas, "bfloat16")
    return Row(
        "ltx2: working memory of a step, of what is reckoned", share, None, None, unit="share"
    )


def _kept(subject: Subject, clock: Clock, made: Plan, bare: Times) -> Iterator[Row]:
    """Of one way to keep what the stages wear: switching, a step, bytes."""
    others = _now(clock.device) - _bytes(subject.module)
    model = LoraModel(
        COMPONENT,
        subject.module,
        {each.key: each for each in subject.adapters},
        residency=made.residency,
    )
    style, distilled = subject.mixes
    first, second = Applied.rows([style]), Applied.rows([style], fused=distilled)
    if made.mode == "original":
        second = Applied.rows([Mix.of([*style.parts, *distilled.parts])])
    enter, leave = partial(model.become, second), partial(model.become, first)
    into, back = clock.race(Way(enter, before=leave), Way(leave, before=enter))
    most, name = MOST[made.mode], f"ltx2: {made.mode}"
    goal = None if most is None else AtMost(most)
    yield Row(f"{name}: stage switch", into.median, None, goal, into.spread)
    yield Row(f"{name}: stage switch back", back.median, None, None, back.spread)
    enter()
    off = abs((_now(clock.device) - others) / made.peak - 1)
    yield Row(f"{name}: bytes off the plan", off, None, AtMost(NEAR), unit="share")
    (worn,) = clock.race(Way(subject.step()))
    extra = worn.median / bare.median - 1
    most = LIVE if made.mode == "original" else FUSED
    yield Row(f"{name}: overhead of a step", extra, None, AtMost(most), worn.spread, "share")
    beyond = (_most(lambda: (leave(), enter()), clock.device) - others) / made.peak
    yield Row(f"{name}: peak while switching, of the plan", beyond, None, None, unit="share")
    model.release()


def _filled(module: Any, device: str) -> Any:
    """Random weights where there was only their shape."""
    if next(module.parameters()).is_meta:
        torch.manual_seed(0)
        module.to_empty(device=device).eval().requires_grad_(requires_grad=False)
        for parameter in module.parameters():
            parameter.normal_(std=0.02)
    return module


def _adapter(module: Any, name: str, rank: int) -> Adapter:
    """On the host, as what was read from a file."""
    device = next(module.parameters()).device
    generator = torch.Generator(device).manual_seed(rank)
    updates = {}
    for site, layer in targets(module).items():
        down, up = factors(layer.weight, rank, generator)
        updates[site] = LowRank(down.cpu(), up.cpu(), 1.0)
    return Adapter.make(name, {COMPONENT: updates})


def _bytes(module: Any) -> int:
    return sum(each.nbytes for each in (*module.parameters(), *module.buffers()))


def _room(device: str, needed: float, what: str) -> bool:
    """Whether that much is free on a CUDA device; says so where it is not."""
    gc.collect()
    if not device.startswith("cuda"):
        return True
    torch.cuda.empty_cache()  # of the models that were measured before
    free, _ = torch.cuda.mem_get_info(device)
    if free < needed:
        print(f"{what}: not measured, {free / 2**30:.0f} GiB are free, want {needed / 2**30:.0f}")
    return free >= needed


def _now(device: str) -> int:
    """Bytes on the device."""
    gc.collect()
    if device.startswith("cuda"):
        return torch.cuda.memory_allocated(device)
    return held.covered(held.tensors(device))


def _most(do: Callable[[], object], device: str) -> int:
    """The most bytes on a CUDA device meanwhile; elsewhere those that are there after it."""
    if not device.startswith("cuda"):
        do()
        return _now(device)
    torch.cuda.reset_peak_memory_stats(device)
    do()
    return torch.cuda.max_memory_allocated(device)
