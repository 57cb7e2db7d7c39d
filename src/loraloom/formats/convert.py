"""From a pickle to safetensors, for files of which only tensors are taken: no code of them runs."""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor

from loraloom.errors import AdapterFileError

from .header import LONGEST_KEY, Header, read_header
from .source import CONFIG

if TYPE_CHECKING:
    from collections.abc import Mapping

NESTED = "state_dict"
"""Where training checkpoints have their tensors, as Lightning writes them."""


def convert(source: Path, target: Path) -> Header:
    """Write the tensors of the pickle ``source`` to ``target``, bit for bit, and what is there now.

    An ``adapter_config.json`` beside ``source`` is put beside ``target``. Nothing is overwritten,
    and what fails leaves nothing.

    Raises:
        AdapterFileError: ``source`` is no pickle of tensors alone, or ``target`` is there.
    """
    config = source.with_name(CONFIG)
    beside = target.with_name(CONFIG)
    _check_target(target, config, beside)
    tensors = _tensors(source)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".convert-") as folder:
            draft = Path(folder) / target.name
            save_file(dict(tensors), draft, {"format": "pt"})
            read_header(draft)
            # a link fails where a name is taken, which a rename does not
            if config.is_file() and not beside.exists():
                shutil.copyfile(config, draft.with_name(CONFIG))
                os.link(draft.with_name(CONFIG), beside)
            os.link(draft, target)
    except FileExistsError as error:
        raise AdapterFileError(f"'{target}' is there already; give another name") from error
    except OSError as error:
        raise AdapterFileError(f"'{target}' cannot be written: {error}") from error
    return read_header(target)


def _check_target(target: Path, config: Path, beside: Path) -> None:
    if target.suffix != ".safetensors":
        raise AdapterFileError(
            f"'{target}' is to be written, want a name that ends in .safetensors"
        )
    if target.exists():
        raise AdapterFileError(f"'{target}' is there already; give another name")
    if not target.parent.is_dir():
        raise AdapterFileError(f"'{target.parent}' is no folder, want one to write to")
    other = config.is_file() and beside.exists() and beside.read_bytes() != config.read_bytes()
    if other:
        raise AdapterFileError(
            f"'{beside}' is there already and is another than '{config}'; give another folder"
        )


def _tensors(source: Path) -> Mapping[str, Tensor]:
    try:
        # torch warns of what its restricted reader was not made for; it refuses, or it reads
        with warnings.catch_warnings(action="ignore"):
            said = torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise AdapterFileError(f"'{source}' is absent") from error
    except pickle.UnpicklingError as error:
        raise AdapterFileError(
            f"'{source}' holds more than tensors, or is no pickle: reading it otherwise could run "
            "code, and is not done"
        ) from error
    # what torch raises for broken archives is of many kinds
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise AdapterFileError(f"'{source}' cannot be read: {first[:200]}") from error
    if isinstance(said, dict) and isinstance(said.get(NESTED), dict):
        said = said[NESTED]
    if not isinstance(said, dict) or not said:
        raise AdapterFileError(f"'{source}' holds {type(said).__name__}, want a dict of tensors")
    return {_key(source, key): _plain(source, key, value) for key, value in said.items()}


def _key(source: Path, key: object) -> str:
    if isinstance(key, str) and len(key) <= LONGEST_KEY:
        return key
    raise AdapterFileError(f"'{source}' has the key {str(key)[:80]!r}, want names of layers")


def _plain(source: Path, key: str, value: object) -> Tensor:
    """A tensor with memory of its own; a number, as some trainers write alpha, is one, too."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return torch.tensor(float(value), dtype=torch.float64)
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
        what = value.layout if isinstance(value, Tensor) else type(value).__name__
        raise AdapterFileError(f"'{source}' has {key!r} as {what}, want a plain tensor")
    return value.detach().clone(memory_format=torch.contiguous_format)
