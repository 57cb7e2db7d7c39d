"""The files of a model folder: configurations, and the headers of its checkpoints."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from loraloom.errors import AdapterFileError, ModelError
from loraloom.formats.header import read_header

if TYPE_CHECKING:
    from pathlib import Path

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


def header(file: Path, model: str) -> Header:
    """Of a file of ``model``.

    Raises:
        ModelError: the file cannot be read.
    """
    try:
        stat = file.stat()
        return _read(file, stat.st_mtime_ns, stat.st_size)
    except (AdapterFileError, OSError) as error:
        raise ModelError(f"model {model!r}: {error}") from error


@lru_cache(maxsize=32)
def _read(file: Path, _modified: int, _size: int) -> Header:
    """Each component of a released checkpoint asks for one header of thousands of tensors."""
    return read_header(file)


def first_line(error: Exception) -> str:
    """What a library's error says first; its kind where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)
