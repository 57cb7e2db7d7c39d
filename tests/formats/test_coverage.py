from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch

from loraloom.errors import AdapterCoverageError, AdapterFileError
from loraloom.formats.names import NameTable
from loraloom.formats.read import READERS, survey
from loraloom.formats.source import source_of

from .files import NAMES, SITES, factors, write

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

FIRST = "blocks.0.attn.to_q"
A, B = f"{FIRST}.lora_A.weight", f"{FIRST}.lora_B.weight"
ALL = len(SITES)


def renamed(tensors: Mapping[str, Tensor], *changes: tuple[str, str]) -> dict[str, Tensor]:
    names = {}
    for key in tensors:
        new = key
        for old, fresh in changes:
            new = new.replace(old, fresh)
        names[key] = new
    return {names[key]: tensor for key, tensor in tensors.items()}


OLD = (("lora_A.weight", "lora.down.weight"), ("lora_B.weight", "lora.up.weight"))
LINEAR = tuple((a, b.replace("lora.", "lora_linear_layer.")) for a, b in OLD)
PROCESSOR = (
    *((a, b.replace("lora.", "lora_layer.")) for a, b in OLD),
    (".attn.to_q.lora_layer", ".attn.processor.to_q_lora"),
    (".attn.to_out.0.lora_layer", ".attn.processor.to_out_lora"),
    (".lora_layer.", ".lora."),
)
SLOT = (("lora_A.", "lora_A.default."), ("lora_B.", "lora_B.default."))

FILES = {
    "peft": factors("base_model.model."),
    "peft after a component": factors("transformer.base_model.model."),
    "peft training state": renamed(factors("base_model.model."), *SLOT),
    "slots without prefix": renamed(factors(), *SLOT),
    "diffusers": factors("transformer."),
    "diffusers bare": factors(),
    "diffusers down/up": renamed(factors("transformer."), *OLD),
    "diffusers linear layer": renamed(factors("transformer."), *LINEAR),
    "diffusers processors": renamed(factors("transformer."), *PROCESSOR),
}


@pytest.mark.parametrize("name", FILES)
def test_every_spelling_is_claimed_by_one_reader_and_lands_whole(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, FILES[name])
    assert sum(reader.claims(source_of(path)) for reader in READERS) == 1
    reading = survey(path, NAMES)
    assert {entry.place.site for entry in reading.entries} == set(SITES)
    assert (reading.sites, reading.of, reading.keys) == (ALL, ALL + 1, 2 * ALL)
    assert not reading.problems
    assert reading.format == ("peft" if "peft" in name or "slots" in name else "diffusers")
    used = {key for entry in reading.entries for key in (entry.down_key, entry.up_key)}
    assert used == set(FILES[name])


@pytest.mark.parametrize("first", [True, False])
def test_one_key_that_only_peft_writes_decides_wherever_it_stands(
    tmp_path: Path, first: bool
) -> None:
    text = NAMES.components["text_encoder"]
    marked = factors("text_encoder.base_model.model.", sites=text)
    plain = factors("transformer.")
    path = write(tmp_path, {**marked, **plain} if first else {**plain, **marked})
    assert survey(path, NAMES).format == "peft"
    assert survey(path, NAMES).sites == ALL + 1


def test_a_configuration_beside_plain_keys_makes_them_peft(tmp_path: Path) -> None:
    path = write(tmp_path, factors(), config={"r": 2, "lora_alpha": 2})
    assert survey(path, NAMES).format == "peft"


def test_alphas_are_keys_of_their_layer_in_every_spelling(tmp_path: Path) -> None:
    alpha = torch.tensor(1.0)
    for base, key in (
        ("peft", f"base_model.model.{FIRST}.alpha"),
        ("diffusers down/up", f"transformer.{FIRST}.alpha"),
        ("diffusers down/up", f"transformer.{FIRST}.lora.alpha"),
        ("diffusers processors", "transformer.blocks.0.attn.processor.to_q_lora.alpha"),
    ):
        reading = survey(write(tmp_path, {**FILES[base], key: alpha}), NAMES)
        assert [e.scale for e in reading.entries if e.place.site == FIRST] == [0.5]


def refused(path: Path, *named: str, partial: int | None) -> None:
    """``path`` is refused with these words; ``allow_partial`` loads ``partial`` layers, or none."""
    with pytest.raises(AdapterCoverageError) as caught:
        survey(path, NAMES)
    message = str(caught.value)
    total = len(source_of(path).header.tensors)
    for part in (
        *named,
        str(path),
        f"of {total} keys used",
        "allow_partial",
        repr(f"transformer.{FIRST}"),
    ):
        assert part in message
    if partial is None:
        with pytest.raises(AdapterCoverageError, match="nothing matched"):
            survey(path, NAMES, allow_partial=True)
        return
    reading = survey(path, NAMES, allow_partial=True)
    assert reading.sites == partial
    assert {problem.key for problem in reading.problems}
    listed = json.loads(json.dumps(reading.as_dict()))
    assert len(listed["problems"]) == len(reading.problems)
    assert all(problem.reason in reading.summary() for problem in reading.problems)


