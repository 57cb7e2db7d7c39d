"""Frozen values from JSON: every field there, no other, each of its type."""

from __future__ import annotations

import dataclasses
import types
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from loraloom.errors import RecordError

T = TypeVar("T")


def record(kind: type[T], data: object, where: str) -> T:
    """A dataclass from a mapping that holds its fields, all of them and no other.

    Raises:
        RecordError: it does not; the message names the place in ``where``.
    """
    if not isinstance(data, dict):
        raise RecordError(f"{where} is {type(data).__name__}, want an object")
    hints = get_type_hints(kind)
    for missing in [name for name in hints if name not in data]:
        raise RecordError(f"{where} has no field {missing!r}")
    for unknown in [name for name in data if name not in hints]:
        raise RecordError(f"{where} has an unknown field {unknown!r}")
    return kind(**{name: _value(hints[name], data[name], f"{where}.{name}") for name in hints})


def _value(hint: Any, data: object, where: str) -> object:
    """``data`` as ``hint``, one of the few types that a provenance is made of."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return record(hint, data, where)
    if get_origin(hint) is tuple:
        if not isinstance(data, list):
            raise RecordError(f"{where} is {type(data).__name__}, want a list")
        item = get_args(hint)[0]
        return tuple(_value(item, one, f"{where}[{i}]") for i, one in enumerate(data))
    if get_origin(hint) is Literal:
        if data not in get_args(hint):
            raise RecordError(f"{where} is {data!r}, want one of {', '.join(get_args(hint))}")
        return data
    assert hint in (str, int, float)
    accepted: type | types.UnionType = int | float if hint is float else hint
    if isinstance(data, bool) or not isinstance(data, accepted):
        raise RecordError(f"{where} is {data!r}, want {hint.__name__}")
    return hint(data)
