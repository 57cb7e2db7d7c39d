"""Fusing in numbers: a weight plus a product of factors, rounded once, and exactly undone.

Sums are float32 (float64 for a float64 weight). A bfloat16 weight is added to by one matrix product
in its own type, which multiplies exactly and sums in float32: every factor is split into the sum of
two bfloat16 numbers, so that the product keeps 16 bits of the factors where the weight has 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

BLOCK = {"cpu": 2**20}
"""Elements of a weight that are worked on at once, by type of device: what a CPU's cache holds."""

LARGE_BLOCK = 2**25
"""Those on any other device, whose memory is what counts."""

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""An integer type of as many bytes, to compare numbers by their bits."""


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """``up @ down`` is added to a weight; ``up [out, k]``, ``down [k, in · kernel]``."""

    up: Tensor
    down: Tensor

    @classmethod
    def of(cls, up: Tensor, down: Tensor, weight: Tensor) -> Factors:
        """Two float32 matrices in the form that suits ``weight``, on its device."""
        up, down = up.to(weight.device), down.to(weight.device)
        if weight.dtype == torch.bfloat16 and multiplies_bfloat16(weight.device):
            return cls(*_split(up, down))
        wide = torch.promote_types(weight.dtype, torch.float32)
        return cls(up.to(wide), down.to(wide))

    def negated(self) -> Factors:
        """The same with the other sign."""
        return Factors(-self.up, self.down)

    def rows(self, rows: slice) -> Factors:
        """Of some rows of the weight."""
        return Factors(self.up[rows], self.down)


@dataclass(frozen=True, slots=True, eq=False)
class Missed:
    """Elements of a block that subtracting does not restore.

    Attributes:
        gaps: distance of every such element to the one before, in the smallest type that holds all.
        values: their bits before.
    """

    gaps: Tensor
    values: Tensor

    @classmethod
    def of(cls, before: Tensor, back: Tensor) -> Missed:
        """Where ``back`` is not ``before``."""
        one, other = (_bits(tensor).flatten() for tensor in (before, back))
        places = _places(one, other)
        gaps = places.diff(prepend=places.new_zeros(1))
        largest = int(gaps.max()) if len(gaps) else 0
        kinds = (torch.uint8, torch.int16, torch.int32, torch.int64)
        kind = next(kind for kind in kinds if largest <= torch.iinfo(kind).max)
        return cls(gaps.to(kind), one[places])

    def mend(self, back: Tensor) -> None:
        """Make ``back`` what was before."""
        _bits(back).view(-1)[self.gaps.to(torch.int64).cumsum(0)] = self.values


Ledger: TypeAlias = list[Missed]
"""What subtracting misses of a whole weight, block by block; it grows while a weight is fused."""


def size(ledger: Ledger) -> int:
    """Bytes that a ledger takes."""
    return sum(missed.gaps.nbytes + missed.values.nbytes for missed in ledger)


def add(weight: Tensor, factors: Factors, out: Tensor) -> None:
    """``out = weight + up @ down``, rounded once to their type; ``out`` may be ``weight``.

    Equal arguments give equal bits, whatever ``out`` held before.
    """
    source, target = weight.flatten(1), _matrix(out)
    scratch = _scratch(source, factors.up.dtype)
    for rows in _blocks(source):
        _add(source[rows], factors.rows(rows), target[rows], scratch)


def add_reversibly(weight: Tensor, factors: Factors, ledger: Ledger) -> None:
    """``weight += up @ down`` in place; :func:`subtract` undoes it with ``ledger``, empty before.

    The inverse is proved here: it is carried out, and what it misses is the ledger. A block is
    written when its entry is there, so that :func:`subtract` undoes also what was interrupted.
    """
    target, negated = _matrix(weight), factors.negated()
    fused, back = (_scratch(target, weight.dtype) for _ in range(2))
    scratch = _scratch(target, factors.up.dtype)
    for rows in _blocks(target):
        part = target[rows]
        then, again = (each[: len(part)] for each in (fused, back))
        _add(part, factors.rows(rows), then, scratch)
        _add(then, negated.rows(rows), again, scratch)
        ledger.append(Missed.of(part, again))
        part.copy_(then)


def subtract(weight: Tensor, factors: Factors, ledger: Ledger, wanted: Tensor) -> int:
    """Undo :func:`add_reversibly` in place, to the bit, whether it was finished or not.

    ``wanted`` is the :func:`digest` of the weight before. Returns how many rows of a block would
    not be that; then the weight is as it was before this call.
    """
    target, negated = _matrix(weight), factors.negated()
    back, scratch = _scratch(target, weight.dtype), _scratch(target, factors.up.dtype)
    for rows, missed in zip(_blocks(target), ledger, strict=False):
        part = target[rows]
        again = back[: len(part)]
        _add(part, negated.rows(rows), again, scratch)
        missed.mend(again)
        lost = int((digest(again) != wanted[rows]).sum())
        if not lost:
            part.copy_(again)
        elif not torch.equal(digest(part), wanted[rows]):  # else it was never written
            done = slice(0, rows.start)
            add(target[done], factors.rows(done), target[done])
            return lost
    return 0


def digest(weight: Tensor) -> Tensor:
    """A number for every row of a weight, ``[out]``, that another bit changes.

    A sum of integers: quick enough to check every restored weight, blind to words that change
    places, and no defence against intent.
    """
    rows = weight.detach().flatten(1).contiguous()
    size = rows.element_size()
    if rows.shape[1] * size % 8:
        return _bits(rows).sum(1, dtype=torch.int64)
    if rows.storage_offset() * size % 8:
        rows = rows.clone()  # words have to begin at a multiple of their size
    return rows.view(torch.int64).sum(1)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one type are equal to the bit, NaN and the sign of zero included."""
    if one.shape != other.shape:
        return False
    return torch.equal(*(_bits(tensor.detach().contiguous()) for tensor in (one, other)))


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for it; without them, products take far longer."""
    return device.type != "cpu" or bool(torch.cpu._is_avx512_bf16_supported())


def _add(source: Tensor, factors: Factors, out: Tensor, scratch: Tensor) -> None:
    """One block of :func:`add`."""
    if factors.up.dtype == source.dtype == torch.bfloat16:
        torch.addmm(source, factors.up, factors.down, out=out)
    else:
        total = scratch[: len(source)].copy_(source)
        out.copy_(total.addmm_(factors.up, factors.down))


def _split(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Factors in bfloat16 whose product is that of two in float32, but for its last 8 bits.

    A number is the sum of two: ``(u + u')(d + d') ≈ ud + u'd + ud'``. Where the low halves are
    zero, as in an adapter that is stored in bfloat16, they are left out.
    """
    (high, low), (down_high, down_low) = (
        (t.bfloat16(), t - t.bfloat16().float()) for t in (up, down)
    )
    ups, downs = [high], [down_high]
    if low.any():
        ups, downs = [*ups, low.bfloat16()], [*downs, down_high]
    if down_low.any():
        ups, downs = [*ups, high], [*downs, down_low.bfloat16()]
    return torch.cat(ups, 1), torch.cat(downs)


