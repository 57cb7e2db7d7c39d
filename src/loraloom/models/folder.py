"""The files of a model folder: configurations, and what the headers of checkpoints say."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from loraloom.errors import AdapterFileError, ModelError
from loraloom.formats.header import read_header

if TYPE_CHECKING:
    from pathlib import Path

    from loraloom.core.mix import Shape, Site
    from loraloom.formats.header import Header


def read_json(path: Path, model: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"model {model!r} lacks {path.name} in {path.parent}") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} of model {model!r} is not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} of model {model!r} holds no JSON object")
    return content


def sites(folder: Path, model: str) -> dict[Site, Shape]:
    """Every ``weight`` of two axes or more in the checkpoint of one component."""
    found: dict[Site, Shape] = {}
    for file in checkpoint(folder, model):
        for key, info in _header(file, model).tensors.items():
            if key.endswith(".weight") and len(info.shape) >= 2:
                found[key.removesuffix(".weight")] = info.shape
    return found


def checkpoint(folder: Path, model: str) -> list[Path]:
    """The safetensors files of a component: the shards of its index, else the one plain file.

    Raises:
        ModelError: there is none.
    """
    indices = [
        path for path in folder.glob("*.safetensors.index.json") if path.name.count(".") == 3
    ]
    if indices:
        shards = read_json(indices[0], model).get("weight_map", {}).values()
        return [folder / name for name in sorted(set(shards))]
    plain = [path for path in folder.glob("*.safetensors") if path.name.count(".") == 1]
    if not plain:
        raise ModelError(f"model {model!r} has no *.safetensors in {folder}")
    return plain[:1]


def _header(file: Path, model: str) -> Header:
    try:
        return read_header(file)
    except AdapterFileError as error:
        raise ModelError(f"model {model!r}: {error}") from error


def tensors_in(folder: Path, model: str) -> dict[str, int]:
    """How many numbers each tensor in the checkpoint of a component holds.

    Raises:
        ModelError: the checkpoint cannot be read.
    """
    headers = [_header(file, model) for file in checkpoint(folder, model)]
    return {key: math.prod(i.shape) for header in headers for key, i in header.tensors.items()}


def first_line(error: Exception) -> str:
    """What a library's error says first; its kind where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)
