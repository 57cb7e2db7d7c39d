"""Videos to look at, and clips to go on from, are shown as diffusers shows them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image

from loraloom import Canvas, Condition, Loom, Lora, Request
from loraloom.core.request import Reference
from loraloom.core.stage import Guidance, Guides, Sigmas, Stage
from loraloom.engine.job import admit
from loraloom.errors import InvalidRequestError, InvalidStageError
from loraloom.models.ltx2.family import DISTILLED, FEW, REFINE

from . import theirs, tiny

if TYPE_CHECKING:
    from pathlib import Path

    from loraloom.core.stage import Modality

WITHIN = 1e-4
VISIBLE = 1e-2
CANVAS = Canvas(128, 64, 17, 16.0)
PROMPT, NEGATIVE, SEED, STEPS = "a small red circle moving right", "a blue star", 5, 3
VIDEO = Guides(3.0, 1.0, 3.0, 0.7)
GUIDED = Guidance(VIDEO, replace(VIDEO, cfg=7.0), blocks=(1,))
BASE = Stage("base", Sigmas(STEPS), guidance=GUIDED, references=True)
TWO = (replace(BASE, size=0.5), Stage("refine", Sigmas(given=FEW[-3:])))
WORN = {"style": 0.8, "distilled": 0.6}


def picture(seed: int) -> Image.Image:
    """Noise in large squares, so that its place in the frame shows; of another shape than it."""
    noise = torch.randint(0, 255, (5, 9, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(noise.to(torch.uint8).numpy()).resize(
        (150, 90), Image.Resampling.BICUBIC
    )


def video(seed: int, count: int) -> tuple[Image.Image, ...]:
    return tuple(picture(100 * seed + frame) for frame in range(count))


LONG = Reference(video(1, 17))
SHORT = Reference(video(2, 9), 0.7)
IMAGES = (Condition(picture(1), 0), Condition(picture(2), -1, 0.9))


@dataclass(frozen=True, slots=True)
class Case:
    """What is shown beside the prompt, and what is worn."""

    references: tuple[Reference, ...]
    images: tuple[Condition, ...] = ()
    worn: bool = False


def clip(seed: int, count: int, frame: int, strength: float = 1.0) -> Condition:
    first, *more = video(seed, count)
    return Condition(first, frame, strength, tuple(more))


def weaker(*references: Reference, attention: float) -> tuple[Reference, ...]:
    return tuple(replace(each, attention=attention) for each in references)


CASES = {
    "one": Case((LONG,)),
    "one that is not clean": Case((replace(LONG, strength=0.4),)),
    "two of two lengths": Case((SHORT, LONG)),
    "one picture": Case((Reference(video(3, 1)),)),
    "more frames than the video": Case((Reference(video(4, 25)),)),
    "half the size": Case((replace(LONG, downscale=2),)),
    "half attended to": Case(weaker(LONG, attention=0.5)),
    "with images": Case((LONG,), IMAGES),
    "with images, half attended to": Case(weaker(SHORT, LONG, attention=0.5), IMAGES),
    "almost fully attended to": Case(weaker(LONG, SHORT, attention=0.9999), IMAGES),
    "with adapters": Case((LONG, SHORT), IMAGES, worn=True),
    "a clip to go on from": Case((), (clip(5, 9, 0),)),
    "a clip of frames that are not whole latent ones": Case((), (clip(5, 10, 0, 0.8),)),
    "a clip at the end": Case((), (IMAGES[0], clip(5, 9, 8, 0.9))),
    "a clip and a reference": Case((LONG,), (clip(5, 9, 0), IMAGES[1])),
}


@pytest.fixture(scope="module", params=["2.0", "2.3"])
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
            theirs.Shown(
                each.image, place(each.frame % CANVAS.frames), each.strength, each.following
            )
            for each in images
        ),
    )


def made_by(peer: theirs.Peer, asked: theirs.Asked, shown: Case) -> dict[Modality, torch.Tensor]:
    worn = WORN if shown.worn else {}
    if not shown.references:
        return of(theirs.one_stage(peer, asked, worn))
    return of(theirs.in_context(peer, asked, looked(shown.references), worn))


def looked(references: tuple[Reference, ...]) -> theirs.References:
    """The same for diffusers, which knows one size and one attention for all references."""
    first = references[0]
    return theirs.References(
        tuple(theirs.Reference(each.frames, each.strength) for each in references),
        first.downscale,
        first.attention,
    )


def request(case: Case) -> Request:
    return Request(
        PROMPT,
        SEED,
        tuple(Lora(name, strength) for name, strength in WORN.items()) if case.worn else (),
        negative_prompt=NEGATIVE,
        canvas=CANVAS,
        stages=(BASE,),
        conditions=case.images,
        references=case.references,
    )


def latents(loom: Loom, request: Request) -> dict[Modality, torch.Tensor]:
    return dict(loom.streams([tiny.fitting(loom, request)])[0])


def apart(got: dict[Modality, torch.Tensor], want: dict[Modality, torch.Tensor]) -> float:
    assert set(got) == set(want)
    return max(float((got[name] - want[name]).abs().max()) for name in got)


def of(made: theirs.Latents) -> dict[Modality, torch.Tensor]:
    return {"video": made.video[0], "audio": made.audio[0]}


@pytest.mark.parametrize("case", CASES)
def test_what_is_shown_is_as_in_diffusers_and_shows(
    case: str, ours: Loom, peer: theirs.Peer
) -> None:
    shown = CASES[case]
    made = latents(ours, request(shown))
    assert apart(made, made_by(peer, asked(ours, shown.images), shown)) <= WITHIN
    less = replace(shown, references=()) if shown.references else replace(shown, images=())
    assert apart(made, latents(ours, request(less))) > VISIBLE


@pytest.mark.parametrize("images", [(), IMAGES], ids=["no image", "images"])
def test_only_the_stages_that_see_references_are_shown_any(
    images: tuple[Condition, ...], ours: Loom, peer: theirs.Peer
) -> None:
    case = Case((LONG, SHORT), images)
    second = {**WORN, "distilled": 1.0}
    want = theirs.two_stage(peer, asked(ours, images), WORN, second, looked(case.references))
    loras = (Lora("style", 0.8), Lora("distilled", stages=(0.6, 1.0)))
    made = replace(request(case), stages=TWO, loras=loras)
    assert apart(latents(ours, made), of(want)) <= WITHIN
    both = replace(made, stages=tuple(replace(stage, references=True) for stage in TWO))
    assert apart(latents(ours, both), of(want)) > VISIBLE


def test_the_recipes_show_references_at_the_base_and_not_when_refining(ours: Loom) -> None:
    assert not REFINE.references
    assert any(lora.name == DISTILLED for lora in REFINE.wears)
    for stages in ours.card.defaults.pipelines.values():
        assert [stage.references for stage in stages] == [True, False][: len(stages)]


@pytest.mark.parametrize("attention", [1.0, 0.5])
def test_a_batch_of_all_kinds_is_every_request_alone(attention: float, ours: Loom) -> None:
    cases = [
        Case(()),
        Case((LONG,)),
        Case(weaker(SHORT, LONG, attention=attention), IMAGES, worn=True),
        Case((replace(LONG, downscale=2),), IMAGES[:1]),
        Case((), (clip(5, 9, 8), IMAGES[0]), worn=True),
    ]
    requests = [
        replace(request(case), seed=seed, prompt=f"a {seed} star")
        for seed, case in enumerate(cases)
    ]
    for one, row in zip(
        requests, ours.streams([tiny.fitting(ours, each) for each in requests]), strict=True
    ):
        assert apart(dict(row), latents(ours, one)) <= WITHIN


def test_references_of_a_request_may_differ_in_size_and_attention(ours: Loom) -> None:
    mixed = (replace(LONG, downscale=2, attention=0.5), SHORT)
    made = request(Case(mixed))
    alike = [
        latents(ours, replace(made, references=tuple(replace(one, **same) for one in mixed)))
        for same in ({"downscale": 1}, {"downscale": 2}, {"attention": 1.0}, {"attention": 0.5})
    ]
    for other in alike:
        assert apart(latents(ours, made), other) > VISIBLE


def test_frames_beyond_the_last_whole_latent_frame_are_left_out(ours: Loom) -> None:
    made = [latents(ours, request(Case((Reference(video(1, count)),)))) for count in (9, 10, 11)]
    assert apart(made[0], made[1]) == apart(made[0], made[2]) == 0


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (replace(LONG, frames=()), "a reference has no frames, want one or more"),
        (replace(LONG, strength=0.0), "strength of a reference is 0.0, want more than 0, at most"),
        (replace(LONG, strength=1.1), "strength of a reference is 1.1, want more than 0, at most"),
        (replace(LONG, attention=-0.1), "attention to a reference is -0.1, want 0 to 1"),
        (replace(LONG, attention=1.5), "attention to a reference is 1.5, want 0 to 1"),
        (replace(LONG, attention=float("nan")), "attention to a reference is nan"),
        (replace(LONG, downscale=0), "shown 0 times smaller, want a whole number from 1"),
        (replace(LONG, downscale=3), "3 times smaller than the 128x64 of stage 'base', want sides"),
    ],
)
def test_a_reference_that_cannot_be_shown_is_refused(
    reference: Reference, message: str, ours: Loom
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        ours.latents([tiny.fitting(ours, request(Case((reference,))))])


def test_a_reference_is_divided_at_the_size_of_the_stage_that_sees_it(ours: Loom) -> None:
    made = request(Case((replace(LONG, downscale=2),)))
    with pytest.raises(InvalidRequestError, match="2 times smaller than the 64x32 of stage"):
        ours.latents([tiny.fitting(ours, replace(made, stages=TWO))])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ((clip(5, 9, 9),), "a clip of 9 frames is asked for at frame 9, which goes beyond the 17"),
        ((clip(5, 9, -1),), "a clip of 9 frames is asked for at frame -1, which goes beyond"),
        ((clip(5, 9, 0), Condition(picture(1), 8)), "frames 0 and 8, which are one frame of the"),
    ],
)
def test_a_clip_that_does_not_fit_is_refused(
    images: tuple[Condition, ...], message: str, ours: Loom
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        ours.latents([tiny.fitting(ours, request(Case((), images)))])


def test_references_that_no_stage_sees_are_refused(ours: Loom) -> None:
    blind = replace(request(Case((LONG,))), stages=(replace(BASE, references=False),))
    with pytest.raises(InvalidStageError, match="of the stages base none sees them"):
        ours.latents([tiny.fitting(ours, blind)])


def test_a_model_whose_recipes_show_none_takes_no_references(ours: Loom) -> None:
    defaults = ours.card.defaults
    blind = {
        name: tuple(replace(stage, references=False) for stage in stages)
        for name, stages in defaults.pipelines.items()
    }
    card = replace(ours.card, defaults=replace(defaults, pipelines=blind))
    with pytest.raises(InvalidRequestError, match=r"references are asked for \(1\), model .* none"):
        admit([tiny.fitting(ours, request(Case((LONG,))))], card, ours.adapters)
