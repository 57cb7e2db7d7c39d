"""The digest of labelled tensors: equal content, equal digest, however a file spelled it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor


def digest(content: Iterable[tuple[str, Sequence[Tensor]]]) -> str:
    """SHA-256 over labels and the types, shapes and bytes of their tensors; 64 hex digits."""
    sha = hashlib.sha256()
    for label, tensors in content:
        sha.update(f"{label}\0".encode())
        for tensor in tensors:
            sha.update(f"{tensor.dtype}{tuple(tensor.shape)}\0".encode())
            sha.update(_raw(tensor))
    return sha.hexdigest()


def _raw(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().data
