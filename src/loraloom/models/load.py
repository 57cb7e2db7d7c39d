"""A model's real components, in memory: diffusers' and transformers' own classes."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import accelerate
import diffusers
import torch
import transformers
from diffusers.models.modeling_utils import no_init_weights
from diffusers.pipelines import ltx2
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError, safe_open
from transformers.utils import logging as transformers_logging

from loraloom.errors import ModelError

from . import find
from .checkpoint import Held, config, held
from .folder import first_line, header
from .ltx2 import released

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from .card import Card

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BROKEN = (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError)
"""What the libraries raise where files are not what they should be."""

SHOWN = 3
"""Tensors that a message names of each reason."""


def load(card: Card, *, dtype: str, device: str) -> Any:
    """The model's diffusers pipeline on ``device``, for inference.

    Raises:
        ModelError: the type or the device is unknown, or a component's files are broken.
    """
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:
        said = first_line(error)
        raise ModelError(
            f"device is {device!r}, want cpu or cuda as far as there is one: {said}"
        ) from error
    kind = getattr(diffusers, card.family.pipelines[0])
    with _no_bars(), _reading(f"model {card.name!r} cannot be loaded from {card.root}"):
        if (card.root / "model_index.json").is_file():
            pipe = kind.from_pretrained(card.root, dtype=_type(dtype), local_files_only=True)
        else:
            pipe = kind(**_components(card, _type(dtype)))
    pipe.set_progress_bar_config(disable=True)
    for part, module in pipe.components.items():
        if isinstance(module, torch.nn.Module):
            _check_complete(card, part, module)
            module.requires_grad_(requires_grad=False).eval()
    return pipe.to(where)


def load_upsampler(card: Card, pipe: Any) -> Any:
    """What enlarges the latents of a model between stages, beside its VAE and in its type.

    Raises:
        ModelError: there is none that fits, or its files are broken.
    """
    path = find.upsampler(card)
    with _no_bars(), _reading(f"upsampler '{path}' of model {card.name!r} cannot be loaded"):
        if path.is_dir():
            kind = ltx2.LTX2LatentUpsamplerModel
            made = kind.from_pretrained(path, dtype=pipe.vae.dtype, local_files_only=True)
            places = held(path, card.name)
        else:
            file = header(path, card.name)
            places = {k: Held(path, k, info.shape) for k, info in file.tensors.items()}
            made = _filled(released.upsampler_config(file), places, pipe.vae.dtype)
    _check_all_there(f"upsampler '{path}' of model {card.name!r}", made, places)
    return made.requires_grad_(requires_grad=False).eval().to(pipe.vae.device)


def _type(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ModelError(f"dtype is {name!r}, want one of {', '.join(DTYPES)}")
    return DTYPES[name]


def _components(card: Card, dtype: torch.dtype) -> dict[str, Any]:
    """Of a released checkpoint, with what lies in folders beside it."""
    single = released.checkpoint(card.root, card.name)
    assert single is not None, card.root
    strange = released.strangers(single)
    if strange:
        raise ModelError(
            f"checkpoint '{single.path}' has tensors that no component takes: {_some(strange)}"
        )
    return {part: _component(card, part, dtype) for part in card.family.parts}


def _component(card: Card, part: str, dtype: torch.dtype) -> Any:
    folder = card.root / part
    if part == "tokenizer":
        return transformers.GemmaTokenizer.from_pretrained(folder, local_files_only=True)
    if part == "text_encoder":
        kind = transformers.Gemma3ForConditionalGeneration
        return kind.from_pretrained(folder, dtype=dtype, local_files_only=True)
    said = config(folder, card.name)
    if part == "scheduler":
        return _class(said).from_config(said)
    if folder.is_dir():
        return _class(said).from_pretrained(folder, dtype=dtype, local_files_only=True)
    return _filled(said, held(folder, card.name), dtype)


def _class(said: Mapping[str, Any]) -> Any:
    name = said["_class_name"]
    return getattr(diffusers, name, None) or getattr(ltx2, name)


def _filled(said: Mapping[str, Any], places: Mapping[str, Held], dtype: torch.dtype) -> Any:
    """A module of a configuration whose tensors are those of files: mapped, and cast once.

    Raises:
        ModelError: a tensor is missing, has no place in the module, or has another shape there.
    """
    with _made_in(dtype), no_init_weights(), accelerate.init_empty_weights():
        module: Any = _class(said).from_config(said)
    _check_fits(said["_class_name"], module, places)
    paths = {place.file for place in places.values()}
    files: dict[Path, Any] = {path: safe_open(path, framework="pt") for path in paths}
    tensors = {name: files[at.file].get_tensor(at.key).to(dtype) for name, at in places.items()}
    module.load_state_dict(tensors, strict=True, assign=True)
    return module


def _check_fits(kind: str, module: torch.nn.Module, places: Mapping[str, Held]) -> None:
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    file = next(iter(places.values())).file if places else "no file"
    missing = [name for name in wanted if name not in places]
    extra = [at.key for name, at in places.items() if name not in wanted]
    other = [
        f"{at.key} is {list(at.shape)}, {name} is {list(wanted[name])}"
        for name, at in places.items()
        if name in wanted and at.shape != wanted[name]
    ]
    said = (("lacks", missing), ("has no place for", extra), ("has another shape of", other))
    wrong = "; ".join(f"{what} {_some(names)}" for what, names in said if names)
    if wrong:
        raise ModelError(f"the {kind} of '{file}' {wrong}")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _check_complete(card: Card, part: str, module: torch.nn.Module) -> None:
    """Return if the checkpoint filled the module: the libraries leave what is missing random.

    transformers renames tensors as it loads them, so that there only their sizes can be counted.

    Raises:
        ModelError: the checkpoint lacks a tensor.
    """
    places = held(card.root / part, card.name)
    where = f"the checkpoint of {part} of model {card.name!r} in {card.root / part}"
    if isinstance(module, diffusers.ModelMixin):
        _check_all_there(where, module, places)
        return
    wanted = sum(value.numel() for _, value in module.named_parameters())
    got = sum(math.prod(place.shape) for place in places.values())
    if got < wanted:
        raise ModelError(f"{where} holds {got} numbers, the component has {wanted}")


def _check_all_there(where: str, module: torch.nn.Module, places: Mapping[str, Held]) -> None:
    missing = sorted({name for name, _ in module.named_parameters()} - places.keys())
    if missing:
        raise ModelError(f"{where} lacks {_some(missing)}")


@contextmanager
def _reading(what: str) -> Iterator[None]:
    try:
        yield
    except BROKEN as error:
        raise ModelError(f"{what}: {first_line(error)}") from error


@contextmanager
def _made_in(dtype: torch.dtype) -> Iterator[None]:
    """What a module computes of itself it has in ``dtype``, as where diffusers loads it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


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
