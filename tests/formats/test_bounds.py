"""Uploaded files say what they like; reading them takes bounded time and memory."""

from __future__ import annotations

import json
import os
import time
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import save_file

from loraloom.errors import AdapterConfigError, AdapterFileError, closest
from loraloom.formats.header import LONGEST_HEADER, LONGEST_KEY, MOST_TENSORS, read_header
from loraloom.formats.names import NameTable
from loraloom.formats.objects import MOST_PARTS, parse_object
from loraloom.formats.read import survey
from loraloom.formats.source import LARGEST_CONFIG

from .files import NAMES, factors, raw, write

if TYPE_CHECKING:
    from pathlib import Path

NOTHING = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


def refused(path: Path) -> str:
    """A message of reasonable length with which a file is refused, in reasonable time."""
    start = time.thread_time()
    with pytest.raises(AdapterFileError) as caught:
        survey(path, NAMES)
    assert time.thread_time() - start < 20
    message = str(caught.value)
    assert len(message) < 4000
    assert message.isprintable()
    return message


@pytest.mark.parametrize(
    ("header", "named"),
    [
        ({"a" * (LONGEST_KEY + 1): NOTHING}, f"a key of {LONGEST_KEY + 1} characters"),
        ({"a\nb": NOTHING}, "a character that cannot be printed: 'a\\nb'"),
        ({"a\x1b[2J": NOTHING}, "cannot be printed"),
        ({"a": {**NOTHING, "shape": [0] * 17}}, "describes tensor 'a'"),
        ({"a": {**NOTHING, "shape": [2**128, 0]}}, "describes tensor 'a'"),
        ({"a": {**NOTHING, "shape": [9 * 10**4000] * 500}}, "describes tensor 'a'"),
        ({"a": {**NOTHING, "data_offsets": [10**4299, 10**4299]}}, "describes tensor 'a'"),
        ('{"a": {"dtype": "F32", "shape": [' + "9" * 5000 + "]}}", "4300 digits"),
        ('{"a": ' + "[" * 200 + "]" * 200 + "}", "describes tensor 'a'"),
        ('{"a": {}, "' + "b" * 10**6 + '": 1, "' + "b" * 10**6 + '": 1}', "appears 2 times"),
        ({"__metadata__": {"a": "b" * 10**6, "c": 3}}, "metadata"),
        ({"a": "b" * 10**6}, "describes tensor 'a'"),
        ({f"x{i}": NOTHING for i in range(MOST_TENSORS + 1)}, f"has {MOST_TENSORS + 1} tensors"),
    ],
)
def test_headers_beyond_all_measure_are_refused(tmp_path: Path, header: object, named: str) -> None:
    said = header if isinstance(header, str) else json.dumps(header)
    assert named in refused(raw(tmp_path / "x.safetensors", said))


