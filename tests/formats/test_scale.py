from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch

from loraloom.errors import AdapterConfigError, AdapterValueError
from loraloom.formats.read import survey

from .files import NAMES, SITES, factors, write

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from loraloom.formats.reading import Reading

FIRST = "blocks.0.attn.to_q"


def scales(reading: Reading) -> dict[str, float]:
    return {entry.place.site: entry.scale for entry in reading.entries}


def config(**fields: object) -> dict[str, object]:
    return {"peft_type": "LORA", "r": 2, "lora_alpha": 8, **fields}


def packed(**fields: object) -> dict[str, object]:
    return {f"transformer.{field}": value for field, value in config(**fields).items()}


def refused(folder: Path, *, tensors: Mapping[str, Tensor] | None = None, **said: Any) -> str:
    """The message with which a file with these configurations is refused."""
    path = write(folder, tensors or factors("transformer."), **said)
    with pytest.raises(AdapterConfigError) as caught:
        survey(path, NAMES)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_alpha_is_the_rank_where_nobody_says_it(tmp_path: Path) -> None:
    tensors = factors()
    other = factors(rank=5)
    for key in (f"{FIRST}.lora_A.weight", f"{FIRST}.lora_B.weight"):
        tensors[key] = other[key]
    reading = survey(write(tmp_path, tensors), NAMES)
    assert set(scales(reading).values()) == {1.0}
    assert {entry.place.site: entry.alpha for entry in reading.entries}[FIRST] == 5
    assert {entry.rank for entry in reading.entries} == {2, 5}


def test_alpha_counts_from_the_layer_to_the_caller_to_the_config_to_the_metadata(
    tmp_path: Path,
) -> None:
    tensors = factors("transformer.")
    path = write(tmp_path, tensors, metadata=packed(lora_alpha=3))
    assert set(scales(survey(path, NAMES)).values()) == {3 / 2}
    (tmp_path / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 3.0}')
    assert set(scales(survey(path, NAMES)).values()) == {3 / 2}
    assert set(scales(survey(path, NAMES, alpha=0.3)).values()) == {0.3 / 2}
    tensors[f"transformer.{FIRST}.alpha"] = torch.tensor(0.7)
    path = write(tmp_path, tensors, metadata=packed(lora_alpha=3))
    found = scales(survey(path, NAMES, alpha=0.3))
    assert found.pop(FIRST) == float(torch.tensor(0.7)) / 2
    assert set(found.values()) == {0.3 / 2}


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_metadata_of_a_component_counts_with_and_without_its_name(
    tmp_path: Path, prefix: str
) -> None:
    metadata = {f"{prefix}{field}": value for field, value in config(lora_alpha=0.5).items()}
    reading = survey(write(tmp_path, factors("transformer."), metadata=metadata), NAMES)
    assert set(scales(reading).values()) == {0.25}


def test_each_component_has_its_own_metadata(tmp_path: Path) -> None:
    text = factors("text_encoder.", sites=NAMES.components["text_encoder"], rank=3)
    metadata = {**packed(), "text_encoder.r": 3, "text_encoder.lora_alpha": 1}
    reading = survey(write(tmp_path, {**factors("transformer."), **text}, metadata=metadata), NAMES)
    found = scales(reading)
    assert found.pop("layers.0.q_proj") == 1 / 3
    assert set(found.values()) == {4.0}


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.uint16),
    ],
)
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_alpha_tensors_of_every_type_are_read(
    tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    alpha = torch.full(shape, 3.3).to(dtype)
    tensors = {**factors(), f"{FIRST}.alpha": alpha}
    assert scales(survey(write(tmp_path, tensors), NAMES))[FIRST] == alpha.item() / 2


def test_an_alpha_tensor_of_zero_says_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, {**factors(), f"{FIRST}.alpha": torch.tensor(0.0)})
    assert scales(survey(path, NAMES))[FIRST] == 1.0
    assert scales(survey(path, NAMES, alpha=8))[FIRST] == 4.0


