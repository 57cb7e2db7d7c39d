"""Patterns of layer names that a file brings, matched in bounded time whatever they say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from time import thread_time
from typing import TYPE_CHECKING, Any

import regex

from loraloom.errors import AdapterConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loraloom.core.mix import Site

PLAIN = re.compile(r"\^[\w.]+")
"""The patterns that diffusers writes: one whole name."""

LONGEST = 500
"""Characters of one pattern; names of layers have some sixty."""

MOST = 10_000
"""Patterns in one field; large models have some thousands of layers."""

ONE_MATCH = 1.0
"""Seconds after which one comparison is given up; those of trainers take microseconds."""

ALL_MATCHES = 5.0
"""Seconds of computing for all patterns of one configuration on all layers."""

TOKEN = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{\d*,?\d*\}|\(\?(?:P[<=]|<[=!]|.)|.", re.DOTALL
)
"""What a regular expression consists of, as far as :func:`_strange` wants to know."""

OPENINGS = ("(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?P<", "(?P=")
SET_OPERATORS = ("[", "--", "&&", "~~", "||")


class Patience:
    """Seconds of this thread's computing that are left for the patterns of a configuration."""

    def __init__(self, seconds: float = ALL_MATCHES) -> None:
        self.left = seconds


@dataclass(frozen=True, slots=True)
class Pattern:
    """A value for the layers whose names the regular expression ``text`` matches.

    PEFT's rule: the whole name, or its end after a dot.
    Source: ``get_pattern_key`` in peft/utils/other.py.
    """

    text: str
    value: float
    compiled: Any
    """Of the library ``regex``, which can give up; None where ``text`` is :data:`PLAIN`."""

    def matches(self, site: Site, until: float) -> bool:
        """Whether the expression, which is none of the plain ones, matches.

        Raises:
            TimeoutError: it takes more than :data:`ONE_MATCH`, or till ``until`` by the clock of
                the thread.
        """
        left = min(ONE_MATCH, until - thread_time())
        if left <= 0:
            raise TimeoutError
        return self.compiled.match(site, timeout=left) is not None


class Names:
    """Plain patterns by what they match: a file may bring one for each of thousands of layers.

    In them a dot stands for any character. So they are grouped by where their dots are, and a name
    is looked up with dots in those places, once for each group.
    """

    def __init__(self) -> None:
        self._groups: dict[int, dict[tuple[int, ...], dict[str, int]]] = {}

    def add(self, name: str, rank: int) -> None:
        """``rank`` is the place of the pattern among all, of which the first counts."""
        dots = tuple(i for i, each in enumerate(name) if each == ".")
        group = self._groups.setdefault(len(name), {}).setdefault(dots, {})
        group.setdefault(name, rank)

    def first(self, site: Site) -> int | None:
        """The place of the first pattern that matches."""
        found = []
        for dots, group in self._groups.get(len(site), {}).items():
            dotted = list(site)
            for i in dots:
                dotted[i] = "."
            found.append(group.get("".join(dotted)))
        return min((rank for rank in found if rank is not None), default=None)


class Patterns:
    """The patterns of one field, in the order in which they count.

    Args:
        where: the configuration and the field, for messages.
        patience: what they may take, which other fields may share.
    """

    def __init__(self, where: str, rules: Sequence[Pattern], patience: Patience) -> None:
        self.where = where
        self.rules = tuple(rules)
        self.patience = patience
        self._names = Names()
        self._others = [i for i, rule in enumerate(rules) if rule.compiled is not None]
        for i, rule in enumerate(rules):
            if rule.compiled is None:
                self._names.add(rule.text[1:], i)

    def value(self, site: Site) -> float | None:
        """Of the first pattern that matches.

        Raises:
            AdapterConfigError: a pattern takes too long, or all of them together.
        """
        if self.patience.left <= 0:
            raise AdapterConfigError(
                f"{self.where} has {len(self.rules)} patterns that take more than "
                f"{ALL_MATCHES:g} seconds together, want simpler ones"
            )
        until = thread_time() + self.patience.left
        first = self._first(site, until)
        self.patience.left = until - thread_time()
        return None if first is None else self.rules[first].value

    def _first(self, site: Site, until: float) -> int | None:
        named = self._names.first(site)
        for i in self._others:
            if named is not None and named < i:
                return named
            try:
                if self.rules[i].matches(site, until):
                    return i
            except TimeoutError as error:
                raise AdapterConfigError(
                    f"{self.where} is {self.rules[i].text!r}, which takes more than "
                    f"{ONE_MATCH:g} seconds for a name, or {ALL_MATCHES:g} for all; want a "
                    "simpler regular expression"
                ) from error
        return named


def compiled(text: str, patience: Patience) -> Any:
    """What :class:`Pattern` holds for ``text``, which means what Python's ``re`` says it means.

    Raises:
        ValueError: it is no such expression, or takes too long; fit to follow a colon.
    """
    if PLAIN.fullmatch(text):
        return None
    if len(text) > LONGEST:
        raise ValueError(f"{len(text)} characters, at most {LONGEST} are")
    if patience.left <= 0:
        raise ValueError(f"compiling all takes more than {ALL_MATCHES:g} seconds")
    start = thread_time()
    spelled = rf"(.*\.)?({text})$"
    try:
        re.compile(spelled)
        strange = _strange(text)
        if strange:
            raise ValueError(strange)
        return regex.compile(spelled, regex.VERSION0)
    except (re.error, regex.error, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(str(error) or type(error).__name__) from error
    finally:
        patience.left -= thread_time() - start


def _strange(text: str) -> str | None:
    """What ``regex`` would take for something else than ``re``, in an expression valid for both.

    Source: the differences that https://pypi.org/project/regex lists.
    """
    for token in TOKEN.findall(text):
        if token == "{":
            return "a brace that is no number of repeats is written \\{"
        if token.startswith("(?") and token not in OPENINGS:
            return f"{token!r} is not supported"
        if token[0] == "[" and len(token) > 1:
            inside = re.sub(r"\\.", "", token[1:], flags=re.DOTALL)
            for each in SET_OPERATORS:
                if each in inside:
                    return f"{each!r} in a set is not supported"
    return None
