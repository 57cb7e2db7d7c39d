"""Keys that mean something Loraloom does not do yet, so that a refusal can name it."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of update, by what follows the name of the layer in a key."""

    name: str
    suffix: str


KINDS = (
    Kind("DoRA", r"(dora_scale|lora_magnitude_vector)(\..+)?"),
    Kind("LoRA bias", r"lora_(B|up)(\.[^.]+)?\.bias"),
    Kind("LoRA of embeddings", r"lora_embedding_[AB](\..+)?"),
    Kind("LoKr", r"lokr_.+"),
    Kind("LoHa", r"hada_.+"),
    Kind("Tucker LoCon", r"lora_mid\.weight"),
    Kind("OFT", r"oft_.+"),
    Kind("GLoRA", r"([ab][12]|bm)\.weight"),
    Kind("full difference", r"diff(_b|_m)?"),
    Kind("norm difference", r"[wb]_norm"),
    Kind("replaced weight", r"set_weight|reshape_weight"),
    Kind("IA3", r"on_input|ia3_l(\..+)?"),
    Kind("kohya's spelling", r"lora_(down|up)\.weight"),
)

PATTERNS = tuple((kind.name, re.compile(rf"(?P<layer>.+)\.({kind.suffix})")) for kind in KINDS)


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A key of a known kind, on a layer as the file spells it."""

    layer: str
    kind: str

    @property
    def reason(self) -> str:
        return f"not supported yet: {self.kind}"


def unsupported(key: str) -> Unsupported | None:
    """The kind that ``key`` belongs to, if it is known and unsupported."""
    for kind, pattern in PATTERNS:
        match = pattern.fullmatch(key)
        if match:
            return Unsupported(match["layer"], kind)
    return None
