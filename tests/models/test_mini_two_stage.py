"""Two stages of the embedded model, on captions that were not in its training."""

from __future__ import annotations

from statistics import mean
from typing import TYPE_CHECKING

import pytest

from loraloom import Request
from training.judge import judge, motion_of
from training.nearest import nearest, off, turned
from training.scenes import caption
from training.two_stage import apart, frames, pairs, run, scenes, transitions, ways

if TYPE_CHECKING:
    from loraloom import Loom
    from loraloom.core.stage import Stages
    from training.two_stage import Clips

pytestmark = pytest.mark.slow

SCENES = scenes(24, 61)
COMPARED = 4


@pytest.fixture(scope="module")
def stages(loom: Loom) -> dict[str, Stages]:
    known = loom.card.defaults
    return ways(known.pipeline("one-stage"), known.pipeline("two-stage"))


def clips(loom: Loom, stages: Stages, count: int) -> Clips:
    requests = [Request(caption(scene), i) for i, scene in enumerate(SCENES[:count])]
    return run(loom, requests, stages).clips


@pytest.fixture(scope="module")
def refined(loom: Loom, stages: dict[str, Stages]) -> Clips:
    return clips(loom, stages["two stages"], len(SCENES))


def test_two_stages_show_what_unseen_captions_say(refined: Clips) -> None:
    verdicts = [judge(clip[:, 8]) for clip in refined]
    seen = list(zip(verdicts, SCENES, strict=True))
    assert mean(verdict.colour == scene.colour for verdict, scene in seen) >= 0.95
    assert mean(verdict.background == scene.background for verdict, scene in seen) >= 0.95
    assert mean(verdict.shape == scene.shape for verdict, scene in seen) >= 0.8
    moved = [motion_of(clip) == scene.motion for clip, scene in zip(refined, SCENES, strict=True)]
    assert mean(moved) >= 0.9


def test_two_stages_are_nearer_to_the_drawing_than_one(
    loom: Loom, stages: dict[str, Stages], refined: Clips
) -> None:
    def sharpness(made: Clips) -> float:
        return mean(
            off(clip, nearest(clip, scene)).edges
            for clip, scene in zip(made, SCENES[:COMPARED], strict=True)
        )

    single = clips(loom, stages["one stage"], COMPARED)
    assert sharpness(refined[:COMPARED]) > sharpness(single) + 0.2


def test_three_distilled_steps_are_nearer_to_the_full_schedule_than_three_plain_ones(
    loom: Loom, stages: dict[str, Stages], refined: Clips
) -> None:
    full, plain = (clips(loom, stages[name], COMPARED) for name in ("full schedule", "no adapter"))
    assert apart(refined[:COMPARED], full) > apart(plain, full) + 1


def test_a_transition_in_two_stages_ends_in_the_images_given(
    loom: Loom, stages: dict[str, Stages]
) -> None:
    wanted = pairs(4, 62)
    made = run(loom, transitions(wanted), stages["two stages"]).clips
    ideal = [turned(*pair, clip) for pair, clip in zip(wanted, made, strict=True)]
    assert apart(frames(made, 0), frames(ideal, 0)) > 24
    assert apart(frames(made, -1), frames(ideal, -1)) > 20