def _matrix(weight: Tensor) -> Tensor:
    """``[out, in · kernel]`` in the memory of a weight."""
    return weight.view(len(weight), weight.shape[1:].numel())


def _blocks(rows: Tensor) -> Iterator[slice]:
    """The rows of a matrix, some at a time."""
    step = _step(rows)
    return (slice(start, start + step) for start in range(0, len(rows), step))


def _step(rows: Tensor) -> int:
    return max(BLOCK.get(rows.device.type, LARGE_BLOCK) // max(rows.shape[1], 1), 1)


def _scratch(rows: Tensor, kind: torch.dtype) -> Tensor:
    """Room for a block of ``rows``."""
    return torch.empty_like(rows[: _step(rows)], dtype=kind)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.view(BITS[tensor.element_size()])


def _places(one: Tensor, other: Tensor) -> Tensor:
    """Where two flat tensors differ, ``[differences]``."""
    if one.device.type != "cpu":
        return torch.ne(one, other).nonzero().flatten()
    wrong = np.not_equal(one.numpy(), other.numpy())
    if len(wrong) % 8:
        return torch.from_numpy(np.flatnonzero(wrong))
    # most words of eight are zero: looking at them first takes a quarter of torch's time
    words = wrong.view(np.uint64)
    some = np.flatnonzero(words != 0)
    inside = np.flatnonzero(np.take(words, some).view(np.bool_))
    return torch.from_numpy(some[inside >> 3] * 8 + (inside & 7))
