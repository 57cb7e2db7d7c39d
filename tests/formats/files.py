"""Names and shapes of a small model, and files that spell adapters for it."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from loraloom.formats.names import NameTable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

SITES: dict[str, tuple[int, int]] = {
    "blocks.0.attn.to_q": (8, 8),
    "blocks.0.attn.to_out.0": (8, 8),
    "blocks.0.ff.up": (16, 8),
    "blocks.1.attn.to_q": (8, 8),
    "blocks.1.attn.to_out.0": (8, 8),
    "blocks.1.ff.up": (16, 8),
}
NAMES = NameTable(
    {"transformer": SITES, "text_encoder": {"layers.0.q_proj": (6, 6)}}, default="transformer"
)
AB = ("lora_A.weight", "lora_B.weight")


def factors(
    prefix: str = "", *, sites: Mapping[str, tuple[int, ...]] = SITES, rank: int = 2
) -> dict[str, Tensor]:
    """Random ``lora_A`` and ``lora_B`` for every site, the same in every call."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for site, (high, wide) in sites.items():
        tensors[f"{prefix}{site}.lora_A.weight"] = torch.randn(rank, wide, generator=generator)
        tensors[f"{prefix}{site}.lora_B.weight"] = torch.randn(high, rank, generator=generator)
    return tensors


def write(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    config: object = None,
    metadata: Mapping[str, object] | None = None,
) -> Path:
    """A safetensors file; ``config`` beside it, ``metadata`` in it as diffusers writes it."""
    path = folder / "adapter.safetensors"
    said = {} if metadata is None else {"lora_adapter_metadata": json.dumps(metadata)}
    save_file(dict(tensors), path, {"format": "pt", **said})
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return path


def raw(path: Path, header: object, data: bytes = b"") -> Path:
    """A file with any header, true or not; text is written as it is."""
    text = header if isinstance(header, str) else json.dumps(header)
    path.write_bytes(struct.pack("<Q", len(text.encode())) + text.encode() + data)
    return path
