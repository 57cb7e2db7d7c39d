"""JSON objects read strictly: an object at the top and no key twice."""

from __future__ import annotations

import json
from collections import Counter
from typing import NoReturn

MOST_PARTS = 1_000_000
"""Objects and lists: each takes many times the bytes that spell it, and some time."""


def parse_object(raw: bytes | str) -> dict[str, object]:
    """The object that ``raw`` spells.

    Raises:
        ValueError: what is wrong, fit to follow a colon.
    """
    text = raw.encode() if isinstance(raw, str) else raw
    parts = text.count(b"{") + text.count(b"[")
    if parts > MOST_PARTS:
        raise ValueError(f"JSON of {parts} objects and lists, at most {MOST_PARTS} are")
    try:
        value = json.loads(raw, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"no UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"JSON of {type(value).__name__}, want an object")  # noqa: TRY004 - a value
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        name, times = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"key {name[:120]!r} appears {times} times")
    return unique


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")
