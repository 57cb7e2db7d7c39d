"""What an adapter is: an immutable mapping of components and sites to updates of their weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from .hashing import digest
from .mix import AdapterKey, Component, Site

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """The difference ``scale · up @ down`` of one weight (LoRA, arXiv 2106.09685).

    Attributes:
        down: ``[rank, in]``, "A" in PEFT; ``[rank, in, *kernel]`` of a convolution (LoCon);
            ``[rank, width]`` of an embedding.
        up: ``[out, rank]``, "B" in PEFT; ``[out, rank, 1, …]`` of a convolution;
            ``[entries, rank]`` of an embedding.
        scale: alpha / rank, or alpha / √rank for rsLoRA (arXiv 2312.03732), folded by the reader.
    """

    down: Tensor
    up: Tensor
    scale: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight that this updates: ``(out, in, *kernel)``."""
        return self.up.shape[0], *self.down.shape[1:]

    def to(self, device: torch.device, kind: torch.dtype | None = None) -> LowRank:
        """The same on ``device`` and in another type; the object itself where nothing changes."""
        down, up = (tensor.to(device, kind).contiguous() for tensor in self.tensors)
        same = down is self.down and up is self.up
        return self if same else LowRank(down, up, self.scale)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.down, self.up


Update: TypeAlias = LowRank
"""What one adapter does to one weight; further kinds join this union."""

Updates: TypeAlias = "Mapping[Component, Mapping[Site, Update]]"


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Adapter:
    """Updates by component and site under a key of name and content.

    ``about`` holds what the file says of itself (trigger words, base model): shown, never used.
    """

    key: AdapterKey
    updates: Updates
    about: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, name: str, updates: Updates, about: Mapping[str, str] | None = None) -> Adapter:
        """An adapter whose digest covers components, sites, kinds, scales and tensors.

        Two files that do the same under other names of keys have one digest; another alpha gives
        another digest.
        """
        content = (
            (f"{component}\0{site}\0{type(update).__name__}\0{update.scale.hex()}", update.tensors)
            for component, sites in sorted(updates.items())
            for site, update in sorted(sites.items())
        )
        return cls(AdapterKey(name, digest(content)), updates, about or {})

    def sites(self, component: Component) -> Mapping[Site, Update]:
        """The updates of one component; empty where the adapter leaves it alone."""
        return self.updates.get(component, {})

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(
            tensor.numel() * tensor.element_size()
            for sites in self.updates.values()
            for update in sites.values()
            for tensor in update.tensors
        )
