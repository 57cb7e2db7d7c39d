"""A model's real components, in memory: diffusers' and transformers' own loading."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import diffusers
import torch
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from loraloom.errors import ModelError

from .folder import first_line, tensors_in

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
    kind = getattr(diffusers, card.family.pipelines[0])
    try:
        with _no_bars():
            pipe = kind.from_pretrained(card.root, dtype=DTYPES[dtype], local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"model {card.name!r} cannot be loaded from {card.root}: {first_line(error)}"
        ) from error
    pipe.set_progress_bar_config(disable=True)
    for part, module in pipe.components.items():
        if isinstance(module, torch.nn.Module):
            _check_complete(card, part, module)
            module.requires_grad_(requires_grad=False).eval()
    return pipe.to(device)


def _check_complete(card: Card, part: str, module: torch.nn.Module) -> None:
    """Return if the checkpoint filled the module: the libraries leave what is missing random.

    transformers renames tensors as it loads them, so that there only their sizes can be counted.

    Raises:
        ModelError: the checkpoint lacks a tensor.
    """
    held = tensors_in(card.root / part, card.name)
    wanted = {name: value.numel() for name, value in module.named_parameters()}
    where = f"the checkpoint of {part} of model {card.name!r} in {card.root / part}"
    if isinstance(module, diffusers.ModelMixin):
        missing = sorted(wanted.keys() - held.keys())
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ModelError(f"{where} lacks {missing[0]}{more}")
    elif sum(held.values()) < sum(wanted.values()):
        raise ModelError(
            f"{where} holds {sum(held.values())} numbers, the component has {sum(wanted.values())}"
        )


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
