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
    file = _in_folder(path) if path.is_dir() else path
    return Source(read_header(file), _config(file.with_name(CONFIG)))


def _in_folder(folder: Path) -> Path:
    held = sorted(entry.name for entry in folder.iterdir())
    tensors = [name for name in held if name.endswith(".safetensors")]
    usual = [name for name in USUAL if name in tensors]
    found = usual or tensors
    if len(found) == 1:
        return folder / found[0]
    raise AdapterFileError(f"adapter folder '{folder}' {_why(found, held)}")


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
        return parse_object(path.read_bytes())
    except (OSError, ValueError) as error:
        raise AdapterConfigError(
            f"adapter configuration '{path}' is unreadable: {error}"
        ) from error
