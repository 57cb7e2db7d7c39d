"""The runtime on a model of 395 M parameters in bfloat16, ours and diffusers + peft in one run.

Adapters have rank 16 on every linear layer of attention and feed-forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeAlias

import torch

from . import auto, files, forward, fusing, memory, switching
from .measure import Clock, Row
from .options import Options, parse
from .peer import quiet
from .report import head, show
from .subject import SIZES, Subject, make

if TYPE_CHECKING:
    from collections.abc import Callable

    Measure: TypeAlias = Callable[[Subject, Clock], list[Row]]


@dataclass(frozen=True, slots=True)
class Workload:
    """Something to measure that gives rows; it leaves the subject as it was."""

    name: str
    measure: Measure


WORKLOADS = (
    Workload("switch", switching.against_peer),
    Workload("sites", switching.against_numbers),
    Workload("file", files.first_use),
    Workload("fuse", fusing.fuse_and_restore),
    Workload("overhead", forward.overhead),
    Workload("requests", forward.requests),
    Workload("auto", auto.against_the_better),
    Workload("memory", memory.fusing),
)


@torch.no_grad()
def rows(options: Options) -> list[Row]:
    """Of the chosen workloads, after a check that ours and the peer agree; shown as they come."""
    chosen = [work for work in WORKLOADS if options.chooses(work.name)]
    if not chosen or options.size == "ltx2":
        return []
    quiet()
    clock = Clock(options.device, options.runs)
    with TemporaryDirectory() as folder:
        subject = make(SIZES[options.size], options.device, Path(folder))
        forward.check(subject)
        return [row for work in chosen for row in _measured(work, subject, clock)]


def _measured(work: Workload, subject: Subject, clock: Clock) -> list[Row]:
    made = work.measure(subject, clock)
    show(made)
    return made


def main() -> None:
    options = parse(__doc__)
    head()
    rows(options)


if __name__ == "__main__":
    main()
