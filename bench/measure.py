"""Times two ways of doing one thing in turn, and reports the ratio of their medians."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison.

    Attributes:
        ours: median seconds of ours, ``peer`` of the peer.
        ratio: ``peer / ours``: how many times faster ours is.
        goal: the least ratio that is good enough.
        spread: slowest over fastest run of ours.
    """

    name: str
    ours: float
    peer: float
    ratio: float
    goal: float
    met: bool
    spread: float


def compare(
    name: str, ours: Callable[[], object], peer: Callable[[], object], *, goal: float, runs: int
) -> Row:
    """Run the two in turn, so that a slow spell slows both; the first pair is dropped."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs + 1):
        for measured, run in zip(times, (ours, peer), strict=True):
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            measured.append(time.perf_counter() - start)
    mine, other = (statistics.median(measured[1:]) for measured in times)
    spread = max(times[0][1:]) / min(times[0][1:])
    ratio = other / mine
    return Row(name, mine, other, round(ratio, 3), goal, ratio >= goal, round(spread, 2))


def report(rows: Sequence[Row], command: str) -> Path:
    """Print a table and write it, with machine and versions, as one dated JSON file."""
    print(f"{'what':44} {'ours':>10} {'peer':>10} {'ratio':>8} {'goal':>6}  met")
    for row in rows:
        print(
            f"{row.name:44} {row.ours * 1e3:8.2f}ms {row.peer * 1e3:8.2f}ms "
            f"{row.ratio:7.2f}x {row.goal:5.1f}x  {'yes' if row.met else 'NO'}"
        )
    now = datetime.now(UTC)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()
    content = {
        "date": now.isoformat(timespec="seconds"),
        "command": command,
        "machine": {
            "device": device or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
        },
        "versions": {name: version(name) for name in ("torch", "diffusers", "peft", "loraloom")},
        "rows": [asdict(row) for row in rows],
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{now:%Y-%m-%d}-{'gpu' if torch.cuda.is_available() else 'cpu'}.json"
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"written to {path}")
    return path
