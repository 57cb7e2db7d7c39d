"""The two sides of a comparison, each with the same adapters, for the length of a block."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loraloom.core.mix import Mix, Part
from loraloom.formats.load import load
from loraloom.formats.read import survey
from loraloom.lora.model import LoraModel
from loraloom.models.checkpoint import Checkpoint

from .subject import COMPONENT, names

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import nn

    from loraloom.core.adapter import Adapter
    from loraloom.core.mix import AdapterKey
    from loraloom.formats.names import NameTable

    from .peer import Peer, Strengths
    from .subject import Subject


@dataclass(frozen=True, slots=True, eq=False)
class Ours:
    """A model that wears adapters, and where it finds them."""

    model: LoraModel
    table: NameTable
    adapters: dict[AdapterKey, Adapter]

    @classmethod
    def on(cls, module: nn.Module, files: Path | None) -> Ours:
        """``files``: the folder that pristine weights may be read from."""
        checkpoint = Checkpoint(files, "bench") if files else None
        adapters: dict[AdapterKey, Adapter] = {}
        model = LoraModel(COMPONENT, module, adapters, checkpoint=checkpoint)
        return cls(model, names(module), adapters)

    def load(self, path: Path) -> AdapterKey:
        adapter = load(path.stem, survey(path, self.table))
        self.adapters[adapter.key] = adapter
        return adapter.key

    def mix(self, strengths: Strengths) -> Mix:
        keys = {key.name: key for key in self.adapters}
        return Mix.of([Part(keys[name], strength) for name, strength in strengths.items()])


@contextmanager
def ours(subject: Subject, count: int, *, mapped: bool = True) -> Iterator[Ours]:
    """Ours with ``count`` adapters; ``mapped``: it may read pristine weights from the file."""
    side = Ours.on(subject.module, subject.folder / COMPONENT if mapped else None)
    try:
        for path in subject.files[:count]:
            side.load(path)
        yield side
    finally:
        side.model.release()


@contextmanager
def peer(subject: Subject, count: int) -> Iterator[Peer]:
    """The peer with ``count`` adapters, and after the block as if it never had one."""
    try:
        for path in subject.files[:count]:
            subject.peer.load(path)
        yield subject.peer
    finally:
        subject.peer.clear(subject.plain)
