"""Which jobs run as one batch. No torch here."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from loraloom.core.request import Policy

    from .job import Job


def group(jobs: Sequence[Job], policy: Policy) -> list[list[int]]:
    """Indices of jobs that can run together, in the order of their first members.

    Size, steps, guidance and the frames of conditions must agree; what is worn need not, unless
    it is fused: there is one set of weights.
    """
    groups: dict[Hashable, list[int]] = {}
    for index, job in enumerate(jobs):
        frames = tuple((each.frame, each.strength) for each in job.request.conditions)
        worn = job.wears if policy == "fused" else None
        alike = (job.canvas, job.request.sampling, frames, worn)
        groups.setdefault(alike, []).append(index)
    return list(groups.values())
