"""Which requests run as one batch. No torch here."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from loraloom.core.mix import Mix
    from loraloom.core.request import Policy, Request


def group(requests: Sequence[Request], mixes: Sequence[Mix], policy: Policy) -> list[list[int]]:
    """Indices of requests that can run together, in the order of their first members.

    Size, steps, guidance and the frames of conditions must agree; what is worn need not, unless
    it is fused: there is one set of weights.
    """
    groups: dict[Hashable, list[int]] = {}
    for index, (request, mix) in enumerate(zip(requests, mixes, strict=True)):
        frames = tuple((each.frame, each.strength) for each in request.conditions)
        alike = (request.canvas, request.sampling, frames, mix if policy == "fused" else None)
        groups.setdefault(alike, []).append(index)
    return list(groups.values())
