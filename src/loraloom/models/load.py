"""A model's real components, in memory: diffusers' and transformers' own loading."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from loraloom.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .card import Card

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(card: Card, *, dtype: str, device: str) -> Any:
    """The model's diffusers pipeline on ``device``, for inference.

    Raises:
        ModelError: the type is unknown, or a component's files are broken.
    """
    if dtype not in DTYPES:
        raise ModelError(f"dtype is {dtype!r}, want one of {', '.join(DTYPES)}")
    try:
        with _no_bars():
            pipe = DiffusionPipeline.from_pretrained(
                card.root, dtype=DTYPES[dtype], local_files_only=True
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"model {card.name!r} cannot be loaded from {card.root}: {reason}") from (
            error
        )
    pipe.set_progress_bar_config(disable=True)
    for module in pipe.components.values():
        if isinstance(module, torch.nn.Module):
            module.requires_grad_(requires_grad=False).eval()
    return pipe.to(device)


@contextmanager
def _no_bars() -> Iterator[None]:
    """The libraries draw progress bars on stderr for every component; the caller draws one."""
    libraries = (diffusers_logging, transformers_logging)
    shown = [library.is_progress_bar_enabled() for library in libraries]
    for library in libraries:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, was_shown in zip(libraries, shown, strict=True):
            if was_shown:
                library.enable_progress_bar()
