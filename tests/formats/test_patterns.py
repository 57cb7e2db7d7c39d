"""Patterns of uploaded configurations: what Python's ``re`` says, in bounded time."""

from __future__ import annotations

import re
import time
import warnings
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loraloom.errors import AdapterConfigError
from loraloom.formats.names import NameTable
from loraloom.formats.pattern import (
    ALL_MATCHES,
    LONGEST,
    MOST,
    ONE_MATCH,
    Patience,
    Pattern,
    Patterns,
    compiled,
)
from loraloom.formats.read import survey

from .files import NAMES, factors, write

if TYPE_CHECKING:
    from pathlib import Path

SITE = "transformer_blocks.0.attn1.to_out.0_is_long_enough_for_this"
ENDLESS = [
    r"(?:\w{1,3}|\w{2,4}|[.]){5,40}[^\w.]",
    r"(.*?){9}(?<=!)",
    r"(?:(?=\w)\w|(?=\w)\w\w|[.])*(?=!)",
    r"(?:(\w)+|[\w.])*(?=\3x)\.",
]
"""Each would take minutes or longer in ``re``."""


def patterns(*texts: str, patience: Patience | None = None) -> Patterns:
    patience = patience or Patience()
    rules = tuple(Pattern(text, i + 1, compiled(text, patience)) for i, text in enumerate(texts))
    return Patterns("rank_pattern", rules, patience)


@pytest.mark.parametrize("text", ENDLESS)
def test_a_pattern_that_would_take_forever_is_refused_by_its_name(
    tmp_path: Path, text: str
) -> None:
    names = NameTable({"transformer": {SITE: (8, 8)}}, default="transformer")
    said = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "alpha_pattern": {"to_q": 1, text: 3}}
    path = write(tmp_path, factors(sites={SITE: (8, 8)}), config=said)
    start = time.thread_time()
    with pytest.raises(AdapterConfigError) as caught:
        survey(path, names)
    assert time.thread_time() - start < ONE_MATCH + 1
    assert repr(text) in str(caught.value)
    assert "alpha_pattern" in str(caught.value)
    assert "takes more than 1 second" in str(caught.value)


def test_patterns_that_are_slow_on_many_layers_are_refused_for_the_time_of_all() -> None:
    # some tenths of a second for each name: never too long alone
    slow = r"(?:(?=\w)\w|(?=\w)\w\w|[.])*(?=!)"
    some = patterns(slow, patience=Patience(1.5))
    sites = [f"blocks.{i}.attn.to_qqqqq" for i in range(10_000)]
    start = time.thread_time()
    with pytest.raises(AdapterConfigError, match="want"):
        for site in sites:
            some.value(site)
    assert 1 < time.thread_time() - start < 1.5 + ONE_MATCH + 0.5


def test_many_names_are_looked_up_in_bounded_time_too() -> None:
    # dots in other places for each: no two are looked up together
    texts = ["^" + "".join("a" if i >> k & 1 else "." for k in range(14)) for i in range(MOST)]
    some = patterns(*texts, patience=Patience(0.5))
    start = time.thread_time()
    with pytest.raises(AdapterConfigError, match="10000 patterns that take more than"):
        for _ in range(100_000):
            some.value("b" * 13 + "c")
    assert time.thread_time() - start < 2


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.from_regex(r"\^[ab.]{1,4}|[ab.]{1,3}", fullmatch=True), max_size=8, unique=True),
    st.text("ab.", min_size=1, max_size=5),
)
def test_of_names_and_expressions_the_first_that_matches_counts(
    texts: list[str], site: str
) -> None:
    hits = [i for i, text in enumerate(texts, 1) if re.match(rf"(.*\.)?({text})$", site)]
    assert patterns(*texts).value(site) == (hits[0] if hits else None)


