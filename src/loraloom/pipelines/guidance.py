"""From the predictions of several passes to one: what a step goes by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from loraloom.core.stage import Guides, Pass


def guided(x0: Mapping[Pass, Tensor], guides: Guides, real: Tensor | None) -> Tensor:
    """The prediction ``[rows, tokens, channels]`` of one modality, pushed away from weaker ones.

    ``p + (cfg - 1)(p - n) + stg (p - w) + (modality - 1)(p - i)``, all of clean latents, brought
    back in part to the deviation of ``p`` (Lin et al. 2023, section 3.4); the order of the sums
    is that of diffusers' LTX-2 pipelines.

    Args:
        x0: by pass, the predictions that were made for any modality.
        real: ``[rows, tokens, 1]``, 0 where a row has no token; ``None`` where all have.
    """
    prompt = x0["prompt"]
    scales: dict[Pass, float] = {
        "negative": guides.cfg - 1 if guides.cfg > 1 else 0.0,
        "perturbed": max(guides.stg, 0.0),
        "isolated": guides.modality - 1 if guides.modality > 1 else 0.0,
    }
    pushed = prompt
    for name, scale in scales.items():
        if scale:
            pushed = pushed + scale * (prompt - x0[name])
    if guides.rescale <= 0:
        return pushed
    ratio = _deviation(prompt, real) / _deviation(pushed, real)
    return guides.rescale * (pushed * ratio) + (1 - guides.rescale) * pushed


def _deviation(x: Tensor, real: Tensor | None) -> Tensor:
    """Of every row over its own tokens and channels, ``[rows, 1, 1]``."""
    if real is None:
        return x.std(dim=(1, 2), keepdim=True)
    rows = [row[there[:, 0] > 0].std() for row, there in zip(x, real, strict=True)]
    return torch.stack(rows)[:, None, None]
