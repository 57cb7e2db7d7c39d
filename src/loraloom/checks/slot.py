"""Which picture of a check is meant, and what a check was made with. No torch here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeAlias

from loraloom.core.mix import AdapterKey
from loraloom.core.provenance import Asked, Versions
from loraloom.core.request import Policy
from loraloom.errors import DigestMismatchError, ModelError, RecordError

from .law import Dtype


@dataclass(frozen=True, slots=True, order=True)
class Slot:
    """The place of one picture: the adapter, the name of the path, how it is worn."""

    adapter: str
    path: str
    policy: Policy

    def __str__(self) -> str:
        return f"{self.adapter}, {self.path}, {self.policy}"


@dataclass(frozen=True, slots=True)
class Setting:
    """Everything that the pictures of a check depend on, besides the machine."""

    model: str
    model_version: str
    dtype: Dtype
    asked: Asked
    adapters: tuple[AdapterKey, ...]
    versions: Versions

    def check_asked(self, model_version: str, asked: Asked) -> None:
        """Return if a check of this model with these settings can be compared with this one.

        Raises:
            ModelError: another model.
            RecordError: another setting.
        """
        if model_version != self.model_version:
            raise ModelError(
                f"the record was made with model {self.model!r} of version "
                f"{self.model_version[:12]}, this check has version {model_version[:12]}"
            )
        before, now = (_leaves(dataclasses.asdict(each)) for each in (self.asked, asked))
        for place in sorted(before.keys() | now.keys()):
            if before.get(place) != now.get(place):
                name, *around = reversed(place)
                where = f", in {' of '.join(around)}" if len(around) > 1 else ""
                raise RecordError(
                    f"the record was made with {name} {before.get(place)!r}, "
                    f"this check has {now.get(place)!r}{where}"
                )

    def check_names(self, names: tuple[str, ...]) -> None:
        """Return if these adapters are those of the record, in its order.

        Raises:
            RecordError: they are not.
        """
        before = tuple(key.name for key in self.adapters)
        if before != names:
            raise RecordError(
                f"the record was made with the adapters {', '.join(before)}, "
                f"this check has {', '.join(names)}"
            )

    def check_same(self, now: Setting) -> None:
        """Return if ``now`` may be compared with this, but for the versions of packages.

        Raises:
            DigestMismatchError: an adapter has other content.
            ModelError, RecordError: as :meth:`check_asked`; or another type of weights.
        """
        self.check_asked(now.model_version, now.asked)
        self.check_names(tuple(key.name for key in now.adapters))
        for key, other in zip(self.adapters, now.adapters, strict=True):
            if key != other:
                raise DigestMismatchError(
                    f"the record was made with adapter {key.name!r} of digest {key.digest[:12]}, "
                    f"this check has {other.digest[:12]}"
                )
        if self.dtype != now.dtype:
            raise RecordError(f"the record was made in {self.dtype}, this check is in {now.dtype}")


Place: TypeAlias = tuple[str, ...]
"""Where a number or text of nested values is, the outermost name first."""


def _leaves(value: Any, place: Place = ()) -> dict[Place, Any]:
    """Every number and text of nested mappings and lists of them; of a list also its length."""
    if isinstance(value, dict):
        inner = {key.replace("_", " "): each for key, each in value.items()}
        found: dict[Place, Any] = {}
    elif isinstance(value, tuple) and value and isinstance(value[0], dict):
        inner = {f"number {number}": each for number, each in enumerate(value, 1)}
        found = {place: len(value)}
    else:
        return {place: value}
    for name, each in inner.items():
        found |= _leaves(each, (*place, name))
    return found