def test_a_header_of_brackets_takes_no_more_memory_than_it_has_bytes(tmp_path: Path) -> None:
    # each empty list takes thirty times the two bytes that spell it
    text = '{"a": [' + "[]," * (LONGEST_HEADER // 3 - 10) + "[]]}"
    path = raw(tmp_path / "x.safetensors", text)
    tracemalloc.start()
    try:
        assert f"at most {MOST_PARTS} are" in refused(path)
        assert tracemalloc.get_traced_memory()[1] < 3 * LONGEST_HEADER
    finally:
        tracemalloc.stop()


def test_json_in_metadata_is_bounded_too(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="objects and lists, at most"):
        parse_object('{"a": [' + "[]," * MOST_PARTS + "[]]}")
    path = write(tmp_path, factors(), metadata={f"c{'x' * 300}{i}.r": 1 for i in range(50_000)})
    assert "speaks of" in refused(path)


def test_a_large_file_of_a_real_adapter_is_read(tmp_path: Path) -> None:
    sites = {f"transformer_blocks.{i}.attn1.to_{c}": (2, 2) for i in range(600) for c in "qkvo"}
    names = NameTable({"transformer": sites}, default="transformer")
    said = {f"ss_tag_{i}": "y" * 10_000 for i in range(500)}  # what it was trained on
    path = tmp_path / "x.safetensors"
    save_file(factors(sites=sites, rank=1), path, {"format": "pt", **said})
    assert survey(path, names).sites == 2400


@pytest.mark.parametrize(
    "key",
    [
        "." * 505 + "{}",
        "oft_." * 101 + "{}",
        "a.lora_A" * 62 + "{}.weight",
        "lora_" * 100 + "{}",
        "lora_embedding_A." * 29 + "{}",
        "a_" * 250 + "{}",
    ],
)
def test_thousands_of_strange_keys_are_told_in_time(tmp_path: Path, key: str) -> None:
    # a fifth of what a header may hold, in a fifth of the time
    header = {key.format(i): NOTHING for i in range(LONGEST_HEADER // 3000)}
    start = time.thread_time()
    message = refused(raw(tmp_path / "x.safetensors", header))
    assert time.thread_time() - start < 6
    assert f"0 of {len(header)} keys used" in message


def test_layers_that_nobody_has_are_told_in_time(tmp_path: Path) -> None:
    sites = {f"blocks.{i}.{'very_' * 20}long.to_{c}": (2, 2) for i in range(500) for c in "qkvo"}
    names = NameTable({"transformer": sites}, default="transformer")
    wrong = {f"bloks.{i}.{'very_' * 90}": (2, 2) for i in range(3000)}
    path = write(tmp_path, factors(sites=wrong, rank=1))
    start = time.thread_time()
    with pytest.raises(AdapterFileError, match="no layer of this name"):
        survey(path, names)
    assert time.thread_time() - start < 10


def test_what_a_file_says_of_itself_is_kept_to_be_shown_and_no_more(tmp_path: Path) -> None:
    said = {f"note{i}": "x" * 100_000 for i in range(100)} | {str(i): "y" for i in range(1000)}
    path = tmp_path / "x.safetensors"
    save_file(factors(), path, {"format": "pt", **said})
    about = survey(path, NAMES).about
    assert len(about) == 200
    assert sum(len(key) + len(text) for key, text in about.items()) < 500_000
    assert all(said[key].startswith(text.removesuffix("...")) for key, text in about.items())


def test_a_configuration_beyond_all_measure_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, factors(), config={"r": 2, "lora_alpha": 2})
    beside = path.with_name("adapter_config.json")
    beside.write_bytes(b"{" + b" " * LARGEST_CONFIG + b"}")
    assert f"more than {LARGEST_CONFIG} bytes" in refused(path)
    beside.unlink()
    os.mkfifo(beside)  # whoever reads it waits for ever
    assert "is unreadable: no file" in refused(path)
    beside.unlink()
    beside.write_text(json.dumps({"r": 10**4000, "lora_alpha": 2}))
    with pytest.raises(AdapterConfigError):
        survey(path, NAMES)


def test_a_rank_without_bytes_is_no_rank(tmp_path: Path) -> None:
    # the product of shapes is zero bytes, whatever the rank
    header = {
        "blocks.0.attn.to_q.lora_A.weight": {**NOTHING, "shape": [10**12, 0]},
        "blocks.0.attn.to_q.lora_B.weight": {**NOTHING, "shape": [0, 10**12]},
    }
    path = raw(tmp_path / "x.safetensors", header)
    assert read_header(path).tensors
    assert "does not fit its layer" in refused(path)


def test_close_names_are_found_among_thousands_in_time() -> None:
    known = [f"style-{word}-{i}" for i in range(2500) for word in ("neon", "oil", "ink", "clay")]
    start = time.thread_time()
    assert closest("style-noen-77", known)[0] in ("style-neon-77", "style-neon-777")
    assert closest("neon-style-2040", [*known, "neon-style-204"])[0] == "neon-style-204"
    assert closest("x" * 10**7, known) == []
    assert closest("neon", ["n" * 10**6, "neom"]) == ["neom"]
    assert time.thread_time() - start < 2
