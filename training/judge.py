"""Judge pictures by drawing: of every attribute, the candidate whose drawing is nearest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d

from training.drawing import grid, paint, rgb, second_tone, tones
from training.scenes import (
    BACKGROUNDS,
    COLOURS,
    PATTERNS,
    SHAPES,
    SIZES,
    STYLES,
    Scene,
    Style,
    View,
    distance,
)

PIXELS = 128
RING = 10
MASK = 40


@dataclass(frozen=True, slots=True)
class Verdict:
    shape: str
    colour: str
    background: str
    pattern: str
    size: str


@dataclass(frozen=True, slots=True)
class Ground:
    background: str
    pattern: str
    picture: Tensor  # [3, H, W] in 0..1


@cache
def grounds() -> tuple[Ground, ...]:
    xy = grid(View(PIXELS, PIXELS))
    made = []
    for background, values in BACKGROUNDS.items():
        for pattern in PATTERNS:
            scene = Scene("circle", "red", "small", background, pattern, "still", (0.5, 0.5))
            tone, colour = tones(scene, xy), rgb(values)
            picture = colour * (1 - tone) + second_tone(colour) * tone
            made.append(Ground(background, pattern, picture[:, 0].expand(3, PIXELS, PIXELS)))
    return tuple(made)


def boxed(mask: Tensor) -> Tensor:
    """A mask cut to its bounding box and resized to MASK x MASK; stray pixels do not count."""
    rows, columns = mask.float().mean(1) > 0.015, mask.float().mean(0) > 0.015
    if not rows.any() or not columns.any():
        return torch.zeros(MASK, MASK)
    y, x = rows.nonzero().flatten(), columns.nonzero().flatten()
    cut = mask[y[0] : y[-1] + 1, x[0] : x[-1] + 1].float()
    return interpolate(cut[None, None], size=(MASK, MASK), mode="bilinear")[0, 0]


@cache
def templates() -> Tensor:
    steps = torch.linspace(-1.3, 1.3, 2 * PIXELS)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([boxed(distance(shape, x[None], y[None])[0] < 0) for shape in SHAPES])


@cache
def areas() -> Tensor:
    """Area of every shape at every size, as a share of the frame: [shapes, sizes]."""
    steps = torch.linspace(-1.3, 1.3, 2 * PIXELS)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    unit = [float((distance(s, x[None], y[None]) < 0).float().mean()) * 2.6**2 for s in SHAPES]
    return torch.tensor([[area * r**2 for r in SIZES.values()] for area in unit])


def ground_of(picture: Tensor) -> Ground:
    """The background whose drawing fits the outer ring best; picture [3, H, W] in 0..1."""
    ring = torch.ones(PIXELS, PIXELS, dtype=torch.bool)
    ring[RING:-RING, RING:-RING] = False
    off = [(picture - g.picture).abs().sum(0)[ring].clamp(max=0.6).mean() for g in grounds()]
    return grounds()[int(torch.stack(off).argmin())]


def mask_of(picture: Tensor, ground: Ground) -> Tensor:
    """Where the picture is not its background, cleaned by a 3 x 3 majority."""
    off = (picture - ground.picture).abs().sum(0) > 0.28
    return avg_pool2d(off.float()[None], 3, 1, 1)[0] > 0.5


def judge(picture: Tensor) -> Verdict:
    ground = ground_of(picture)
    mask = mask_of(picture, ground)
    core = -max_pool2d(-mask.float()[None], 5, 1, 2)[0] > 0.5
    core = core if core.any() else mask
    colour = picture[:, core].median(1).values if core.any() else torch.zeros(3)
    names = tuple(COLOURS)
    nearest = torch.stack([(colour - torch.tensor(COLOURS[n])).abs().sum() for n in names])
    shape = int((templates() - boxed(mask)).abs().mean((1, 2)).argmin())
    ratio = (mask.float().mean() / areas()[shape]).clamp(min=1e-6).log().abs()
    return Verdict(
        SHAPES[shape],
        names[int(nearest.argmin())],
        ground.background,
        ground.pattern,
        tuple(SIZES)[int(ratio.argmin())],
    )


def motion_of(clip: Tensor) -> str:
    """How the shape moves in a clip [3, T, H, W] in 0..1."""
    ground = ground_of(clip[:, clip.shape[1] // 2])
    first, last = mask_of(clip[:, 0], ground), mask_of(clip[:, -1], ground)
    if not first.any() or not last.any():
        return "lost"
    growth = float(last.sum() / first.sum())
    step = (last.nonzero().float().mean(0) - first.nonzero().float().mean(0)) / PIXELS
    if growth > 2 or growth < 0.5:
        return "growing" if growth > 1 else "shrinking"
    dy, dx = float(step[0]), float(step[1])
    if max(abs(dx), abs(dy)) < 0.1:
        return "still"
    if abs(dx) > abs(dy):
        return "right" if dx > 0 else "left"
    return "down" if dy > 0 else "up"


def style_of(picture: Tensor, scene: Scene) -> Style:
    """The style in which the captioned scene, drawn anew, is nearest to the picture."""
    drawn = [paint(scene, 1, View(PIXELS, PIXELS), style)[:, 0] / 2 + 0.5 for style in STYLES]
    off = torch.stack([(picture - d).abs().mean() for d in drawn])
    return STYLES[int(off.argmin())]
