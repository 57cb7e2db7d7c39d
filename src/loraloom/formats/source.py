"""What lies at a path: the adapter file, and what is said beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loraloom.errors import AdapterConfigError, AdapterFileError

from .header import CONVERT, Header, read_header
from .objects import parse_object

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

CONFIG = "adapter_config.json"
USUAL = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
LARGEST_CONFIG = 4_000_000
"""Bytes; one with a pattern for each of thousands of layers has some hundred thousand."""


@dataclass(frozen=True, slots=True)
class Source:
    """An adapter file's header and the ``adapter_config.json`` beside it, if there is one."""

    header: Header
    config: Mapping[str, object] | None

    @property
    def path(self) -> Path:
        return self.header.path


def source_of(path: Path) -> Source:
    """What a path holds: a safetensors file, or a folder with one.

    Raises:
        AdapterFileError: no readable adapter file is there, or several are.
        AdapterConfigError: the configuration beside it is no JSON object.
    """
    file = file_at(path)
    return Source(read_header(file), _config(file.with_name(CONFIG)))


def file_at(path: Path) -> Path:
    """The adapter file that is meant by the path of a file or of a folder.

    Raises:
        AdapterFileError: a folder holds none, or several.
    """
    if not path.is_dir():
        return path
    try:
        held = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise AdapterFileError(f"adapter folder '{path}' cannot be read: {error}") from error
    return path / weights_of(held, f"adapter folder '{path}'")


def weights_of(held: Sequence[str], who: str) -> str:
    """The one of the names in a folder that is the adapter's: a usual one, or the only one.

    Raises:
        AdapterFileError: ``who`` holds none, or several.
    """
    tensors = [name for name in held if name.endswith(".safetensors")]
    usual = [name for name in USUAL if name in tensors]
    found = usual or tensors
    if len(found) == 1:
        return found[0]
    raise AdapterFileError(f"{who} {_why(found, held)}")


def _why(found: Sequence[str], held: Sequence[str]) -> str:
    if found:
        shown = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
        return f"holds {len(found)} adapter files ({shown}); give the path of one"
    pickles = [name for name in held if name.endswith(PICKLES)]
    if pickles:
        return f"holds {pickles[0]}, a pickle, and no safetensors file; {CONVERT}"
    shown = ", ".join(held[:8]) or "nothing"
    return f"holds {shown}; want {' or '.join(USUAL)} or one other .safetensors file"


def _config(path: Path) -> Mapping[str, object] | None:
    if not path.exists():
        return None
    try:
        return parse_object(_read(path))
    except (OSError, ValueError) as error:
        raise AdapterConfigError(
            f"adapter configuration '{path}' is unreadable: {error}"
        ) from error


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError("no file")
    with path.open("rb") as file:
        raw = file.read(LARGEST_CONFIG + 1)
    if len(raw) > LARGEST_CONFIG:
        raise ValueError(f"more than {LARGEST_CONFIG} bytes")
    return raw
