"""Measures what wearing and fusing cost on this machine, once for a model, in about a second."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import secrets
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import cache as once
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

import loraloom
from loraloom.core.records import record
from loraloom.errors import AdapterMismatchError, RecordError

from . import offload
from .cost import CAUTIOUS, Rates
from .stand import WEIGHTS, Stand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import TypeAlias

    from .layer import LoraLayer
    from .model import LoraModel
    from .stand import Point

    Round: TypeAlias = Callable[[], Iterator[tuple[Point, float]]]
    """One stand, measured once."""

BUDGET = 1.2
"""Seconds after which nothing more is measured: one point at most goes beyond."""

LEAST = 0.01
"""The share of what was measured that a rate explains of which nothing was seen."""

ROUNDS = 40
"""At most so many times is everything measured."""

SLICE = 64
"""The short side of the layers on which wearing is timed.

What wearing adds depends on ``in + out``, the layer's own work on ``in × out``: on a thin slice of
a layer the one is not lost in the noise of the other.
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """What computes: a processor or a GPU, threads, versions."""

    device: str
    threads: int
    torch: str
    loraloom: str


@dataclass(frozen=True, slots=True)
class Subject:
    """What rates hold for; anything else is measured anew.

    ``restored`` says where pristine weights come from: read from a checkpoint, or kept; ``rests``
    on what kind of device weights lie when they are changed.
    """

    machine: Machine
    model: str
    shapes: str
    dtype: str
    restored: Literal["read", "kept"]
    rests: str


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of every point that was reached; ``whole`` if that is all of them."""

    by_point: Mapping[Point, float]
    whole: bool


@dataclass(frozen=True, slots=True)
class Kept:
    """What a file of the cache holds."""

    subject: Subject
    rates: Rates


def rates_of(model: LoraModel, folder: Path, *, filed: bool) -> Rates:
    """The rates of a component, from ``folder`` or measured now and kept there.

    A cache that cannot be read or written is none: the rates are measured. They are of speed
    alone and change no number that a model computes. What a machine had no time for is not kept:
    the next process may find it idle.

    Args:
        filed: whether the component's pristine weights are read from a checkpoint.
    """
    subject = subject_of(model, filed=filed)
    name = hashlib.sha256(json.dumps(dataclasses.asdict(subject)).encode()).hexdigest()
    path = folder / f"rates-{name[:16]}.json"
    kept = _read(path)
    if kept is not None and kept.subject == subject:
        return kept.rates
    times = measured(model, filed=filed)
    rates = fitted(times.by_point)
    if times.whole:
        _write(path, Kept(subject, rates))
    return rates


def subject_of(model: LoraModel, *, filed: bool) -> Subject:
    """The machine, and the model as far as its speed depends on it."""
    shapes = sorted(tuple(layer.shape) for layer in model.weights.layers.values())
    layer = _heaviest(model)
    device, dtype = layer.where
    machine = Machine(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        loraloom=loraloom.__version__,
    )
    return Subject(
        machine,
        model=model.cell.component.__name__,
        shapes=hashlib.sha256(str(shapes).encode()).hexdigest()[:16],
        dtype=str(dtype).removeprefix("torch."),
        restored="read" if filed else "kept",
        rests=_rests(layer).type,
    )


def measure(model: LoraModel, *, filed: bool) -> Rates:
    """Rates from fresh layers of the component's shapes; the component itself is left alone."""
    return fitted(measured(model, filed=filed).by_point)


