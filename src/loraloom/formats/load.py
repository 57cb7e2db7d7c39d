"""From a reading to an adapter: the one module of this folder that imports torch."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open

from loraloom.core.adapter import Adapter, LowRank
from loraloom.errors import AdapterFileError, AdapterValueError

from .header import read_header
from .reading import by_reason, counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from loraloom.core.mix import Component, Site

    from .names import Place
    from .reading import Reading


@dataclass(frozen=True, slots=True, eq=False)
class _Loaded:
    place: Place
    update: LowRank
    idle: bool


def load(name: str, reading: Reading) -> Adapter:
    """The adapter that ``reading`` describes, its factors bit for bit those of the file.

    Raises:
        AdapterFileError: the file is another than the one that was surveyed.
        AdapterValueError: a factor holds NaN or infinity, or the adapter changes nothing.
    """
    header = reading.source.header
    if read_header(header.path) != header:
        raise _changed(reading)
    loaded = _tensors(name, reading)
    idle = [each.place for each in loaded if each.idle]
    if len(idle) == len(loaded):
        raise AdapterValueError(
            f"adapter {name!r} in '{header.path}' changes nothing: of "
            f"{counted(len(idle), 'layer')} each has a factor of zeros, want one without"
        )
    updates: dict[Component, dict[Site, LowRank]] = defaultdict(dict)
    for each in loaded:
        updates[each.place.component][each.place.site] = each.update
    notes = "; ".join((*reading.notes, *_idle_note(idle), *by_reason(reading.problems)))
    return Adapter.make(
        name, dict(updates), {**reading.about, **({"notes": notes} if notes else {})}
    )


def _tensors(name: str, reading: Reading) -> list[_Loaded]:
    path = reading.source.path
    broken: list[str] = []
    loaded: list[_Loaded] = []
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for entry in reading.entries:
                # a copy: what is mapped would change with the file, under an unchanged digest
                down, up = (file.get_tensor(k).clone() for k in (entry.down_key, entry.up_key))
                sizes = {entry.down_key: _largest(down), entry.up_key: _largest(up)}
                broken.extend(key for key, size in sizes.items() if not math.isfinite(size))
                idle = 0.0 in sizes.values()
                loaded.append(_Loaded(entry.place, LowRank(down, up, entry.scale), idle))
    except (SafetensorError, OSError) as error:
        raise _changed(reading) from error
    if broken:
        shown = ", ".join(map(repr, broken[:3]))
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise AdapterValueError(
            f"adapter {name!r} in '{path}' has NaN or infinity in "
            f"{counted(len(broken), 'tensor')}: {shown}{more}; want finite numbers"
        )
    return loaded


def _largest(tensor: Tensor) -> float:
    """The largest absolute value; NaN or infinite if any is. One pass, for files are large."""
    low, high = (float(end) for end in torch.aminmax(tensor))
    return math.nan if math.isnan(low) else max(-low, high)


def _idle_note(idle: Sequence[Place]) -> tuple[str, ...]:
    if not idle:
        return ()
    return (f"no effect: {counted(len(idle), 'layer')} with a zero factor, first '{idle[0]}'",)


def _changed(reading: Reading) -> AdapterFileError:
    return AdapterFileError(f"adapter file '{reading.source.path}' was changed after its survey")
