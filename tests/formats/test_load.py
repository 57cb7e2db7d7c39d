from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch

from loraloom.errors import AdapterFileError, AdapterValueError
from loraloom.formats.load import load
from loraloom.formats.read import survey

from .files import NAMES, SITES, factors, write

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from loraloom.core.adapter import Adapter

FIRST = "blocks.0.attn.to_q"
A, B = f"{FIRST}.lora_A.weight", f"{FIRST}.lora_B.weight"


def loaded(folder: Path, tensors: dict[str, Tensor]) -> Adapter:
    return load("neon", survey(write(folder, tensors), NAMES))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_factors_are_the_bytes_of_the_file_and_alpha_is_in_the_scale(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    tensors = {key: tensor.to(dtype) for key, tensor in factors().items()}
    adapter = loaded(tmp_path, {**tensors, f"{FIRST}.alpha": torch.tensor(0.3)})
    assert adapter.key.name == "neon"
    assert list(adapter.updates) == ["transformer"]
    assert set(adapter.sites("transformer")) == set(SITES)
    for site, update in adapter.sites("transformer").items():
        for factor, side in ((update.down, "A"), (update.up, "B")):
            stored = tensors[f"{site}.lora_{side}.weight"]
            assert factor.dtype == dtype
            assert torch.equal(factor, stored)
        assert type(update.scale) is float
        assert update.shape == SITES[site]
    assert adapter.sites("transformer")[FIRST].scale == float(torch.tensor(0.3)) / 2


def test_the_digest_is_of_what_an_adapter_does_and_not_of_its_spelling(tmp_path: Path) -> None:
    keys = {loaded(tmp_path, factors(p)).key for p in ("", "transformer.", "base_model.model.")}
    assert len(keys) == 1
    changed = loaded(tmp_path, {**factors(), f"{FIRST}.alpha": torch.tensor(3.0)})
    assert changed.key not in keys


def test_components_of_one_file_are_kept_apart(tmp_path: Path) -> None:
    text = factors("text_encoder.", sites=NAMES.components["text_encoder"])
    adapter = loaded(tmp_path, {**factors("transformer."), **text})
    assert set(adapter.updates) == {"transformer", "text_encoder"}
    assert set(adapter.sites("text_encoder")) == {"layers.0.q_proj"}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("key", [A, B])
def test_one_value_that_is_not_finite_refuses_the_adapter_by_its_key(
    tmp_path: Path, bad: float, key: str
) -> None:
    tensors = factors()
    tensors[key][-1, -1] = bad
    with pytest.raises(AdapterValueError) as caught:
        loaded(tmp_path, tensors)
    for part in ("'neon'", repr(key), "1 tensor:", "finite"):
        assert part in str(caught.value)


def test_an_adapter_that_changes_nothing_is_refused(tmp_path: Path) -> None:
    zeroed = {k: t * 0 if ".lora_B." in k else t for k, t in factors().items()}
    with pytest.raises(AdapterValueError, match=r"'neon'.* changes nothing.* 6 layers"):
        loaded(tmp_path, zeroed)
    mixed = {k: t * 0 if (".lora_B." in k) == ("ff" in k) else t for k, t in factors().items()}
    with pytest.raises(AdapterValueError, match="changes nothing"):
        loaded(tmp_path, mixed)


def test_a_layer_that_changes_nothing_is_noted_and_kept(tmp_path: Path) -> None:
    adapter = loaded(tmp_path, {**factors(), B: torch.zeros(8, 2)})
    assert "no effect: 1 layer " in adapter.about["notes"]
    assert f"transformer.{FIRST}" in adapter.about["notes"]
    assert set(adapter.sites("transformer")) == set(SITES)
    assert "notes" not in loaded(tmp_path, factors()).about


def test_the_notes_of_the_survey_stay_with_the_adapter(tmp_path: Path) -> None:
    tensors = {**factors(), B: torch.zeros(8, 2), f"{FIRST}.alpha": torch.tensor(1.0)}
    reading = survey(write(tmp_path, tensors), NAMES, alpha=2)
    (note,) = reading.notes
    assert load("neon", reading).about["notes"].startswith(f"{note}; no effect: 1 layer ")


def test_an_adapter_owns_its_bytes(tmp_path: Path) -> None:
    adapter = loaded(tmp_path, factors())
    path = tmp_path / "adapter.safetensors"
    with path.open("r+b") as file:
        file.seek(-64, 2)
        file.write(b"\xff" * 64)
    for site, update in adapter.sites("transformer").items():
        assert torch.equal(update.up, factors()[f"{site}.lora_B.weight"])


@pytest.mark.parametrize("how", ["gone", "cut", "rewritten"])
def test_a_file_that_changed_since_its_survey_is_not_loaded(tmp_path: Path, how: str) -> None:
    path = write(tmp_path, factors())
    reading = survey(path, NAMES)
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        write(tmp_path, factors(rank=3))
    with pytest.raises(AdapterFileError, match=str(path)):
        load("neon", reading)


def test_what_allow_partial_leaves_out_is_not_loaded(tmp_path: Path) -> None:
    tensors = factors()
    del tensors[A]
    tensors[B][0, 0] = math.nan  # would be refused if it were touched
    adapter = load("neon", survey(write(tmp_path, tensors), NAMES, allow_partial=True))
    assert set(adapter.sites("transformer")) == set(SITES) - {FIRST}
