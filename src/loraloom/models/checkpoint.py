"""The weights of a component as they lie in its files, mapped and never copied whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from loraloom.core.mix import Site

from .folder import checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


class Checkpoint(Mapping[Site, "Tensor"]):
    """By site, the ``weight`` in the safetensors files of a component.

    The files stay open: one that is replaced under its name is still read as it was. One that is
    written over in place is not, and must not be.
    """

    def __init__(self, folder: Path, model: str) -> None:
        opened: list[Any] = [safe_open(file, framework="pt") for file in checkpoint(folder, model)]
        self._files = {
            key.removesuffix(".weight"): file
            for file in opened
            for key in file.keys()  # noqa: SIM118 - no mapping, it has only this method
            if key.endswith(".weight")
        }

    def __getitem__(self, site: Site) -> Tensor:
        tensor: Tensor = self._files[site].get_tensor(f"{site}.weight")
        return tensor

    def __iter__(self) -> Iterator[Site]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)
