"""What diffusers writes, now (``lora_A``, with or without metadata) and in its older versions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from . import peft
from .pairs import Factor, Format, read_pairs

if TYPE_CHECKING:
    from .names import NameTable
    from .reading import Reading
    from .source import Source

NOW = re.compile(r"(?P<layer>.+)\.lora_(?P<side>[AB])\.weight")
OLDER = re.compile(
    r"(?P<layer>.+?)(?P<joint>\.lora|_lora|\.lora_linear_layer)\.(?P<side>down|up)\.weight"
)
ALPHA = re.compile(r"(?P<layer>.+?)(?P<joint>\.lora|_lora|\.lora_linear_layer|)\.alpha")


def factor(key: str) -> Factor | None:
    """The part of a layer that ``key`` is.

    The oldest files name attention processors instead of layers: ``attn1.processor.to_out_lora``
    is the layer ``attn1.to_out.0`` (diffusers/utils/state_dict_utils.py, UNET_TO_DIFFUSERS).
    """
    match = NOW.fullmatch(key)
    if match:
        return Factor(match["layer"], "down" if match["side"] == "A" else "up")
    match = OLDER.fullmatch(key)
    if match:
        return Factor(_layer(match), "down" if match["side"] == "down" else "up")
    match = ALPHA.fullmatch(key)
    return Factor(_layer(match), "alpha") if match else None


def _layer(match: re.Match[str]) -> str:
    layer = match["layer"].replace(".processor.", ".")
    return f"{layer}.0" if match["joint"] == "_lora" and layer.endswith(".to_out") else layer


def claims(source: Source) -> bool:
    """Whether any key is as diffusers writes it, and none as only PEFT does."""
    spelled = any(NOW.fullmatch(key) or OLDER.fullmatch(key) for key in source.header.tensors)
    return spelled and not peft.claims(source)


def read(source: Source, names: NameTable, alpha: float | None) -> Reading:
    """See :func:`loraloom.formats.pairs.read_pairs`."""
    return read_pairs(Format("diffusers", factor), source, names, alpha)
