"""What PEFT writes: ``lora_A`` and ``lora_B`` under ``base_model.model.``, alpha beside."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .names import WRAPPED
from .pairs import Factor, Format, read_pairs

if TYPE_CHECKING:
    from .names import NameTable
    from .reading import Reading
    from .source import Source

FACTOR = re.compile(r"(?P<layer>.+)\.lora_(?P<side>[AB])(\.(?P<slot>[^.]+))?\.weight")


def factor(key: str) -> Factor | None:
    """The part of a layer that ``key`` is; training states carry a slot, saved adapters do not."""
    match = FACTOR.fullmatch(key)
    if match:
        return Factor(match["layer"], "down" if match["side"] == "A" else "up", match["slot"] or "")
    return Factor(key.removesuffix(".alpha"), "alpha") if key.endswith(".alpha") else None


def claims(source: Source) -> bool:
    """Whether any key, or a configuration beside the keys, is as only PEFT writes it."""
    factors = [match for key in source.header.tensors if (match := FACTOR.fullmatch(key))]
    return bool(factors and source.config is not None) or any(
        match["slot"] or WRAPPED in match["layer"] for match in factors
    )


def read(source: Source, names: NameTable, alpha: float | None) -> Reading:
    """See :func:`loraloom.formats.pairs.read_pairs`."""
    return read_pairs(Format("peft", factor), source, names, alpha)
