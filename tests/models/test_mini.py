"""The embedded model does what its card says, on captions that were not in its training."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from loraloom import Lora, Request
from training.judge import judge, motion_of, style_of
from training.scenes import Scene, caption, draw_scene

if TYPE_CHECKING:
    from loraloom import Loom
    from loraloom.engine.loom import Result

pytestmark = pytest.mark.slow


def held_out(count: int, seed: int, *, moving: bool = False) -> list[Scene]:
    rng = random.Random(seed)
    return [draw_scene(rng, held=True, moving=moving) for _ in range(count)]


def clip(result: Result) -> torch.Tensor:
    """``[3, frames, height, width]`` in 0 to 1."""
    pixels = np.stack([np.asarray(frame) for frame in result.frames])
    return torch.from_numpy(pixels).permute(3, 0, 1, 2).float() / 255


def rate(hits: list[bool]) -> float:
    return sum(hits) / len(hits)


def test_pictures_show_what_unseen_captions_say(loom: Loom) -> None:
    scenes = held_out(24, 77)
    results = loom.images([Request(caption(scene), i) for i, scene in enumerate(scenes)])
    verdicts = [judge(clip(result)[:, 0]) for result in results]
    pairs = list(zip(verdicts, scenes, strict=True))
    assert rate([verdict.colour == scene.colour for verdict, scene in pairs]) >= 0.9
    assert rate([verdict.background == scene.background for verdict, scene in pairs]) >= 0.9
    assert rate([verdict.shape == scene.shape for verdict, scene in pairs]) >= 0.8


@pytest.mark.parametrize("style", ["neon", "sketch"])
def test_a_style_appears_with_its_adapter_and_not_without(style: str, loom: Loom) -> None:
    scenes = held_out(12, 78)
    worn = [(Lora(style),) if i % 2 else () for i in range(len(scenes))]
    requests = [
        Request(caption(s), i, w) for i, (s, w) in enumerate(zip(scenes, worn, strict=True))
    ]
    results = loom.images(requests)
    seen = [style_of(clip(r)[:, 0], s) for r, s in zip(results, scenes, strict=True)]
    assert rate([(found == style) == bool(w) for found, w in zip(seen, worn, strict=True)]) >= 0.9


def test_videos_move_as_unseen_captions_say(loom: Loom) -> None:
    scenes = held_out(8, 79, moving=True)
    results = loom.videos([Request(caption(scene), i) for i, scene in enumerate(scenes)])
    moved = [motion_of(clip(result)) for result in results]
    assert rate([found == scene.motion for found, scene in zip(moved, scenes, strict=True)]) >= 0.7