def measured(model: LoraModel, *, filed: bool) -> Times:
    """Seconds on fresh layers where the component computes and where its weights rest.

    Of every point the fastest round counts: what else the machine does only ever adds to it, and
    live and fused are compared with each other, not with a clock.
    """
    layer, shapes = _heaviest(model), _shapes(model)
    (device, dtype), rests = layer.where, _rests(layer)
    out, width = (min(max(side // 2, 1), SLICE) for side in shapes[0])
    thin = [(out, width), *((out, w) for _, w in shapes), *((o, width) for o, _ in shapes)]

    worn, fused = (
        [once(partial(Stand.of, shape, (on, dtype), filed=filed)) for shape in dict.fromkeys(of)]
        for of, on in ((thin, device), ([(out, width), *shapes], rests))
    )
    wear = [partial(_wear, made) for made in worn]
    fuse = [partial(_fuse, made) for made in fused]
    # these first: one stand of wearing and two of fusing are enough for rates
    runs = [*wear[:1], *fuse, *wear[1:]]
    with torch.no_grad():
        if device.type == "cuda":
            _rounds(runs[:2], 1, float("inf"))  # kernels are compiled, as the first batch would
        return _rounds(runs, ROUNDS, time.perf_counter() + BUDGET)


def _wear(made: Callable[[], Stand]) -> Iterator[tuple[Point, float]]:
    yield from made().wear()


def _fuse(made: Callable[[], Stand]) -> Iterator[tuple[Point, float]]:
    yield from made().fuse()


def _rounds(runs: Sequence[Round], number: int, end: float) -> Times:
    times: dict[Point, float] = {}
    for done, run in enumerate([*runs] * number):
        for point, spent in run():
            times[point] = min(spent, times.get(point, spent))
            if time.perf_counter() > end:
                return Times(times, whole=done >= len(runs))
    return Times(times, whole=True)


def _heaviest(model: LoraModel) -> LoraLayer:
    return max(model.weights.layers.values(), key=lambda layer: prod(layer.shape))


def _rests(layer: LoraLayer) -> torch.device:
    """Where its weight is when something is fused into it, if that can be."""
    try:
        layer.check_fusible()
    except AdapterMismatchError:
        return layer.device
    facts = offload.look(layer.weight, layer.above)
    return facts.device if facts.group is None else facts.group.offload


def _shapes(model: LoraModel) -> list[tuple[int, int]]:
    """The two shapes ``[out, width]`` that hold most of the component's weights."""
    found = Counter(
        (shape[0], prod(shape[1:]))
        for shape in (tuple(layer.shape) for layer in model.weights.layers.values())
    )
    heavy = sorted(found, key=lambda shape: found[shape] * shape[0] * shape[1], reverse=True)[:2]
    return [(min(out, max(WEIGHTS // width, 1)), width) for out, width in heavy]


def fitted(times: Mapping[Point, float]) -> Rates:
    """The rates that explain ``times`` best: least squares of the relative errors.

    None is zero. Where too few points are there to tell wearing or fusing, all are those of
    :data:`~loraloom.lora.cost.CAUTIOUS`: they are compared, so they are of one machine.
    """
    worn, fusing, restoring = [], [], []
    for point, spent in times.items():
        weights = point.out * point.width
        if point.entries and point.rank:
            bare = times[dataclasses.replace(point, rank=0)]
            skinny = point.entries * point.rank * (point.out + point.width)
            touched = point.entries * (point.out + point.width)
            worn.append(([1.0, skinny, touched], spent - bare, spent))
        elif not point.entries and point.rank:
            fusing.append(([1.0, weights, weights * point.rank], spent, spent))
        elif not point.entries:
            restoring.append(([1.0, weights], spent, spent))
    live, fuse, restore = _solved(worn), _solved(fusing), _solved(restoring)
    if not (live and fuse and restore):
        return CAUTIOUS
    call, flop, touch = live
    return Rates(call, flop, touch, fuse[0] + restore[0], fuse[1], fuse[2], restore[1])


def _solved(rows: Sequence[tuple[Sequence[float], float, float]]) -> list[float]:
    """Coefficients, all above 0, of rows of (factors, seconds, uncertainty).

    None are found where the rows do not tell them apart, or tell nothing but noise.
    """
    if not rows:
        return []
    scale = torch.tensor([[1 / row[2]] for row in rows], dtype=torch.float64)
    factors = torch.tensor([row[0] for row in rows], dtype=torch.float64) * scale
    wanted = torch.tensor([[row[1]] for row in rows], dtype=torch.float64) * scale
    size = factors.norm(dim=0)  # columns of one size: the numbers span twelve orders
    kept = list(range(factors.shape[1]))
    if int(torch.linalg.matrix_rank(factors / size)) < len(kept):
        return []
    found = (LEAST / factors.amax(dim=0)).tolist()
    while kept:
        solution = torch.linalg.lstsq((factors / size)[:, kept], wanted).solution.flatten()
        if bool((solution > 0).all()):
            for column, value in zip(kept, (solution / size[kept]).tolist(), strict=True):
                found[column] = value
            return found
        kept.pop(int(solution.argmin()))
    return []


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _read(path: Path) -> Kept | None:
    try:
        return record(Kept, json.loads(path.read_text(encoding="utf-8")), "rates")
    except (OSError, ValueError, RecursionError, RecordError):
        return None  # measured anew


def _write(path: Path, kept: Kept) -> None:
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(dataclasses.asdict(kept)) + "\n", encoding="utf-8")
        draft.replace(path)