def test_a_wrong_prefix_is_refused_with_the_names_that_were_meant(tmp_path: Path) -> None:
    path = write(tmp_path, factors("diffusion_model."))
    refused(
        path,
        f"0 of {2 * ALL} keys used, 0 of {ALL + 1} layers matched",
        f"no layer of this name: {2 * ALL} keys",
        f"'diffusion_model.{A}' (near are 'transformer.{FIRST}'",
        f"and {2 * ALL - 3} more",
        "'transformer.', 'text_encoder.', 'base_model.model.' or nothing",
        partial=None,
    )


def test_a_file_half_of_whose_keys_are_unknown_is_refused_with_both_counts(tmp_path: Path) -> None:
    tensors = renamed(factors("transformer."), ("blocks.1", "layers.1"))
    refused(
        write(tmp_path, tensors),
        f"{ALL} of {2 * ALL} keys used, {ALL // 2} of {ALL + 1} layers",
        f"no layer of this name: {ALL} keys",
        "'transformer.layers.1.attn.to_q.lora_A.weight' (near are 'transformer.blocks.1.attn.to_q'",
        partial=ALL // 2,
    )


@pytest.mark.parametrize(
    ("lost", "left", "words"),
    [
        (B, A, "down factor (A) without up factor (B): 1 key"),
        (A, B, "up factor (B) without down factor (A): 1 key"),
    ],
)
def test_half_a_pair_is_refused(tmp_path: Path, lost: str, left: str, words: str) -> None:
    tensors = factors()
    del tensors[lost]
    refused(write(tmp_path, tensors), words, repr(left), partial=ALL - 1)


def test_an_alpha_without_factors_is_refused(tmp_path: Path) -> None:
    tensors = {**factors(), f"{FIRST}.alpha": torch.tensor(1.0)}
    del tensors[A], tensors[B]
    path = write(tmp_path, tensors)
    refused(path, "alpha without factors: 1 key", f"'{FIRST}.alpha'", partial=ALL - 1)


@pytest.mark.parametrize(
    ("key", "shape", "words"),
    [
        (B, (7, 2), "up is 7x2 and down 2x8, the layer 'transformer.blocks.0.attn.to_q' is 8x8"),
        (A, (2, 9), "up is 8x2 and down 2x9, the layer"),
        (A, (3, 8), "up is 8x2 and down 3x8, the layer"),
    ],
)
def test_factors_that_do_not_fit_are_refused_with_both_shapes(
    tmp_path: Path, key: str, shape: tuple[int, int], words: str
) -> None:
    path = write(tmp_path, {**factors(), key: torch.ones(shape)})
    refused(path, "does not fit its layer: 2 keys", repr(key), words, partial=ALL - 1)


def test_factors_of_rank_zero_are_refused(tmp_path: Path) -> None:
    tensors = {**factors(), A: torch.ones(0, 8), B: torch.ones(8, 0)}
    refused(write(tmp_path, tensors), "up is 8x0 and down 0x8", partial=ALL - 1)


def test_factors_that_are_no_matrices_or_no_floats_are_refused(tmp_path: Path) -> None:
    conv = {**factors(), A: torch.ones(2, 8, 1, 1), B: torch.ones(8, 2, 1, 1)}
    refused(write(tmp_path, conv), "up is 8x2x1x1 and down 2x8x1x1", partial=ALL - 1)
    flat = {**factors(), A: torch.ones(16)}
    refused(write(tmp_path, flat), "no matrices", "[16]", partial=ALL - 1)
    whole = {**factors(), A: torch.ones(2, 8, dtype=torch.int8)}
    refused(write(tmp_path, whole), "float", "I8", partial=ALL - 1)


def test_one_layer_spelled_twice_is_refused_and_neither_counts(tmp_path: Path) -> None:
    again = factors("transformer.", sites={FIRST: (8, 8)})
    refused(
        write(tmp_path, {**factors(), **again}),
        "several adapters for one layer: 4 keys",
        f"'transformer.{FIRST}' is spelled in 2 ways",
        partial=ALL - 1,
    )
    slots = {**factors(), A.replace(".weight", ".x.weight"): torch.ones(2, 8)}
    refused(write(tmp_path, slots), "several adapters for one layer: 3 keys", partial=ALL - 1)
    both = {**factors(), f"{FIRST}.lora.down.weight": torch.ones(2, 8)}
    refused(write(tmp_path, both), "several adapters for one layer: 3 keys", partial=ALL - 1)
    alphas = {f"{FIRST}{joint}.alpha": torch.tensor(2.0) for joint in ("", ".lora")}
    path = write(tmp_path, {**factors(), **alphas})
    refused(path, "several adapters for one layer: 4 keys", partial=ALL - 1)
    slots = renamed(factors(), (f"{FIRST}.lora_A", f"{FIRST}.lora_A.x"))
    refused(write(tmp_path, slots), "several adapters for one layer: 2 keys", partial=ALL - 1)


