"""Measures what wearing and fusing cost on this machine, once for a model, in under two seconds."""

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
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

import loraloom
from loraloom.core.records import record
from loraloom.errors import RecordError

from .cost import Rates
from .stand import WEIGHTS, Stand

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .model import LoraModel
    from .stand import Point

BUDGET = 1.2
"""Seconds after which measuring ends, once everything has been measured."""

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

    ``restored`` says where pristine weights come from: read from a checkpoint, or kept.
    """

    machine: Machine
    model: str
    shapes: str
    dtype: str
    restored: Literal["read", "kept"]


@dataclass(frozen=True, slots=True)
class Kept:
    """What a file of the cache holds."""

    subject: Subject
    rates: Rates


def rates_of(model: LoraModel, folder: Path, *, filed: bool) -> Rates:
    """The rates of a component, from ``folder`` or measured now and kept there.

    A cache that cannot be read or written is none: the rates are measured. They are of speed
    alone and change no number that a model computes.

    Args:
        filed: whether the component's pristine weights are read from a checkpoint.
    """
    subject = subject_of(model, filed=filed)
    name = hashlib.sha256(json.dumps(dataclasses.asdict(subject)).encode()).hexdigest()
    path = folder / f"rates-{name[:16]}.json"
    kept = _read(path)
    if kept is not None and kept.subject == subject:
        return kept.rates
    rates = measure(model, filed=filed)
    _write(path, Kept(subject, rates))
    return rates


def subject_of(model: LoraModel, *, filed: bool) -> Subject:
    """The machine, and the model as far as its speed depends on it."""
    layers = model.weights.layers
    shapes = sorted(tuple(layer.shape) for layer in layers.values())
    weight = next(iter(layers.values())).weight
    cuda = weight.device.type == "cuda"
    machine = Machine(
        device=torch.cuda.get_device_name(weight.device) if cuda else _processor(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        loraloom=loraloom.__version__,
    )
    return Subject(
        machine,
        model=model.cell.component.__name__,
        shapes=hashlib.sha256(str(shapes).encode()).hexdigest()[:16],
        dtype=str(weight.dtype).removeprefix("torch."),
        restored="read" if filed else "kept",
    )


def measure(model: LoraModel, *, filed: bool) -> Rates:
    """Rates from fresh layers of the component's shapes; the component itself is left alone.

    Of every point the fastest round counts: what else the machine does only ever adds to it, and
    live and fused are compared with each other, not with a clock.
    """
    end = time.perf_counter() + BUDGET
    shapes = _shapes(model)
    corner = min(shapes[0][0], SLICE), min(shapes[0][1], SLICE)
    thin = [(corner[0], width) for _, width in shapes] + [(out, corner[1]) for out, _ in shapes]
    worn = [Stand.of(each, model, filed=filed) for each in dict.fromkeys([*thin, corner])]
    fused = [Stand.of(each, model, filed=filed) for each in dict.fromkeys([*shapes, corner])]
    runs = [*(stand.wear for stand in worn), *(stand.fuse for stand in fused)]
    times: dict[Point, float] = {}
    with torch.no_grad():
        for number, run in enumerate(runs * ROUNDS):
            if number >= len(runs) and time.perf_counter() > end:
                break
            for point, spent in run().items():
                times[point] = min(spent, times.get(point, spent))
    return fitted(times)


def _shapes(model: LoraModel) -> list[tuple[int, int]]:
    """The two shapes ``[out, width]`` that hold most of the component's weights."""
    found = Counter(
        (shape[0], prod(shape[1:]))
        for shape in (tuple(layer.shape) for layer in model.weights.layers.values())
    )
    heavy = sorted(found, key=lambda shape: found[shape] * shape[0] * shape[1], reverse=True)[:2]
    return [(min(out, max(WEIGHTS // width, 1)), width) for out, width in heavy]


def fitted(times: Mapping[Point, float]) -> Rates:
    """The rates that explain ``times`` best: least squares of the relative errors."""
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
    call, flop, touch = _solved(worn)
    fuse_call, fuse, fuse_flop = _solved(fusing)
    restore_call, restore = _solved(restoring)
    return Rates(call, flop, touch, fuse_call + restore_call, fuse, fuse_flop, restore)


def _solved(rows: Sequence[tuple[Sequence[float], float, float]]) -> list[float]:
    """Coefficients, none below 0, of rows of (factors, seconds, uncertainty)."""
    scale = torch.tensor([[1 / row[2]] for row in rows], dtype=torch.float64)
    factors = torch.tensor([row[0] for row in rows], dtype=torch.float64) * scale
    wanted = torch.tensor([[row[1]] for row in rows], dtype=torch.float64) * scale
    size = factors.norm(dim=0)  # columns of one size: the numbers span twelve orders
    kept = list(range(factors.shape[1]))
    found = [0.0] * len(kept)
    while kept:
        solution = torch.linalg.lstsq((factors / size)[:, kept], wanted).solution.flatten()
        if bool((solution >= 0).all()):
            for column, value in zip(kept, (solution / size[kept]).tolist(), strict=True):
                found[column] = value
            break
        kept.pop(int(solution.argmin()))
    return found


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
