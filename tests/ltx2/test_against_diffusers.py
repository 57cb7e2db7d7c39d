"""The stages give what diffusers' own LTX-2 pipelines give, one call after the other."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image

from loraloom import Canvas, Condition, Loom, Lora, Request
from loraloom.core.stage import Guidance, Guides, Sigmas, Stage
from loraloom.models.ltx2.family import FEW

from . import theirs, tiny

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from loraloom.core.request import Policy
    from loraloom.core.stage import Modality, Stages

WITHIN = 1e-4
CANVAS = Canvas(128, 64, 17, 16.0)
PROMPT, NEGATIVE, SEED, STEPS = "a small red circle moving right", "a blue star", 5, 4
VIDEO = Guides(3.0, 1.0, 3.0, 0.7)
GUIDED = Guidance(VIDEO, replace(VIDEO, cfg=7.0), blocks=(1,))
BASE = Stage("base", Sigmas(STEPS), guidance=GUIDED)
TWO = (replace(BASE, size=0.5), Stage("refine", Sigmas(given=FEW[-3:])))

MIXES: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "nothing": ({}, {}),
    "distilled": ({}, {"distilled": 1.0}),
    "distilled and styles": (
        {"style": 0.8, "style2": -0.5},
        {"style": 0.4, "style2": -0.5, "distilled": 1.0},
    ),
}
"""What both stages wear."""


def picture(seed: int) -> Image.Image:
    """Noise in large squares, so that its place in the frame shows; of another shape than it."""
    noise = torch.randint(0, 255, (5, 9, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(noise.to(torch.uint8).numpy()).resize(
        (150, 90), Image.Resampling.BICUBIC
    )


IMAGES: dict[str, tuple[Condition, ...]] = {
    "no image": (),
    "first": (Condition(picture(1), 0),),
    "first and last": (Condition(picture(1), 0), Condition(picture(2), -1)),
    "first, middle and last": (
        Condition(picture(1), 0, 0.6),
        Condition(picture(2), 8, 0.5),
        Condition(picture(3), -1, 0.9),
    ),
}


@pytest.fixture(scope="module", params=["2.0", "2.0-interleaved", "2.3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(request.param, tmp_path_factory.mktemp("ltx2"))


@pytest.fixture(scope="module")
def ours(folder: Path) -> Loom:
    return Loom.load(str(folder))


@pytest.fixture(scope="module")
def peer(folder: Path) -> theirs.Peer:
    return theirs.peer(folder, use_cross_timestep="2.3" in folder.name)


def asked(ours: Loom, images: tuple[Condition, ...] = ()) -> theirs.Asked:
    place = ours.card.grid.latent
    return theirs.Asked(
        PROMPT,
        CANVAS,
        seed=SEED,
        negative_prompt=NEGATIVE,
        steps=STEPS,
        guidance=theirs.GUIDED,
        images=tuple(
            theirs.Shown(each.image, place(each.frame % CANVAS.frames), each.strength)
            for each in images
        ),
    )


def request(stages: Stages, first: dict[str, float], second: dict[str, float]) -> Request:
    names = sorted({*first, *second})
    by_stage = (first, second)[: len(stages)]
    return Request(
        PROMPT,
        SEED,
        tuple(Lora(name, stages=tuple(mix.get(name, 0.0) for mix in by_stage)) for name in names),
        negative_prompt=NEGATIVE,
        canvas=CANVAS,
        stages=stages,
    )


def latents(
    loom: Loom, request: Request, policy: Policy = "live"
) -> Mapping[Modality, torch.Tensor]:
    return loom.streams([tiny.fitting(loom, request)], policy=policy)[0]


def assert_near(got: Mapping[Modality, torch.Tensor], want: theirs.Latents) -> None:
    assert float((got["video"] - want.video[0]).abs().max()) <= WITHIN
    assert float((got["audio"] - want.audio[0]).abs().max()) <= WITHIN


@pytest.mark.parametrize("policy", ["live", "fused"])
@pytest.mark.parametrize("mix", MIXES)
def test_two_stages_are_those_of_diffusers(
    mix: str, policy: Policy, ours: Loom, peer: theirs.Peer
) -> None:
    first, second = MIXES[mix]
    want = theirs.two_stage(peer, asked(ours), first, second)
    assert_near(latents(ours, request(TWO, first, second), policy), want)


@pytest.mark.parametrize("images", [name for name in IMAGES if name != "no image"])
def test_images_are_shown_in_both_stages(images: str, ours: Loom, peer: theirs.Peer) -> None:
    first, second = MIXES["distilled and styles"]
    want = theirs.two_stage(peer, asked(ours, IMAGES[images]), first, second)
    made = replace(request(TWO, first, second), conditions=IMAGES[images])
    assert_near(latents(ours, made), want)


@pytest.mark.parametrize("images", IMAGES)
def test_one_stage_is_that_of_diffusers(images: str, ours: Loom, peer: theirs.Peer) -> None:
    worn = {"distilled": 1.0, "style": 0.7}
    want = theirs.one_stage(peer, asked(ours, IMAGES[images]), worn)
    made = replace(request((BASE,), worn, {}), conditions=IMAGES[images])
    assert_near(latents(ours, made), want)


def test_without_sound_the_video_is_one_that_sees_none(ours: Loom, peer: theirs.Peer) -> None:
    first, second = MIXES["distilled and styles"]
    alone = replace(asked(ours), guidance=theirs.PROMPTED)
    stages = (replace(TWO[0], guidance=Guidance(Guides(3.0), Guides(3.0))), TWO[1])
    with theirs.without_audio(peer.pipe):
        want = theirs.two_stage(peer, alone, first, second)
    got = latents(ours, replace(request(stages, first, second), audio=False))
    assert set(got) == {"video"}
    assert float((got["video"] - want.video[0]).abs().max()) <= WITHIN


def test_a_batch_of_all_kinds_is_every_request_alone(ours: Loom) -> None:
    requests = [
        replace(
            request(TWO, *MIXES[mix]), seed=seed, conditions=IMAGES[images], prompt=f"a {seed} star"
        )
        for seed, (mix, images) in enumerate(
            [
                ("nothing", "first and last"),
                ("distilled", "no image"),
                ("distilled and styles", "first"),
                ("distilled and styles", "first, middle and last"),
            ]
        )
    ]
    together = ours.streams([tiny.fitting(ours, each) for each in requests])
    for one, row in zip(requests, together, strict=True):
        alone = latents(ours, one)
        for name, want in alone.items():
            assert float((row[name] - want).abs().max()) <= WITHIN
