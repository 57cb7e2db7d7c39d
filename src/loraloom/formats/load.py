"""From a reading to an adapter: torch is imported here, and where pickles are read."""

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
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from loraloom.core.mix import Component, Site

    from .names import Place
    from .reading import Reading


@dataclass(frozen=True, slots=True, eq=False)
class _Loaded:
    place: Place
    update: LowRank
    sizes: Mapping[str, float]


def load(name: str, reading: Reading) -> Adapter:
    """The adapter that ``reading`` describes, its factors bit for bit those of the file.

    Raises:
        AdapterFileError: the file is another than the one that was surveyed.
        AdapterValueError: a factor holds NaN or infinity, or the adapter changes nothing.
    """
    loaded = list(_tensors(reading))
    idle = _judged(name, reading, [each.sizes for each in loaded])
    updates: dict[Component, dict[Site, LowRank]] = defaultdict(dict)
    for each in loaded:
        updates[each.place.component][each.place.site] = each.update
    notes = "; ".join((*reading.notes, *_idle_note(idle), *by_reason(reading.problems)))
    return Adapter.make(
        name, dict(updates), {**reading.about, **({"notes": notes} if notes else {})}
    )


def examine(name: str, reading: Reading) -> None:
    """Return if :func:`load` would load it. One layer at a time is in memory.

    Raises:
        AdapterFileError, AdapterValueError: as :func:`load` does.
    """
    _judged(name, reading, [each.sizes for each in _tensors(reading)])


def _judged(name: str, reading: Reading, sizes: Sequence[Mapping[str, float]]) -> Sequence[Place]:
    """The layers that are not changed, from the largest values of each layer's factors."""
    path = reading.source.path
    broken = [key for each in sizes for key, size in each.items() if not math.isfinite(size)]
    if broken:
        shown = ", ".join(map(repr, broken[:3]))
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise AdapterValueError(
            f"adapter {name!r} in '{path}' has NaN or infinity in "
            f"{counted(len(broken), 'tensor')}: {shown}{more}; want finite numbers"
        )
    zipped = zip(reading.entries, sizes, strict=True)
    idle = [entry.place for entry, each in zipped if 0.0 in each.values()]
    if len(idle) == len(sizes):
        raise AdapterValueError(
            f"adapter {name!r} in '{path}' changes nothing: of "
            f"{counted(len(idle), 'layer')} each has a factor of zeros, want one without"
        )
    return idle


def _tensors(reading: Reading) -> Iterator[_Loaded]:
    header = reading.source.header
    if read_header(header.path) != header:
        raise _changed(reading)
    try:
        with safe_open(header.path, framework="pt", device="cpu") as file:
            for entry in reading.entries:
                # a copy: what is mapped would change with the file, under an unchanged digest
                down, up = (file.get_tensor(k).clone() for k in (entry.down_key, entry.up_key))
                sizes = {entry.down_key: _largest(down), entry.up_key: _largest(up)}
                yield _Loaded(entry.place, LowRank(down, up, entry.scale), sizes)
    except (SafetensorError, OSError) as error:
        raise _changed(reading) from error


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
