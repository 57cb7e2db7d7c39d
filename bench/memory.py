"""Rows: memory that fusing takes beyond the model. Every case is a process of its own.

On a CPU anonymous memory counts: what is mapped from a file can be dropped at any time. Blocks
above 64 KiB go back to the system when they are freed, so that freed means freed.
"""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from loraloom.core.mix import Applied

from .measure import AtMost, Row
from .sides import Ours
from .subject import COMPONENT, read, targets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .measure import Clock
    from .subject import Subject

MOST = {"mapped checkpoint": 0.05, "no checkpoint": 0.20}
STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class Used:
    """Bytes.

    Attributes:
        held: beyond the model while an adapter is fused.
        peak: the most beyond the model while it was being fused.
        weights: of the weights that it is fused into.
    """

    held: int
    peak: int
    weights: int


def fusing(subject: Subject, _clock: Clock) -> list[Row]:
    """Shares of the bytes of the weights that are fused."""
    rows = []
    for kind, most in MOST.items():
        used = _apart(subject, kind)
        held, peak = (max(each, 0) / used.weights for each in (used.held, used.peak))
        rows.append(Row(f"held while fused, {kind}", held, None, AtMost(most), unit="share"))
        rows.append(Row(f"peak while fusing, {kind}", peak, None, None, unit="share"))
    return rows


def _apart(subject: Subject, kind: str) -> Used:
    command = [
        *("env", "MALLOC_MMAP_THRESHOLD_=65536", sys.executable, "-m", __spec__.name),
        *(str(subject.folder), str(subject.files[0]), subject.device, kind),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{kind}: the measuring process failed\n{done.stderr}")
    return Used(**json.loads(done.stdout.splitlines()[-1]))


def _used(folder: Path, path: Path, device: str, kind: str) -> Used:
    module = read(folder, device)
    side = Ours.on(module, folder / COMPONENT if kind == "mapped checkpoint" else None)
    mix = side.mix({side.load(path).name: 1.0})
    before = _now(device)
    with _watched(device) as most:
        side.model.become(Applied(fused=mix))
    weights = sum(layer.weight.nbytes for layer in targets(module).values())
    return Used(_now(device) - before, most[0] - before, weights)


def _now(device: str) -> int:
    gc.collect()
    if device.startswith("cuda"):
        return torch.cuda.memory_allocated(device)
    return _anonymous()


def _anonymous() -> int:
    found = re.search(r"RssAnon:\s+(\d+) kB", STATUS.read_text())
    assert found, f"{STATUS} does not tell anonymous memory"
    return 1024 * int(found[1])


@contextmanager
def _watched(device: str) -> Iterator[list[int]]:
    """The most bytes at any time in the block, in the list when it is over."""
    most = [0]
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        yield most
        most[0] = torch.cuda.max_memory_allocated(device)
        return
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.0005):
            most[0] = max(most[0], _anonymous())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield most
    finally:
        over.set()
        watcher.join()
        most[0] = max(most[0], _anonymous())


def main() -> None:
    folder, path, device, kind = sys.argv[1:]
    with torch.no_grad():
        print(json.dumps(asdict(_used(Path(folder), Path(path), device, kind))))


if __name__ == "__main__":
    main()
