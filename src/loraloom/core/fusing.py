"""Fusing in numbers: a weight plus a product of factors, rounded once, and exactly undone.

Sums are float32 (float64 for a float64 weight). A bfloat16 weight is added to by one matrix product
in its own type, which multiplies exactly and sums in float32: every factor is split into the sum of
two bfloat16 numbers, so that the product keeps 16 bits of the factors where the weight has 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

SCRATCH = 2**20
"""Elements of the float32 scratch that a weight passes through: a share of the cache on a CPU."""

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
            (up_high, up_low), (down_high, down_low) = _split(up), _split(down)
            return cls(
                torch.cat([up_high, up_low, up_high], 1),
                torch.cat([down_high, down_high, down_low]),
            )
        wide = torch.promote_types(weight.dtype, torch.float32)
        return cls(up.to(wide), down.to(wide))

    def negated(self) -> Factors:
        """The same with the other sign."""
        return Factors(-self.up, self.down)


@dataclass(frozen=True, slots=True, eq=False)
class Ledger:
    """What subtracting the factors again would not restore of a weight.

    Attributes:
        gaps: distance of every such element to the one before, in the smallest type that holds all.
        values: their bits before.
    """

    gaps: Tensor
    values: Tensor

    @property
    def nbytes(self) -> int:
        return self.gaps.nbytes + self.values.nbytes


def add(weight: Tensor, factors: Factors, out: Tensor) -> None:
    """``out = weight + up @ down``, rounded once to their type; ``out`` may be ``weight``.

    Equal arguments give equal bits, whatever ``out`` held before.
    """
    source, target = weight.flatten(1), out.view(len(out), -1)
    if factors.up.dtype == weight.dtype == torch.bfloat16:
        torch.addmm(source, factors.up, factors.down, out=target)
        return
    step = max(SCRATCH // source.shape[1], 1) if weight.device.type == "cpu" else len(source)
    scratch = torch.empty_like(source[:step], dtype=factors.up.dtype)
    for start in range(0, len(source), step):
        rows = slice(start, start + step)
        total = scratch[: len(source[rows])].copy_(source[rows])
        target[rows].copy_(total.addmm_(factors.up[rows], factors.down))


def add_reversibly(weight: Tensor, factors: Factors) -> Ledger:
    """``weight += up @ down`` in place; :func:`subtract` with what is returned undoes it.

    The inverse is proved here: it is carried out, and what it misses is the ledger. Until the last
    line, which copies, ``weight`` is untouched.
    """
    fused, back = torch.empty_like(weight), torch.empty_like(weight)
    add(weight, factors, fused)
    add(fused, factors.negated(), back)
    before, after = (_bits(tensor).flatten() for tensor in (weight, back))
    missed = _places(before, after)
    gaps = missed.diff(prepend=missed.new_zeros(1))
    largest = int(gaps.max()) if len(gaps) else 0
    kinds = (torch.uint8, torch.int16, torch.int32, torch.int64)
    kind = next(kind for kind in kinds if largest <= torch.iinfo(kind).max)
    ledger = Ledger(gaps.to(kind), before[missed])
    weight.copy_(fused)
    return ledger


def subtract(weight: Tensor, factors: Factors, ledger: Ledger) -> Tensor:
    """What ``weight`` was before :func:`add_reversibly`, to the bit, as a new tensor."""
    before = torch.empty_like(weight)
    add(weight, factors.negated(), before)
    _bits(before).view(-1)[ledger.gaps.to(torch.int64).cumsum(0)] = ledger.values
    return before


def digest(weight: Tensor) -> Tensor:
    """A number for every row of a weight, ``[out]``, that another bit changes.

    A sum of integers: quick enough to check every restored weight, and no defence against intent.
    """
    rows = weight.detach().flatten(1)
    size = rows.element_size()
    aligned = rows.shape[1] * size % 8 == rows.storage_offset() * size % 8 == 0
    whole = aligned and rows.is_contiguous()
    words = rows.view(torch.int64) if whole else _bits(rows.contiguous())
    return words.sum(1, dtype=torch.int64)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one type are equal to the bit, NaN and the sign of zero included."""
    if one.shape != other.shape:
        return False
    return torch.equal(*(_bits(tensor.detach().contiguous()) for tensor in (one, other)))


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for it; without them, products take far longer."""
    return device.type != "cpu" or bool(torch.cpu._is_avx512_bf16_supported())


def _split(number: Tensor) -> tuple[Tensor, Tensor]:
    """A float32 tensor as the sum of two of bfloat16, but for its last 8 bits."""
    high = number.bfloat16()
    return high, (number - high.float()).bfloat16()


def _bits(tensor: Tensor) -> Tensor:
    return tensor.view(BITS[tensor.element_size()])


def _places(one: Tensor, other: Tensor) -> Tensor:
    """Where two flat tensors differ, ``[differences]``."""
    if one.device.type != "cpu":
        return torch.ne(one, other).nonzero().flatten()
    # torch's own takes three times as long on a CPU
    return torch.from_numpy(np.flatnonzero(np.not_equal(one.numpy(), other.numpy())))
