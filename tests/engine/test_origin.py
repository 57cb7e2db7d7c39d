"""A picture made of another one: what is redrawn grows with the share that is asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image, ImageDraw

from loraloom import Canvas, Condition, Lora, Request, Sampling
from loraloom.core.request import Origin
from loraloom.core.stage import Sigmas, going_on
from loraloom.engine.job import completed
from loraloom.errors import InvalidRequestError
from loraloom.pipelines.media import asked_of
from tests.flux import tiny as flux
from tests.wan import tiny as wan

if TYPE_CHECKING:
    from pathlib import Path

    from loraloom import Loom


def drawn(colour: str, side: int = 64) -> Image.Image:
    picture = Image.new("RGB", (side, side), "blue")
    ImageDraw.Draw(picture).ellipse((side // 4, side // 4, 3 * side // 4, 3 * side // 4), colour)
    return picture


ASKED = Request(
    "a large green circle on a blue background",
    seed=3,
    canvas=Canvas(64, 64),
    sampling=Sampling(steps=6),
    origin=Origin(drawn("red"), 0.5),
)


def test_the_less_is_redrawn_the_nearer_is_the_picture(loom: Loom) -> None:
    given = loom.denoiser.originals([drawn("red")], Canvas(64, 64))["video"][0]
    shares = (0.15, 0.5, 0.8, 1.0)
    made = loom.latents([replace(ASKED, origin=Origin(drawn("red"), r)) for r in shares])
    apart = [float((each - given).square().mean()) for each in made]
    assert apart == sorted(apart)
    assert apart[0] < apart[-1] / 4


def test_where_all_is_redrawn_nothing_of_the_picture_shows(loom: Loom) -> None:
    whole, other = (replace(ASKED, origin=Origin(drawn(c), 1.0)) for c in ("red", "white"))
    stages = completed(whole, loom.card).stages
    bare = replace(ASKED, origin=None, sampling=None, stages=stages, audio=False)
    one, two, none = (loom.latents([each])[0] for each in (whole, other, bare))
    assert torch.equal(one, two)
    assert torch.equal(one, none)


def test_pictures_of_a_batch_have_origins_and_adapters_of_their_own(loom: Loom) -> None:
    batch = [
        replace(ASKED, loras=(Lora("neon"),)),
        replace(ASKED, origin=Origin(drawn("white", 97), 0.5), seed=9),
        replace(ASKED, origin=None),
        replace(ASKED, origin=Origin(drawn("red"), 0.3)),
    ]
    together = loom.latents(batch)
    for request, made in zip(batch, together, strict=True):
        torch.testing.assert_close(made, loom.latents([request])[0], rtol=0, atol=1e-4)


def test_two_stages_go_on_from_it_too(loom: Loom) -> None:
    stages = loom.card.defaults.pipeline("two-stage")
    two = replace(ASKED, stages=stages, canvas=Canvas(128, 128))
    complete = completed(two, loom.card)
    assert complete.stages
    assert complete.stages[0].sigmas == Sigmas(6, (0.5, 0.5 * 2 / 3, 0.5 / 3))
    assert complete.stages[1] == stages[1]
    assert not complete.audio
    assert loom.images([two])[0].frames[0].size == (128, 128)


def test_given_levels_remain_as_far_as_they_are_lower(loom: Loom) -> None:
    stage = loom.card.defaults.usual[0]
    few = (replace(stage, sigmas=Sigmas(given=(1.0, 0.7, 0.4, 0.1))),)
    first = going_on(few, 0.5)[0].sigmas
    assert first
    assert first.given == (0.5, 0.4, 0.1)
    assert going_on(going_on(few, 0.5), 0.5) == going_on(few, 0.5)
    least = going_on((replace(stage, sigmas=Sigmas(4)),), 0.01)[0].sigmas
    assert least
    assert least.given == (0.01,)


def test_the_provenance_says_what_a_picture_was_made_of(loom: Loom) -> None:
    white = replace(ASKED, origin=Origin(drawn("white"), 0.5))
    one, other = (asked_of(completed(each, loom.card)).origin for each in (ASKED, white))
    assert one
    assert other
    assert one.redrawn == other.redrawn == 0.5
    assert one.digest != other.digest


@pytest.mark.parametrize("redrawn", [0.0, -1.0, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(redrawn: float, loom: Loom) -> None:
    with pytest.raises(InvalidRequestError, match="redrawn"):
        loom.images([replace(ASKED, origin=Origin(drawn("red"), redrawn))])


def test_a_video_or_other_images_beside_it_are_refused(loom: Loom) -> None:
    with pytest.raises(InvalidRequestError, match="17 frames are asked for, want 1"):
        loom.videos([replace(ASKED, canvas=Canvas(64, 64, 17, 16.0))])
    with pytest.raises(InvalidRequestError, match="others to show"):
        loom.images([replace(ASKED, conditions=(Condition(drawn("red")),))])


def test_flux_makes_pictures_of_pictures_and_wan_says_that_it_cannot(tmp_path: Path) -> None:
    from loraloom import Loom

    ours = Loom.load(str(flux.folder(tmp_path / "flux", guided=True)))
    side = 4 * ours.card.grid.pixels
    asked = replace(ASKED, canvas=Canvas(side, side), sampling=Sampling(steps=4))
    given = ours.denoiser.originals([drawn("red")], Canvas(side, side))["video"][0]
    near, far = ours.latents([replace(asked, origin=Origin(drawn("red"), r)) for r in (0.1, 1.0)])
    assert float((near - given).square().mean()) < float((far - given).square().mean()) / 4
    theirs = Loom.load(str(wan.folder(tmp_path / "wan")))
    with pytest.raises(InvalidRequestError, match="cannot"):
        theirs.images([replace(ASKED, canvas=Canvas(32, 32))])
