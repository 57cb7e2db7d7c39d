"""What the command line of a benchmark says."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias, get_args

SizeName: TypeAlias = Literal["tiny", "full", "ltx2"]


@dataclass(frozen=True, slots=True)
class Options:
    """Which rows to measure, where and how often.

    Attributes:
        only: workloads to measure, a pattern as shells have them.
    """

    device: str
    runs: int
    size: SizeName
    only: str

    def chooses(self, workload: str) -> bool:
        return fnmatchcase(workload, self.only)

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def whole(self) -> bool:
        """Whether a run is of all rows at full size, and so worth keeping."""
        return self.only == "*" and self.size == "full"


def parse(doc: str | None) -> Options:
    """The command line; ``doc`` is shown as help."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--size",
        choices=get_args(SizeName),
        default="full",
        help="tiny tries the code; ltx2 is included in full on a CUDA device",
    )
    parser.add_argument("--only", default="*", help="workloads by name, e.g. 'fuse' or 'o*'")
    return Options(**vars(parser.parse_args()))