def test_an_own_alpha_that_contradicts_is_noted_and_one_that_agrees_is_not(tmp_path: Path) -> None:
    for alpha, noted in ((8.0, False), (2.0, True)):
        tensors = {**factors(), f"{FIRST}.alpha": torch.tensor(alpha)}
        reading = survey(write(tmp_path, tensors, config=config()), NAMES)
        assert bool(reading.notes) == noted
        if noted:
            assert "1 layer " in reading.notes[0]
            assert f"transformer.{FIRST}" in reading.notes[0]
            assert reading.notes[0] in reading.summary()


@pytest.mark.parametrize("bad", [torch.ones(2), torch.tensor(True), torch.tensor(1j)])
def test_an_alpha_tensor_that_is_no_number_is_refused(tmp_path: Path, bad: Tensor) -> None:
    message = refused(tmp_path, tensors={**factors(), f"{FIRST}.alpha": bad})
    assert f"{FIRST}.alpha" in message
    assert "want one number" in message


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_alpha_tensor_that_is_not_finite_is_refused(tmp_path: Path, bad: float) -> None:
    path = write(tmp_path, {**factors(), f"{FIRST}.alpha": torch.tensor(bad)})
    with pytest.raises(AdapterValueError, match=f"{FIRST}.alpha"):
        survey(path, NAMES)


def test_rslora_divides_by_the_root_of_the_rank_except_for_an_own_alpha(tmp_path: Path) -> None:
    tensors = {**factors(), f"{FIRST}.alpha": torch.tensor(1.0)}
    path = write(tmp_path, tensors, config=config(use_rslora=True))
    found = scales(survey(path, NAMES))
    assert found.pop(FIRST) == 0.5
    assert set(found.values()) == {8 / math.sqrt(2)}
    assert scales(survey(path, NAMES, alpha=3))["blocks.0.ff.up"] == 3 / math.sqrt(2)


@pytest.mark.parametrize(
    ("pattern", "hit"),
    [
        ("to_q", {"blocks.0.attn.to_q", "blocks.1.attn.to_q"}),
        ("attn.to_q", {"blocks.0.attn.to_q", "blocks.1.attn.to_q"}),
        ("o_q", set()),
        ("^blocks.0.attn.to_q", {"blocks.0.attn.to_q"}),
        ("^blocks.0.attn.to.q", {"blocks.0.attn.to_q"}),
        ("^attn.to_q", set()),
        ("^blocks.0.attn", set()),
        ("blocks.0.attn", set()),
        (
            "blocks.0.ff.up|attn.to_q",
            {"blocks.0.ff.up", "blocks.0.attn.to_q", "blocks.1.attn.to_q"},
        ),
        ("blocks\\.\\d+\\.ff\\.up", {"blocks.0.ff.up", "blocks.1.ff.up"}),
        ("blocks.1.(attn.to_q|ff.up)", {"blocks.1.attn.to_q", "blocks.1.ff.up"}),
        ("blocks.[01].*", set(SITES)),
    ],
)
def test_patterns_match_as_peft_matches_them(tmp_path: Path, pattern: str, hit: set[str]) -> None:
    from peft.utils.other import get_pattern_key

    assert {site for site in SITES if get_pattern_key([pattern], site) == pattern} == hit
    path = write(tmp_path, factors(), config=config(alpha_pattern={pattern: 1}))
    assert {site for site, scale in scales(survey(path, NAMES)).items() if scale == 0.5} == hit


