"""What acts beside the weights of a component: adapters made ready, and who wears which."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from loraloom.core.adapter import LowRank
from loraloom.core.mix import Segment
from loraloom.errors import InvalidStrengthError
from loraloom.kernels.choose import Kernel, kernel_for

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from torch import Tensor

    from loraloom.core.mix import AdapterKey, Mix, Part, Site

    from .rows import Spread


SHAPES = 8
"""Shapes of inputs of every site for which it is remembered how to compute what is worn."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """One update of a weight and the site that its adapter names.

    That is another one than the site of the weight where a layer packs several.
    """

    named: Site
    update: LowRank


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """One adapter's updates of a component, in the types and on the device of its weights.

    ``names`` are its sites.
    """

    sites: Mapping[Site, tuple[Piece, ...]]
    names: frozenset[Site] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", frozenset(self.sites))

    @property
    def nbytes(self) -> int:
        each = (piece for pieces in self.sites.values() for piece in pieces)
        return sum(tensor.nbytes for piece in each for tensor in piece.update.tensors)

    def rank(self, site: Site) -> int:
        """Of all updates of a site together."""
        return sum(piece.update.rank for piece in self.sites.get(site, ()))

    def scales(self, site: Site, mix: Mix, key: AdapterKey) -> list[float]:
        """Strength × scale of every rank of a site, where the adapter is ``key`` in ``mix``."""
        return [
            scale
            for piece in self.sites.get(site, ())
            for scale in [mix.at(piece.named, key) * piece.update.scale] * piece.update.rank
        ]

    def check(self, part: Part) -> None:
        """Return if every strength × scale is a float32 number.

        Raises:
            InvalidStrengthError: one is beyond.
        """
        each = (piece.update.scale for pieces in self.sites.values() for piece in pieces)
        scale = max(map(abs, each), default=0.0)
        factor = max((abs(scope.factor) for scope in part.scopes), default=1.0)
        largest = abs(part.strength) * max(factor, 1.0) * scale
        if largest > torch.finfo(torch.float32).max:
            raise InvalidStrengthError(
                f"strength times scale of {part.key} is {largest:g}, beyond float32"
            )


class Joined:
    """Several adapters as one whose ranks lie side by side; a site is joined when it is asked for.

    ``nbytes`` is what it grows to.
    """

    def __init__(self, fitted: Mapping[AdapterKey, Fitted]) -> None:
        self.fitted = fitted
        self.nbytes = sum(each.nbytes for each in fitted.values())
        self._sites: dict[Site, LowRank] = {}

    def at(self, site: Site) -> LowRank:
        """The update whose scale is 1: those of the adapters differ."""
        if site not in self._sites:
            pieces = [piece for each in self.fitted.values() for piece in each.sites.get(site, ())]
            down = torch.cat([piece.update.down for piece in pieces])
            up = torch.cat([piece.update.up for piece in pieces], dim=1)
            self._sites[site] = LowRank(down, up, 1.0)
        return self._sites[site]


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Neighbouring entries of a layer's input, and one adapter that acts on them.

    ``start`` and ``stop`` count entries of the leading axis.
    """

    start: int
    stop: int
    update: LowRank
    scale: float


@dataclass(frozen=True, slots=True, eq=False)
class SideBySide:
    """All entries at once, every rank times its scale in the entry's sample.

    ``scale`` is ``[1, samples, 1, rank, 1]``, and ``idle`` says where it is 0; whole batches follow
    one another ``times`` over.
    """

    update: LowRank
    scale: Tensor
    idle: Tensor | None
    times: int

    def scaled(self, hidden: Tensor, behind: int = 1) -> Tensor:
        """``hidden``, written to; it holds ``behind`` numbers for every rank of an entry."""
        _, samples, _, rank, _ = self.scale.shape
        ranks = hidden.view(self.times, samples, -1, rank, behind).mul_(self.scale)
        if self.idle is not None:
            ranks.masked_fill_(self.idle, 0)  # what overflows for one sample is no NaN for another
        return hidden


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """What one layer reads in one bucket of ranks; ``scale`` is ``[1, samples, 1, rank, 1]``."""

    update: LowRank
    scale: Tensor


class Live:
    """What one batch wears. It is never changed: other wishes are another one.

    ``sites`` are those where anything acts, ``needs`` what a wardrobe calls the adapters that act;
    ``ways`` is where layers keep how they compute it, by site and shape of the input: worked out at
    the first step, the same at every other.
    """

    def __init__(
        self,
        segments: tuple[Segment, ...],
        fitted: Mapping[AdapterKey, Fitted],
        joined: Joined | None,
    ) -> None:
        self.segments = segments
        self.fitted = fitted
        self.samples = segments[-1].stop if segments else 1
        self.joined = joined
        each = [one.names for one in fitted.values()]
        self.sites: frozenset[Site] = each[0] if len(each) == 1 else frozenset().union(*each)
        self.ways: dict[Hashable, Any] = {}
        together = (tuple(joined.fitted),) if joined else ()
        self.needs: tuple[AdapterKey | tuple[AdapterKey, ...], ...] = (*fitted, *together)

    def keep(self, seen: Hashable, way: Any) -> Any:
        """Remember a way; where shapes never come again, not for ever."""
        if len(self.ways) > SHAPES * len(self.sites):
            self.ways.clear()
        self.ways[seen] = way
        return way

    def kernel(self, device: torch.device) -> Kernel:
        """How tiles are computed on a device."""
        kernel: Kernel | None = self.ways.get(device.type)
        if kernel is None:
            kernel = self.ways[device.type] = kernel_for(device)
        return kernel

    def runs(self, site: Site, spread: Spread, device: torch.device) -> tuple[Run, ...]:
        """Every adapter on every run of entries that wears it."""
        return tuple(
            Run(
                segment.start,
                segment.stop,
                piece.update.to(device),
                part.at(piece.named) * piece.update.scale,
            )
            for segment in spread.segments(self.segments)
            for part in segment.mix.parts
            for piece in self.fitted[part.key].sites.get(site, ())
        )

    def beside(self, site: Site, spread: Spread, device: torch.device) -> SideBySide:
        """All adapters of the site at once."""
        assert self.joined is not None
        scale = torch.tensor(self._scales(site), dtype=torch.float32)[None, :, None, :, None]
        idle = scale == 0
        return SideBySide(
            self.joined.at(site).to(device),
            scale.to(device),
            idle.to(device) if idle.any() else None,
            spread.times,
        )

    def _scales(self, site: Site) -> Sequence[Sequence[float]]:
        """``[samples][rank]`` of the joined adapters."""
        return [
            [
                scale
                for key, each in self.fitted.items()
                for scale in each.scales(site, segment.mix, key)
            ]
            for segment in self.segments
            for _ in range(segment.stop - segment.start)
        ]


Where: TypeAlias = tuple[torch.device, torch.dtype]
"""The device and type of a component's weights; adapters are made ready for them."""

BARE = Live((), {}, None)
