"""Adapter files for the embedded model, good and bad, in many ways."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save

from loraloom.models.find import card, name_table

if TYPE_CHECKING:
    from torch import Tensor

    from loraloom.formats.names import NameTable

FEW = 4
"""Layers that an adapter of these changes."""


@cache
def names() -> NameTable:
    """The layers of the embedded model."""
    return name_table(card("mini"))


def tensors(
    seed: int, *, rank: int = 2, component: str = "transformer", named: bool = True
) -> dict[str, Tensor]:
    """The factors of a few layers, other ones for another seed; keys may name no component."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    sites = names().components[component]
    for site in [each for each in sites if each.endswith((".to_q", ".to_v"))][:FEW]:
        high, wide = sites[site]
        prefix = f"{component}." if named else ""
        found[f"{prefix}{site}.lora_A.weight"] = torch.randn(rank, wide, generator=generator)
        found[f"{prefix}{site}.lora_B.weight"] = torch.randn(high, rank, generator=generator)
    return found


def _saved(factors: dict[str, Tensor]) -> bytes:
    data: bytes = save(factors)
    return data


def adapter(
    seed: int, *, rank: int = 2, component: str = "transformer", named: bool = True
) -> bytes:
    """An adapter that fits."""
    return _saved(tensors(seed, rank=rank, component=component, named=named))


def with_strangers(seed: int) -> bytes:
    """An adapter of which two keys have no place; one is nearly right."""
    strange = tensors(seed)
    first = next(iter(strange))
    near = first.replace("attn1", "attn_1") if "attn1" in first else first.replace(".0.", ".99.")
    strange[near.replace("lora_B", "lora_A")] = torch.ones(2, 8)
    strange[near.replace("lora_A", "lora_B")] = torch.ones(8, 2)
    return _saved(strange)


def of_another_model() -> bytes:
    """An adapter of which nothing fits."""
    prefix = "unet.down_blocks.0.attentions.0.to_q"
    return _saved(
        {f"{prefix}.lora_A.weight": torch.ones(2, 8), f"{prefix}.lora_B.weight": torch.ones(8, 2)}
    )


def with_nan(seed: int) -> bytes:
    """An adapter with one value that is no number."""
    broken = tensors(seed)
    next(iter(broken.values()))[0, 0] = torch.nan
    return _saved(broken)


def of_zeros() -> bytes:
    """An adapter that changes nothing."""
    return _saved({key: torch.zeros_like(tensor) for key, tensor in tensors(0).items()})
