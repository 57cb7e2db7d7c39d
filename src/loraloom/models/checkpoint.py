"""The components of a model as they lie in its files: configurations, and mapped weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from loraloom.core.mix import Shape, Site

from .folder import checkpoint, header, read_json
from .ltx2 import released
from .ltx2.names import names

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from loraloom.formats.header import Header


@dataclass(frozen=True, slots=True)
class Held:
    """Where a tensor lies: the file, and its key there."""

    file: Path
    key: str
    shape: Shape


def held(folder: Path, model: str) -> dict[str, Held]:
    """The tensors of a component by diffusers' names.

    They lie in its own folder or, where it has none, in the released checkpoint beside it.

    Raises:
        ModelError: there is neither, or the files cannot be read.
    """
    single = _single(folder, model)
    if single is None:
        headers = [header(file, model) for file in checkpoint(folder, model)]
        return {
            key: Held(each.path, key, info.shape)
            for each in headers
            for key, info in each.tensors.items()
        }
    return {
        name: Held(single.path, key, single.tensors[key].shape)
        for name, key in names(single.tensors, folder.name).items()
    }


def config(folder: Path, model: str) -> dict[str, Any]:
    """The configuration of a component, as diffusers or transformers saves it.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    single = _single(folder, model)
    if single is not None:
        return released.config(single, folder.name)
    name = "scheduler_config.json" if folder.name == "scheduler" else "config.json"
    return read_json(folder / name, model)


def _single(folder: Path, model: str) -> Header | None:
    """The checkpoint that stands for a folder that is not there."""
    return None if folder.is_dir() else released.checkpoint(folder.parent, model)


class Checkpoint(Mapping[Site, "Tensor"]):
    """By site, the ``weight`` in the safetensors files of a component.

    The files stay open: one that is replaced under its name is still read as it was. One that is
    written over in place is not, and must not be.
    """

    def __init__(self, folder: Path, model: str) -> None:
        weights = {
            name.removesuffix(".weight"): place
            for name, place in held(folder, model).items()
            if name.endswith(".weight")
        }
        files = {place.file for place in weights.values()}
        self._open: dict[Path, Any] = {file: safe_open(file, framework="pt") for file in files}
        self._held = weights

    def __getitem__(self, site: Site) -> Tensor:
        place = self._held[site]
        tensor: Tensor = self._open[place.file].get_tensor(place.key)
        return tensor

    def __iter__(self) -> Iterator[Site]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)
