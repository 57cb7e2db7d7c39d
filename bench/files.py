"""Rows: from an adapter's file to the first forward pass with it.

Every round brings a file and a name that were not seen before. It was just written, so that it is
read from memory and not from a disk. The pass is short: a long one would hide what comes before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

from safetensors.torch import load_file, save_file

from loraloom.core.mix import Applied

from .measure import AtLeast, Way, nothing
from .sides import ours, peer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from .measure import Clock, Goal, Row
    from .peer import Peer
    from .sides import Ours
    from .subject import Subject, Tokens


class Arrivals:
    """Adapter files that come one at a time, each with a name and a content of its own."""

    def __init__(self, folder: Path, like: Path) -> None:
        self.folder = folder
        self.state = load_file(like)
        self.path = like

    def arrive(self) -> None:
        """The next file is there, at ``path``."""
        first = next(iter(self.state))
        self.state[first] = self.state[first].roll(1)
        self.path = self.folder / f"{uuid4().hex}.safetensors"
        save_file(self.state, self.path, {"format": "pt"})


def first_use(subject: Subject, clock: Clock) -> list[Row]:
    with ours(subject, 0) as side, peer(subject, 0) as other:
        mine, theirs = (Arrivals(subject.folder, path) for path in subject.files[:2])

        def until(what: str, then: Sequence[Callable[[], object]], goal: Goal) -> Row:
            ways = _ours(side, mine, then[0]), _peer(other, theirs, then[1])
            return clock.compare(f"file to {what}", *ways, goal)

        def passes(tokens: Tokens) -> list[Callable[[], object]]:
            return [subject.passes(each, tokens) for each in (subject.module, other.module)]

        short, few = subject.size.short, subject.size.few
        return [
            until(f"first forward, {short} tokens", passes(short), AtLeast(3)),
            until(f"first forward, {few} tokens", passes(few), None),
            until("worn, no forward", [nothing, nothing], AtLeast(3)),
        ]


def _ours(side: Ours, files: Arrivals, then: Callable[[], object]) -> Way:
    def use() -> None:
        key = side.load(files.path)
        side.model.become(Applied.rows([side.mix({key.name: 1.0})]))
        then()

    def remove() -> None:
        side.model.become(Applied())
        side.adapters.clear()
        files.path.unlink()

    return Way(use, files.arrive, remove)


def _peer(other: Peer, files: Arrivals, then: Callable[[], object]) -> Way:
    def use() -> None:
        other.load(files.path)
        other.wear({files.path.stem: 1.0})
        then()

    def remove() -> None:
        other.remove(files.path.stem)
        files.path.unlink()

    return Way(use, files.arrive, remove)
