"""diffusers' own pipeline, with adapters through peft."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from diffusers.utils import logging

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

Strengths: TypeAlias = Mapping[str, float]
"""How strongly each adapter acts, by its name: the stem of its file."""


def quiet() -> None:
    """No word from the peer on what is meant: several adapters, and none of a text encoder."""
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", "Already found a `peft_config`")


class Peer:
    """A transformer in a pipeline that is nothing else; its own calls, as a user makes them."""

    def __init__(self, module: Any) -> None:
        self.module = module
        nothing = dict.fromkeys(
            ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
        )
        self.pipe: Any = FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(), transformer=module, **nothing
        )

    def load(self, path: Path) -> None:
        self.pipe.load_lora_weights(path, adapter_name=path.stem)

    def remove(self, name: str) -> None:
        self.pipe.delete_adapters(name)

    def wear(self, strengths: Strengths) -> None:
        self.pipe.set_adapters(list(strengths), list(strengths.values()))

    def fuse(self) -> None:
        """What is worn, into the weights."""
        self.pipe.fuse_lora(components=["transformer"])

    def unfuse(self) -> None:
        self.pipe.unfuse_lora(components=["transformer"])

    def clear(self, original: nn.Module) -> None:
        """No adapters, no wrappers, and the weights of ``original``: unfusing leaves others."""
        self.pipe.unload_lora_weights()
        self.module.load_state_dict(original.state_dict())
