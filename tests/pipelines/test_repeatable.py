"""The bytes of a video are those of its frames, whatever lay in memory before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from PIL import Image

from loraloom import Canvas, Condition, Request, Sampling
from loraloom.pipelines.media import save_video

if TYPE_CHECKING:
    from pathlib import Path

    from loraloom import Loom


def test_small_frames_are_encoded_alike_again_and_again(loom: Loom, tmp_path: Path) -> None:
    ends = (Image.new("RGB", (64, 64), colour) for colour in ("red", "blue"))
    request = Request(
        "a star",
        4,
        canvas=Canvas(64, 64, 9, 16.0),
        sampling=Sampling(2, 3.0),
        conditions=tuple(Condition(image, at) for image, at in zip(ends, (0, -1), strict=True)),
        audio=False,
    )
    frames = loom.videos([request])[0].frames
    seen = set()
    for index in range(40):
        junk = [torch.randn(100 + 37 * index, 100) for _ in range(20)]
        save_video(frames, tmp_path / "a.mp4", 16.0, None)
        seen.add((tmp_path / "a.mp4").read_bytes())
        del junk
    assert len(seen) == 1
