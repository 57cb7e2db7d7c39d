"""The recipes of the released models on small ones of their classes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image

from loraloom import Canvas, Condition, Loom, Lora, Request, Sampling
from loraloom.errors import InvalidStageError
from loraloom.models.ltx2.family import pipelines

from . import tiny

if TYPE_CHECKING:
    from loraloom.core.stage import Stages

NAMES = ("one-stage", "two-stage", "two-stage-hq", "distilled")
FIRST = Condition(Image.linear_gradient("L").convert("RGB"), 0)


@pytest.fixture(scope="module", params=["2.0", "2.3"])
def loom(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loom:
    return Loom.load(str(tiny.folder(request.param, tmp_path_factory.mktemp("pipelines"))))


def stages(loom: Loom, name: str) -> Stages:
    """A recipe that skips attention in a block that the small model has."""
    return tuple(
        replace(stage, guidance=replace(stage.guidance, blocks=(1,)))
        for stage in loom.card.defaults.pipeline(name)
    )


def request(loom: Loom, name: str) -> Request:
    spaced = name != "distilled"
    return Request(
        "a red circle",
        3,
        canvas=Canvas(64, 64, 9, 16.0),
        stages=stages(loom, name),
        sampling=Sampling(3) if spaced else None,
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_gives_each_row_of_a_batch_what_it_gives_it_alone(name: str, loom: Loom) -> None:
    asked = request(loom, name)
    rows = [asked, replace(asked, seed=4, prompt="a star", loras=(Lora("style", 0.7),))]
    for one, together in zip(rows, loom.streams(rows), strict=True):
        alone = loom.streams([one])[0]
        assert set(alone) == {"video", "audio"}
        for modality, latent in alone.items():
            assert torch.isfinite(latent).all()
            assert float((together[modality] - latent).abs().max()) <= 1e-4
    other = loom.streams([replace(asked, loras=(Lora("distilled", 0.0),))])[0]["video"]
    worn = any(stage.wears for stage in asked.stages or ())
    changed = float((other - loom.streams([asked])[0]["video"]).abs().max()) > 1e-2
    assert changed == worn


@pytest.mark.parametrize("name", NAMES)
def test_a_first_image_stays_what_it_is_in_every_solver(name: str, loom: Loom) -> None:
    asked = replace(request(loom, name), conditions=(FIRST,))
    made = loom.streams([asked])[0]["video"][:, 0]
    other = loom.streams([replace(asked, seed=9)])[0]["video"][:, 0]
    assert torch.equal(made, other)


def test_the_versions_are_told_apart_by_their_configuration(loom: Loom) -> None:
    newer = bool(loom.card.config["cross_attn_mod"])
    base = pipelines(loom.card.config)["one-stage"][0]
    assert base.sigmas is not None
    assert base.sigmas.tokens == ("most" if newer else "own")
    assert base.guidance.blocks == ((28,) if newer else ())
    assert ("perturbed" in base.guidance.passes) == newer


def test_a_block_that_the_model_lacks_is_refused(loom: Loom) -> None:
    asked = replace(request(loom, "one-stage"), stages=loom.card.defaults.pipeline("one-stage"))
    if loom.card.config["perturbed_attn"]:
        with pytest.raises(InvalidStageError, match=r"block 28, model .* has blocks 0 to 2"):
            loom.latents([asked])
    else:
        loom.latents([asked])
