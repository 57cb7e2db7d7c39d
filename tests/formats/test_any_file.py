from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loraloom.errors import AdapterFileError
from loraloom.formats.load import load
from loraloom.formats.read import survey

from .files import NAMES, SITES, factors, write

if TYPE_CHECKING:
    import pytest
    from torch import Tensor

SPELLED = {
    **factors(),
    **factors("transformer."),
    **factors("base_model.model."),
    **{f"{site}.alpha": torch.tensor(2.0) for site in SITES},
    **{f"{site}.dora_scale": torch.ones(8) for site in SITES},
}
WORDS = ("blocks", "block", "0", "7", "attn", "to_q", "lora_A", "lora_B", "weight", "alpha", "x")


@st.composite
def files(draw: st.DrawFn) -> dict[str, Tensor]:
    """A whole adapter that lost some keys, gained some, and had some renamed; or that had not."""
    prefix = draw(st.sampled_from(["", "transformer.", "base_model.model."]))
    tensors = factors(prefix)
    for key in draw(st.lists(st.sampled_from(sorted(tensors)), unique=True, max_size=3)):
        del tensors[key]
    for key in draw(st.lists(st.sampled_from(sorted(SPELLED)), max_size=2)):
        tensors[key] = SPELLED[key]
    for key in draw(st.lists(st.sampled_from(sorted(tensors)), unique=True, max_size=2)):
        parts = key.split(".")
        parts[draw(st.integers(0, len(parts) - 1))] = draw(st.sampled_from(WORDS))
        tensors[".".join(parts)] = tensors.pop(key)
    return tensors


@settings(max_examples=60, deadline=None)
@given(files())
def test_a_file_loads_whole_or_not_at_all(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, Tensor]
) -> None:
    path = write(tmp_path_factory.getbasetemp(), tensors)
    try:
        partial = survey(path, NAMES, allow_partial=True)
    except AdapterFileError:
        partial = None
    if partial is not None:
        entries = {key for entry in partial.entries for key in (entry.down_key, entry.up_key)}
        problems = {problem.key for problem in partial.problems}
        assert len(problems) == len(partial.problems)
        assert not entries & problems
        silent = set(tensors) - entries - problems
        assert all(key.endswith(".alpha") for key in silent)
        assert len({entry.place for entry in partial.entries}) == len(partial.entries)
    try:
        reading = survey(path, NAMES)
    except AdapterFileError:
        assert partial is None or partial.problems
        return
    assert reading == partial
    adapter = load("any", reading)
    down_up = [key for key in tensors if not key.endswith(".alpha")]
    assert sum(len(update.tensors) for update in adapter.sites("transformer").values()) == len(
        down_up
    )
    held = {id(t): t for u in adapter.sites("transformer").values() for t in u.tensors}
    for key in down_up:
        assert any(torch.equal(tensors[key], tensor) for tensor in held.values())