@pytest.mark.parametrize("suffix", ["alpha", "dora_scale", "lora_A.weight"])
def test_a_layer_of_which_another_spelling_says_more_is_refused(
    tmp_path: Path, suffix: str
) -> None:
    stray = {f"base_model.model.{FIRST}.{suffix}": torch.ones(1)}
    path = write(tmp_path, {**factors("transformer."), **stray})
    refused(path, f"'transformer.{FIRST}' is spelled in 2 ways", partial=ALL - 1)


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        ("dora_scale", "DoRA"),
        ("lora_magnitude_vector", "DoRA"),
        ("lora_magnitude_vector.default.weight", "DoRA"),
        ("lora_B.bias", "LoRA bias"),
        ("lora_mid.weight", "Tucker LoCon"),
        ("lokr_w1", "LoKr"),
        ("hada_w1_a", "LoHa"),
        ("diff_b", "full difference"),
        ("oft_blocks", "OFT"),
    ],
)
@pytest.mark.parametrize("prefix", ["transformer.", "base_model.model."])
def test_a_layer_with_an_unsupported_key_is_refused_as_a_whole(
    tmp_path: Path, suffix: str, kind: str, prefix: str
) -> None:
    key = f"{prefix}{FIRST}.{suffix}"
    refused(
        write(tmp_path, {**factors(prefix), key: torch.ones(8)}),
        f"not supported yet: {kind}: 1 key: '{key}'",
        f"on a layer with a key that is not supported yet: {kind}: 2 keys",
        partial=ALL - 1,
    )


def test_a_layer_with_a_key_of_unknown_meaning_is_refused_as_a_whole(tmp_path: Path) -> None:
    path = write(tmp_path, {**factors(), f"{FIRST}.gate.strength": torch.ones(1)})
    refused(path, "neither factor nor alpha: 1 key", f"{FIRST}.gate.strength", partial=ALL - 1)
    path = write(tmp_path, {**factors(), "embeddings": torch.ones(1)})
    refused(path, "neither factor nor alpha: 1 key: 'embeddings'", partial=ALL)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (f"lora_unet_{FIRST.replace('.', '_')}.lora_down.weight", "kohya's spelling"),
        (f"transformer.{FIRST}.lokr_w1", "LoKr"),
        (f"transformer.{FIRST}.weight", "neither factor nor alpha"),
        (f"transformer.{FIRST}.alpha", "neither factor nor alpha"),
    ],
)
def test_a_file_that_no_reader_claims_is_refused_by_what_it_is(
    tmp_path: Path, key: str, words: str
) -> None:
    path = write(tmp_path, {key: torch.ones(8, 8)})
    assert not any(reader.claims(source_of(path)) for reader in READERS)
    refused(path, "no known format", words, repr(key), partial=None)


def test_a_mixture_of_formats_is_refused_by_its_keys(tmp_path: Path) -> None:
    half = {site: shape for site, shape in SITES.items() if "blocks.1" in site}
    rest = {site: shape for site, shape in SITES.items() if "blocks.0" in site}
    mixed = {**factors("base_model.model.", sites=half), **renamed(factors(sites=rest), *OLD)}
    refused(write(tmp_path, mixed), "neither factor nor alpha: 6 keys", partial=3)


def test_a_file_without_tensors_is_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(AdapterFileError, match="holds no tensors"):
        survey(write(tmp_path, {}), NAMES, allow_partial=True)


def test_a_reading_says_what_it_read(tmp_path: Path) -> None:
    path = write(
        tmp_path, factors(), config={"r": 2, "lora_alpha": 1, "base_model_name_or_path": "b"}
    )
    reading = survey(path, NAMES)
    assert reading.about == {"base_model_name_or_path": "b"}
    (tmp_path / "adapter_config.json").unlink()
    said = {"r": 2, "lora_alpha": 2}
    assert survey(write(tmp_path, factors(), metadata=said), NAMES).about == {}
    assert "12 of 12 keys used, 6 of 7 layers matched" in reading.summary()
    assert "rank 2, scale 0.5" in reading.summary()
    listed = json.loads(json.dumps(reading.as_dict()))
    assert listed["sites"] == 6
    assert listed["entries"][0]["place"] == {
        "component": "transformer",
        "site": "blocks.0.attn.to_out.0",
    }


def test_the_model_and_not_the_format_names_the_layers(tmp_path: Path) -> None:
    names = NameTable({"unet": {FIRST: (8, 8)}}, default="unet")
    reading = survey(write(tmp_path, factors("unet.", sites={FIRST: (8, 8)})), names)
    assert [str(entry.place) for entry in reading.entries] == [f"unet.{FIRST}"]


def test_a_survey_leaves_torch_out(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {**factors(), f"{FIRST}.alpha": torch.tensor(1.0, dtype=torch.bfloat16)},
        config={"r": 2, "lora_alpha": 2},
    )
    code = f"""
import sys
sys.path[:] = {sys.path!r}
from loraloom.formats.names import NameTable
from loraloom.formats.read import survey
reading = survey({str(path)!r}, NameTable({{"transformer": {SITES!r}}}, "transformer"))
assert reading.sites == {ALL} and reading.summary() and reading.as_dict()
loaded = {{"torch", "numpy", "safetensors", "diffusers", "peft"}} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
