"""Any number of adapters for `mini` without training: random directions of its own ones, mixed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from loraloom.models.card import Card

PARENTS = ("neon", "sketch", "transition")
RANKS = (4, 8, 16)
PEFT, DIFFUSERS = "base_model.model.", "transformer."
DOWN, UP = ".lora_A.weight", ".lora_B.weight"


def make(card: Card, folder: Path, count: int) -> tuple[Path, ...]:
    """``count`` files in diffusers' spelling that both sides read alike, the same in every run.

    Ranks, alphas and, in every third one, the layers differ.
    """
    parents = [load_file(card.adapters[name] / "adapter_model.safetensors") for name in PARENTS]
    paths = []
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        layers = "attn1." if number % 3 == 2 else ""
        rank = RANKS[number % len(RANKS)]
        path = folder / f"style-{number:02}.safetensors"
        save_file(
            _mixed(parents, rank, layers, generator), path, _metadata(parents[0], rank, layers)
        )
        paths.append(path)
    return tuple(paths)


def _mixed(
    parents: list[dict[str, Tensor]], rank: int, layers: str, generator: torch.Generator
) -> dict[str, Tensor]:
    """``rank`` of all directions of all parents, with random signs."""
    every = sum(parent[next(iter(parent))].shape[0] for parent in parents)
    picked = torch.randperm(every, generator=generator)[:rank]
    signs = torch.randint(0, 2, (rank,), generator=generator) * 2.0 - 1.0
    state = {}
    for site in _sites(parents[0], layers):
        down = torch.cat([parent[PEFT + site + DOWN] for parent in parents])[picked]
        up = torch.cat([parent[PEFT + site + UP] for parent in parents], dim=1)[:, picked]
        state[DIFFUSERS + site + DOWN] = down.float().contiguous()
        state[DIFFUSERS + site + UP] = (up.float() * signs).contiguous()
    return state


def _metadata(parent: Mapping[str, Tensor], rank: int, layers: str) -> dict[str, str]:
    said = {"r": rank, "lora_alpha": 2 * rank, "target_modules": _sites(parent, layers)}
    said |= {"rank_pattern": {}, "use_rslora": False}
    return {"lora_adapter_metadata": json.dumps({DIFFUSERS + key: said[key] for key in said})}


def _sites(parent: Mapping[str, Tensor], layers: str) -> list[str]:
    return [
        key.removeprefix(PEFT).removesuffix(DOWN)
        for key in sorted(parent)
        if key.endswith(DOWN) and layers in key
    ]
