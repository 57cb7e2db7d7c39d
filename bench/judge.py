"""Whether answers are right: what was worn, and the pixels against the same request alone."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from loraloom import Loom
from loraloom.core.schedule import ALWAYS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from loraloom import Request

    from .clients import Answer

LEVELS = 1
"""By how many of 255 levels a pixel may differ: latents agree to 1e-4, then they are rounded."""


@dataclass(frozen=True, slots=True)
class Compared:
    """How pictures agree with those of the same requests alone.

    Attributes:
        same: how many have every pixel alike.
        farthest: the largest difference of all, in levels.
    """

    pictures: int
    same: int
    farthest: int


class Alone:
    """The embedded model in this process with the same adapter files; one request at a time."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.loom = Loom.load("mini")
        for path in files:
            self.loom.adapters.add(path.stem, path)

    def compare(self, answers: Sequence[Answer]) -> Compared:
        far = [distance(each.picture, self.picture(each.errand.request)) for each in answers]
        return Compared(len(far), far.count(0), max(far, default=0))

    def picture(self, request: Request) -> Image.Image:
        return self.loom.images([request])[0].frames[0]


def distance(file: bytes, other: Image.Image) -> int:
    """The most levels that a pixel of a PNG file differs by."""
    pixels = (np.asarray(each, dtype=np.int16) for each in (_opened(file), other))
    one, two = pixels
    assert one.shape == two.shape, f"{one.shape} against {two.shape}"
    return int(np.abs(one - two).max())


def _opened(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file))


def misworn(answer: Answer, digests: Mapping[str, str]) -> str:
    """What of an answer does not say what its request was to wear; empty if all does."""
    said = answer.said
    picture = said["results"][0] if "results" in said else said["data"][0]
    request = answer.errand.request
    want = {
        lora.name: (digests[lora.name], lora.strength, lora.curve != ALWAYS)
        for lora in request.loras
    }
    got = {
        worn["name"]: (worn["sha256"], worn["scale"], bool(worn["schedule"]))
        for worn in picture["loras"]
    }
    if got == want and picture["seed"] == request.seed:
        return ""
    return f"{answer.errand} was answered with {picture}, want {want}"
