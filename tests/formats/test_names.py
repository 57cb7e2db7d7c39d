from __future__ import annotations

import time

import pytest

from loraloom.formats.names import NameTable, Place, Rename, renamed

from .files import NAMES

TO_Q = Place("transformer", "blocks.0.attn.to_q")


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("blocks.0.attn.to_q", TO_Q),
        ("transformer.blocks.0.attn.to_q", TO_Q),
        ("base_model.model.blocks.0.attn.to_q", TO_Q),
        ("transformer.base_model.model.blocks.0.attn.to_q", TO_Q),
        ("text_encoder.layers.0.q_proj", Place("text_encoder", "layers.0.q_proj")),
        ("text_encoder.base_model.model.layers.0.q_proj", Place("text_encoder", "layers.0.q_proj")),
        ("layers.0.q_proj", None),  # without a prefix it would be the default component's
        ("base_model.model.transformer.blocks.0.attn.to_q", None),
        ("text_encoder.blocks.0.attn.to_q", None),
        ("diffusion_model.blocks.0.attn.to_q", None),
        ("transformer_2.blocks.0.attn.to_q", None),
        ("blocks.0.attn", None),
        ("xblocks.0.attn.to_q", None),
        ("transformer", None),
        ("", None),
    ],
)
def test_a_path_means_one_layer_or_none(path: str, place: Place | None) -> None:
    assert NAMES.locate(path) == place


def test_a_site_may_begin_like_a_component() -> None:
    names = NameTable({"model": {"model.layers.0.q": (2, 2), "lm_head": (2, 2)}}, default="model")
    for path in ("model.layers.0.q", "model.model.layers.0.q", "base_model.model.model.layers.0.q"):
        assert names.locate(path) == Place("model", "model.layers.0.q")


def test_a_table_in_which_one_path_means_two_layers_is_no_table() -> None:
    with pytest.raises(AssertionError, match=r"a\.x"):
        NameTable({"a": {"x": (1, 1), "a.x": (1, 1)}}, default="a")


@pytest.mark.parametrize(
    "path",
    [
        "diffusion_model.blocks.0.attn.to_q",
        "lora_unet_blocks_0_attn_to_q",
        "transformer.blocks.0.atn.to_q",
        "transformer.base_model.model.blocks.0.attn.to_qq",
    ],
)
def test_near_misses_are_found_and_spelled_with_their_component(path: str) -> None:
    assert NAMES.near(path)[0] == "transformer.blocks.0.attn.to_q"
    assert len(NAMES.near(path)) <= 3


def test_nothing_is_near_to_what_resembles_nothing() -> None:
    assert NAMES.near("zzz") == ()


def test_thousands_of_layers_take_no_seconds() -> None:
    sites = {f"blocks.{i}.attn.to_{c}": (2, 2) for i in range(300) for c in "qkvoz"}
    names = NameTable({"transformer": sites}, default="transformer")
    start = time.perf_counter()
    assert all(names.locate(f"transformer.base_model.model.{site}") for site in sites)
    assert names.near("diffusion_model.blocks.7.attn.to_q")[0] == "transformer.blocks.7.attn.to_q"
    assert time.perf_counter() - start < 2  # comparing every name letter by letter takes minutes


FOREIGN = NameTable(
    {"transformer": {"blocks.0.to_q": (2, 2), "q": (2, 2)}, "text": {"proj": (2, 2)}},
    default="transformer",
    foreign=(
        Rename(r"^net\.", ""),
        Rename(r"^layers\.(\d+)", r"blocks.\1"),
        Rename(r"^embedding$", "text.proj"),
        Rename(r"^q$", "blocks.0.to_q"),
    ),
)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("net.layers.0.to_q", Place("transformer", "blocks.0.to_q")),
        ("layers.0.to_q", Place("transformer", "blocks.0.to_q")),
        ("net.blocks.0.to_q", Place("transformer", "blocks.0.to_q")),
        ("net.embedding", Place("text", "proj")),
        ("q", Place("transformer", "q")),  # a name as it stands comes before a translation
        ("net.layers.1.to_q", None),
        ("text.embedding", None),
        ("net.", None),
    ],
)
def test_a_foreign_name_means_the_layer_that_the_rules_lead_to(
    path: str, place: Place | None
) -> None:
    assert FOREIGN.locate(path) == place


def test_rules_follow_one_another() -> None:
    assert renamed("net.layers.3.x", FOREIGN.foreign) == "blocks.3.x"
    assert renamed("other", FOREIGN.foreign) == "other"


def test_near_misses_of_a_foreign_name_are_those_of_its_translation() -> None:
    assert FOREIGN.near("net.layers.0.to_p")[0] == "transformer.blocks.0.to_q"