def test_a_pattern_for_each_of_thousands_of_layers_is_no_trouble() -> None:
    sites = [f"transformer_blocks.{i}.attn1.to_{c}" for i in range(500) for c in "qkvo"]
    some = patterns(*(f"^{site}" for site in sites))
    assert [some.value(site) for site in sites] == list(range(1, 2001))
    assert some.patience.left > ALL_MATCHES * 0.8


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a" * (LONGEST + 1), f"{LONGEST + 1} characters, at most {LONGEST} are"),
        ("to_(q", "unterminated subpattern"),
        ("(" * 400 + ")" * 400, "characters"),
        ("a{e<=1}", "a brace that is no number of repeats"),
        ("a{x}", "a brace that is no number of repeats"),
        ("[[:alpha:]]+", "'[' in a set"),
        ("[a-z&&b]", "'&&' in a set"),
        ("[a||b]", "'||' in a set"),
        ("(?i:TO_Q)", "'(?i' is not supported"),
        ("(?#note)to_q", "'(?#' is not supported"),
        ("(to)?(?(3)_q|x)", "'(?(' is not supported"),
        (r"\p{L}", r"bad escape \p"),
        (r"\Ka", r"bad escape \K"),
        ("(?r)a", "unknown extension"),
        ("(?1)", "unknown extension"),
        ("(?R)", "unknown extension"),
    ],
)
def test_what_re_and_regex_take_for_different_things_is_refused(text: str, said: str) -> None:
    with (
        warnings.catch_warnings(action="ignore"),
        pytest.raises(ValueError, match=re.escape(said)),
    ):
        compiled(text, Patience())


@pytest.mark.parametrize(
    ("text", "site", "hit"),
    [
        (r"blocks\.[0-9]\.to_[qk]", "x.blocks.3.to_q", True),
        (r"to_q|to_k", "x.to_k", True),
        (r".*\.to_(q|k)", "a.b.to_q", True),
        (r"blocks\.(1[0-9]|[2-9])\.ff", "blocks.12.ff", True),
        (r"(?:a|b){2,3}", "x.aba", True),
        (r"(?!to_k)to_.", "to_q", True),
        (r"(?!to_k)to_.", "to_k", False),
        (r"[]a]+", "]a", True),
        (r"a\{e}", "a{e}", True),
        (r"a{,2}", "aa", True),
        (r"(?P<n>a)(?P=n)", "aa", True),
        (r"(?>a+)b", "aab", True),
    ],
)
def test_expressions_that_people_write_match_as_in_re(text: str, site: str, hit: bool) -> None:
    assert (patterns(text).value(site) == 1) is hit
    assert (re.match(rf"(.*\.)?({text})$", site) is not None) is hit


PIECES = st.sampled_from(
    [
        *("a", "b", "0", "_", ".", r"\.", r"\w", r"\d", r"\W", "[ab]", "[^a]", "[a-z_.]", "[]a]"),
        *("(", "(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", ")", ")", ")", "|", "^", "$", r"\b"),
        *("*", "+", "?", "*?", "+?", "??", "{2}", "{1,2}", "{,2}", "{,}", "{}", "{", "}", "*+"),
        *(r"\3", r"\Z", r"\A", "(?i:", "[a", "--", "-", "[[a]", "\\", "\n", r"\s", "(?P<x>", "{e}"),
        *("(?P=x)", "[.]", r"\x61", r"\141", "#", " "),
    ]
)


@settings(max_examples=600, deadline=None)
@given(
    st.lists(PIECES, min_size=1, max_size=9).map("".join),
    st.lists(st.text("ab0_.", max_size=7), min_size=1, max_size=6),
)
def test_a_pattern_that_is_not_refused_matches_what_it_matches_in_re(
    text: str, sites: list[str]
) -> None:
    with warnings.catch_warnings(action="ignore"):
        try:
            some = patterns(text)
        except ValueError:
            return
        for site in sites:
            there = re.match(rf"(.*\.)?({text})$", site) is not None
            assert (some.value(site) is not None) == there, (text, site)


def test_more_patterns_than_any_model_has_layers_are_refused(tmp_path: Path) -> None:
    many = {f"^x{i}": 1 for i in range(MOST + 1)}
    said = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "rank_pattern": many}
    path = write(tmp_path, factors(), config=said)
    with pytest.raises(AdapterConfigError, match="10001 patterns', want at most 10000"):
        survey(path, NAMES)


def test_patterns_that_take_long_to_compile_are_refused() -> None:
    patience = Patience(0.2)
    start = time.thread_time()
    with pytest.raises(ValueError, match="compiling all takes more than"):
        for i in range(MOST):
            compiled("(a?){999}" * 55 + str(i), patience)
    assert time.thread_time() - start < 2
