"""Which kernel a device gets."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from . import segments_torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from torch import Tensor

    from .tile import Tile


class Way(Enum):
    """How tiles are computed."""

    TORCH = "torch"
    TRITON = "triton"


@dataclass(frozen=True, slots=True)
class Kernel:
    """One way to add what tiles make.

    Attributes:
        pack: tiles, and the device that their factors are on, as the value that ``add`` takes;
            it may be kept for as many steps as the tiles act.
        add: ``y [entries, out]`` += what the packed tiles make of ``x [entries, in]``.
    """

    way: Way
    pack: Callable[[Sequence[Tile], torch.device], Any]
    add: Callable[[Tensor, Tensor, Any], None]


def choose(device_type: str, *, triton: bool) -> Way:
    """The way for a type of device as torch spells it; ``triton``: whether it is installed."""
    return Way.TRITON if triton and device_type == "cuda" else Way.TORCH


def kernel_for(device: torch.device) -> Kernel:
    """The kernel for a device; ask once and keep it."""
    way = choose(device.type, triton=find_spec("triton") is not None)
    if way is Way.TORCH:
        return Kernel(way, segments_torch.pack, segments_torch.add)
    from . import segments_triton  # noqa: PLC0415 -- triton is optional and slow to import

    return Kernel(way, segments_triton.pack, segments_triton.add)
