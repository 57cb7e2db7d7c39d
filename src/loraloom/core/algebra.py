"""What wearing means in numbers: pure functions of tensors.

Several updates of one weight are one update whose ranks lie side by side:

    Σ sᵢ·Bᵢ·Aᵢ  =  [B₁ … Bₙ] · diag(s) · [A₁; …; Aₙ]

A row of a batch differs from another only in the diagonal, so a mix, one adapter, and a batch in
which every row wears something else are the same three tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from loraloom.errors import InvalidStrengthError

from .fusing import Factors, add

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from .adapter import LowRank, Update


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """Updates of one weight, ranks side by side.

    Attributes:
        down: ``[rank, in]``, with the kernel's axes behind it where the weight has them.
        up: ``[out, rank]``, likewise with axes of length 1.
        scale: ``[rows, rank]``: strength × scale of every rank, for every row of a batch.
    """

    down: Tensor
    up: Tensor
    scale: Tensor


def fold(
    updates: Sequence[Update], strengths: Sequence[Sequence[float]], device: torch.device
) -> Folded:
    """``updates`` side by side in float32; ``strengths[row][i]`` is that of update *i* in a row.

    Raises:
        InvalidStrengthError: a strength times its scale is beyond float32.
    """
    assert updates
    assert all(len(row) == len(updates) for row in strengths)
    ranks = torch.tensor([update.rank for update in updates])
    # products of Python floats are float64: the scale is rounded once, to float32
    rows = [[s * update.scale for s, update in zip(row, updates, strict=True)] for row in strengths]
    largest = max((abs(scale) for row in rows for scale in row), default=0.0)
    if largest > torch.finfo(torch.float32).max:
        raise InvalidStrengthError(f"strength times scale is {largest:g}, beyond float32")
    scale = torch.tensor(rows, dtype=torch.float32).repeat_interleave(ranks, dim=1)
    down = torch.cat([update.down.to(device, torch.float32) for update in updates])
    up = torch.cat([update.up.to(device, torch.float32) for update in updates], dim=1)
    return Folded(down, up, scale.to(device))


def delta(folded: Folded, row: int = 0) -> Tensor:
    """The difference ``[out, in, *kernel]`` that one row wears, in float32."""
    up, down = matrices(folded, row)
    return (up @ down).reshape(len(up), *folded.down.shape[1:])


def fused(weight: Tensor, folded: Folded) -> Tensor:
    """``weight + delta`` as a new tensor in the type of ``weight`` ``[out, in, *kernel]``.

    Rounded once: k roundings to bfloat16 have √k to k times the error.
    """
    out = torch.empty_like(weight, memory_format=torch.contiguous_format)
    add(weight, Factors.of(*matrices(folded, 0), weight), out)
    return out


def matrices(folded: Folded, row: int = 0) -> tuple[Tensor, Tensor]:
    """``up · diag(scale)`` and ``down`` as float32 matrices."""
    up = folded.up.float().flatten(1) * folded.scale[row].float()
    return up, folded.down.float().flatten(1)


def reference(weight: Tensor, updates: Sequence[LowRank], strengths: Sequence[float]) -> Tensor:
    """The fused weight in float64: what the other functions are compared with."""
    total = weight.double()
    for update, strength in zip(updates, strengths, strict=True):
        product = update.up.double().flatten(1) @ update.down.double().flatten(1)
        total = total + strength * update.scale * product.reshape(weight.shape)
    return total
