"""Frozen values from JSON: every field there, no other, each of its type."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from loraloom.errors import RecordError

T = TypeVar("T")


def record(kind: type[T], data: object, where: str) -> T:
    """A dataclass from a mapping that holds its fields and no other; defaults may be left out.

    Raises:
        RecordError: it does not; the message names the place in ``where``.
    """
    if not isinstance(data, dict):
        raise RecordError(f"{where} is {type(data).__name__}, want an object")
    hints = _hints(kind)  # type: ignore[arg-type]  # every class is hashable
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]  # only records are given
        needed = field.default is field.default_factory is dataclasses.MISSING
        if needed and field.name not in data:
            raise RecordError(f"{where} has no field {field.name!r}")
    for unknown in [name for name in data if name not in hints]:
        raise RecordError(f"{where} has an unknown field {unknown!r}")
    return kind(**{name: _value(hints[name], data[name], f"{where}.{name}") for name in data})


@cache
def _hints(kind: type) -> dict[str, Any]:
    """The types of its fields; to look at a module's names takes longer than all the rest."""
    return get_type_hints(kind)


def _value(hint: Any, data: object, where: str) -> object:
    """``data`` as ``hint``, one of the few types that a record is made of."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return record(hint, data, where)
    kind = get_origin(hint)
    if kind in {types.UnionType, Union}:
        (known,) = (one for one in get_args(hint) if one is not types.NoneType)
        return None if data is None else _value(known, data, where)
    if kind in {tuple, Mapping}:
        return _values(hint, data, where)
    if kind is Literal:
        if data not in get_args(hint):
            raise RecordError(f"{where} is {data!r}, want one of {', '.join(get_args(hint))}")
        return data
    return _plain(hint, data, where)


def _values(hint: Any, data: object, where: str) -> object:
    """A list as a tuple, an object as a mapping from names."""
    wanted, kind = ("a list", list) if get_origin(hint) is tuple else ("an object", dict)
    if not isinstance(data, kind):
        raise RecordError(f"{where} is {type(data).__name__}, want {wanted}")
    if isinstance(data, list):
        item = get_args(hint)[0]
        return tuple(_value(item, one, f"{where}[{i}]") for i, one in enumerate(data))
    assert isinstance(data, dict)
    item = get_args(hint)[1]
    return {name: _value(item, one, f"{where}.{name}") for name, one in data.items()}


def _plain(hint: Any, data: object, where: str) -> object:
    assert hint in (str, int, float, bool)
    accepted: type | types.UnionType = int | float if hint is float else hint
    if isinstance(data, bool) != (hint is bool) or not isinstance(data, accepted):
        raise RecordError(f"{where} is {data!r}, want {hint.__name__}")
    return hint(data)