def test_the_first_pattern_that_matches_counts(tmp_path: Path) -> None:
    patterns = {"attn.to_q": 1, "^blocks.0.attn.to_q": 3}
    path = write(tmp_path, factors(), config=config(alpha_pattern=patterns))
    assert scales(survey(path, NAMES))[FIRST] == 0.5


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"peft_type": "LOKR"}, ["peft_type", "'LOKR'", "LORA"]),
        ({"r": 0}, ["r is 0", "positive whole number"]),
        ({"r": 2.0}, ["r is 2.0", "positive whole number"]),
        ({"r": True}, ["r is True"]),
        ({"r": "2"}, ["r is '2'"]),
        ({"lora_alpha": "8"}, ["lora_alpha is '8'", "finite number"]),
        ({"lora_alpha": 0}, ["lora_alpha is 0", "other than 0"]),
        ({"lora_alpha": 10**400}, ["lora_alpha is 1000", "finite number"]),
        ({"lora_alpha": False}, ["lora_alpha is False"]),
        ({"lora_alpha": None}, ["lora_alpha is absent"]),
        ({"rank_pattern": ["x"]}, ["rank_pattern is ['x']", "object"]),
        ({"rank_pattern": {"to_q": 0}}, ["rank_pattern['to_q'] is 0"]),
        ({"alpha_pattern": {"to_q": "1"}}, ["alpha_pattern['to_q'] is '1'"]),
        ({"alpha_pattern": {"to_(q": 1}}, ["alpha_pattern is 'to_(q'", "regular expression"]),
        ({"use_rslora": 1}, ["use_rslora is 1", "true or false"]),
        ({"use_dora": True}, ["use_dora is True", "not supported yet"]),
        ({"lora_bias": True}, ["lora_bias", "not supported yet"]),
        ({"fan_in_fan_out": True}, ["fan_in_fan_out", "not supported yet"]),
        ({"bias": "all"}, ["bias is 'all'", "not supported yet"]),
        ({"modules_to_save": ["proj_out"]}, ["modules_to_save", "proj_out"]),
        ({"layer_replication": [[0, 4]]}, ["layer_replication"]),
        ({"init_lora_weights": "pissa_niter_4"}, ["init_lora_weights", "'pissa_niter_4'", "base"]),
        ({"r": 4}, ["rank of layer 'transformer.blocks.0", " 4,", "have 2"]),
        (
            {"rank_pattern": {"^blocks.1.ff.up": 3}},
            ["'transformer.blocks.1.ff.up'", " 3,", "have 2"],
        ),
    ],
)
@pytest.mark.parametrize("beside", [True, False])
def test_malformed_configurations_are_refused_with_file_field_got_and_wanted(
    tmp_path: Path, fields: dict[str, object], named: list[str], beside: bool
) -> None:
    said: dict[str, Any] = (
        {"config": config(**fields)} if beside else {"metadata": packed(**fields)}
    )
    message = refused(tmp_path, **said)
    for part in [*named, "adapter_config.json" if beside else "lora_adapter_metadata"]:
        assert part in message


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"lora_alpha": 4}, ["lora_alpha", " 8 in ", " 4 in "]),
        ({"alpha_pattern": {"ff.up": 1}}, ["lora_alpha", "ff.up", " 8 in ", " 1 in "]),
        ({"use_rslora": True}, ["use_rslora", "False in ", "True in "]),
        ({"r": 3}, ["rank", " 3,", "have 2"]),
    ],
)
def test_configurations_that_contradict_each_other_are_refused(
    tmp_path: Path, fields: dict[str, object], named: list[str]
) -> None:
    message = refused(tmp_path, config=config(use_rslora=False), metadata=packed(**fields))
    for part in [*named, "lora_adapter_metadata"]:
        assert part in message


def test_metadata_of_foreign_components_alone_is_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, metadata={"unet.r": 2, "unet.lora_alpha": 8})
    assert "speaks of unet" in message
    assert "want transformer or text_encoder" in message


def test_metadata_that_is_no_object_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "x.safetensors"
    save_file(factors(), path, {"lora_adapter_metadata": "[1"})
    with pytest.raises(AdapterConfigError, match="lora_adapter_metadata"):
        survey(path, NAMES)


@pytest.mark.parametrize("alpha", [0, math.nan, math.inf, True, "4"])
def test_an_alpha_of_the_caller_that_is_no_number_is_refused(tmp_path: Path, alpha: Any) -> None:
    with pytest.raises(AdapterConfigError, match=f"is {alpha!r}, want a finite number"):
        survey(write(tmp_path, factors()), NAMES, alpha=alpha)


def test_an_alpha_of_the_caller_stands_in_for_a_forgotten_one(tmp_path: Path) -> None:
    path = write(tmp_path, factors(), config={"r": 2})
    with pytest.raises(AdapterConfigError, match="lora_alpha is absent"):
        survey(path, NAMES)
    assert set(scales(survey(path, NAMES, alpha=1)).values()) == {0.5}
