"""Rows: adapters into the weights, and the weights back.

That a weight is the checkpoint's is found out when it is fused for the first time: in the round
that is dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from loraloom.core.mix import Applied

from .measure import AtLeast, AtMost, Row, Way, row
from .sides import ours, peer
from .subject import targets

if TYPE_CHECKING:
    from torch import nn

    from .measure import Clock
    from .peer import Peer
    from .sides import Ours
    from .subject import Subject

KINDS = {"mapped checkpoint": True, "no checkpoint": False}


def fuse_and_restore(subject: Subject, clock: Clock) -> list[Row]:
    return [
        made
        for kind, mapped in KINDS.items()
        for made in _rows(subject, clock, kind, mapped=mapped)
    ]


def _rows(subject: Subject, clock: Clock, kind: str, *, mapped: bool) -> list[Row]:
    strengths = {subject.files[0].stem: 1.0}
    with ours(subject, 1, mapped=mapped) as side, peer(subject, 1) as other:
        other.wear(strengths)
        fuse, restore = _ours(side, Applied(fused=side.mix(strengths)))
        their_fuse, their_restore = _peer(other)
        into, theirs, copied = clock.race(fuse, their_fuse, _copy(subject))
        back, unfused = clock.race(restore, their_restore)
        assert changed(subject, subject.module) == 0, "a restored weight is not the original"
        return [
            row(f"fuse, {kind}", into, theirs, AtLeast(3)),
            row(f"fuse, {kind} | plain copy of the bytes", into, copied, AtLeast(1 / 3)),
            row(f"restore, {kind}", back, unfused, AtLeast(5)),
            Row(
                f"elements changed after restoring, {kind}",
                changed(subject, subject.module),
                changed(subject, other.module),
                AtMost(0),
                unit="share",
            ),
        ]


def _ours(side: Ours, want: Applied) -> tuple[Way, Way]:
    """Fusing and restoring, each with the other around it."""

    def fuse() -> None:
        side.model.become(want)

    def restore() -> None:
        side.model.become(Applied())

    return Way(fuse, after=restore), Way(restore, before=fuse)


def _peer(other: Peer) -> tuple[Way, Way]:
    return Way(other.fuse, after=other.unfuse), Way(other.unfuse, before=other.fuse)


def _copy(subject: Subject) -> Way:
    """Every weight that is fused into memory that is there already: the least that must move."""
    weights = [layer.weight for layer in targets(subject.plain).values()]
    spare = [torch.zeros_like(weight) for weight in weights]

    def copy() -> None:
        for target, weight in zip(spare, weights, strict=True):
            target.copy_(weight)

    return Way(copy)


def changed(subject: Subject, module: nn.Module) -> float:
    """How many elements are not the original's to the bit, as a share of what adapters change."""
    originals = subject.plain.state_dict()
    now = {
        key.replace(".base_layer", ""): tensor
        for key, tensor in module.state_dict().items()
        if ".lora_" not in key
    }
    assert now.keys() == originals.keys()
    others = sum(
        int((now[key].view(torch.int16) != tensor.view(torch.int16)).sum())
        for key, tensor in originals.items()
    )
    return others / sum(layer.weight.numel() for layer in targets(subject.plain).values())
