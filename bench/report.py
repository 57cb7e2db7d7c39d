"""A table of rows on the screen as they are measured, and one dated JSON file of them."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .measure import AtMost, Row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .measure import Unit

RESULTS = Path(__file__).parent / "results"


WIDE = 56
"""Columns of the name of a row."""


def head() -> None:
    """Print what the columns are; a goal is the least ratio, or with ≤ the most of ours."""
    print(f"{'what':{WIDE}} {'ours':>10} {'peer':>10} {'ratio':>9} {'goal':>10}  met", flush=True)


def show(rows: Sequence[Row]) -> None:
    """Print rows of the table."""
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
        met = {True: "yes", False: "NO", None: ""}[row.met]
        print(
            f"{row.name:{WIDE}} {_amount(row.ours, row.unit):>10} "
            f"{_amount(row.peer, row.unit):>10} {ratio:>9} {_goal(row):>10}  {met}",
            flush=True,
        )


def _amount(value: float | None, unit: Unit) -> str:
    if value is None:
        return ""
    if unit == "share":
        return f"{100 * value:.2f} %"
    return f"{1e3 * value:.2f} ms" if value >= 1e-4 else f"{1e6 * value:.2f} µs"


def _goal(row: Row) -> str:
    if row.goal is None:
        return ""
    if isinstance(row.goal, AtMost):
        return f"≤ {_amount(row.goal.value, row.unit)}"
    return f"{row.goal.value:.2f}x"


def write(rows: Sequence[Row], device: str, command: str) -> Path:
    """Write rows with machine and versions; the file is named after the day and the device."""
    kind = "gpu" if device.startswith("cuda") else "cpu"
    return write_record(kind, device, command, {"rows": [_record(row) for row in rows]})


def write_record(kind: str, device: str, command: str, found: Mapping[str, object]) -> Path:
    """Write what was found, with machine and versions, into the file of the day for its kind."""
    now = datetime.now(UTC)
    cuda = device.startswith("cuda")
    chip = torch.cuda.get_device_name(device) if cuda else platform.processor()
    content = {
        "date": now.isoformat(timespec="seconds"),
        "command": command,
        "machine": {
            "device": chip or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
        },
        "versions": {name: version(name) for name in ("torch", "diffusers", "peft", "loraloom")},
        **found,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{now:%Y-%m-%d}-{kind}.json"
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written to {path}")
    return path


def _record(row: Row) -> Mapping[str, object]:
    most = isinstance(row.goal, AtMost)
    return {
        "name": row.name,
        "unit": row.unit,
        "ours": row.ours,
        "peer": row.peer,
        "ratio": None if row.ratio is None else round(row.ratio, 3),
        "goal": None if row.goal is None else row.goal.value,
        "bound": None if row.goal is None else "ours at most" if most else "ratio at least",
        "met": row.met,
        "spread": round(row.spread, 2),
    }
