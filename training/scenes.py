"""Scenes drawn from signed distances, their captions, and the split that is never trained on."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

Style = Literal["plain", "neon", "sketch"]

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
SIZES = {"small": 0.20, "large": 0.33}
COLOURS = {
    "red": (0.90, 0.10, 0.12),
    "orange": (1.00, 0.55, 0.05),
    "yellow": (1.00, 0.90, 0.10),
    "green": (0.10, 0.62, 0.20),
    "cyan": (0.15, 0.85, 0.92),
    "blue": (0.10, 0.25, 0.90),
    "purple": (0.55, 0.12, 0.70),
    "white": (0.97, 0.97, 0.97),
}
BACKGROUNDS = {
    "black": (0.05, 0.05, 0.05),
    "white": (0.97, 0.97, 0.97),
    "gray": (0.50, 0.50, 0.52),
    "blue": (0.10, 0.25, 0.90),
    "green": (0.10, 0.62, 0.20),
    "yellow": (1.00, 0.90, 0.10),
    "pink": (1.00, 0.62, 0.76),
}
PATTERNS = ("plain", "striped", "checkered")
MOTIONS = {
    "still": "",
    "left": "moving left",
    "right": "moving right",
    "up": "moving up",
    "down": "moving down",
    "growing": "growing",
    "shrinking": "shrinking",
}
STYLES: tuple[Style, ...] = ("plain", "neon", "sketch")
WORDS = tuple(
    dict.fromkeys(
        " ".join(
            (
                "a on background moving",
                " ".join((*SIZES, *COLOURS, *SHAPES, *BACKGROUNDS, *PATTERNS, *MOTIONS)),
                "neon sketch turns into the an and in of with to scene picture video",
            )
        ).split()
    )
)
DIRECTION = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
TRAVEL = 0.2
REACH, TABLE = 4.0, 640
PAPER = (0.96, 0.95, 0.90)


@dataclass(frozen=True, slots=True)
class Scene:
    shape: str
    colour: str
    size: str
    background: str
    pattern: str
    motion: str
    centre: tuple[float, float]


@dataclass(frozen=True, slots=True)
class View:
    """A window of `size` pixels at `left`, `top` of a frame that is `frame` pixels wide."""

    frame: int
    size: int
    left: int = 0
    top: int = 0


def held_out(shape: str, colour: str, background: str) -> bool:
    digest = hashlib.sha256(f"{shape}/{colour}/{background}".encode()).digest()
    return digest[0] % 10 == 0


def draw_scene(rng: random.Random, *, held: bool = False, moving: bool = False) -> Scene:
    """A random scene of the training split, or of the held-out one."""
    while True:
        shape, colour = rng.choice(SHAPES), rng.choice(tuple(COLOURS))
        background = rng.choice(tuple(BACKGROUNDS))
        if colour != background and held_out(shape, colour, background) == held:
            break
    motions = tuple(MOTIONS)
    return Scene(
        shape=shape,
        colour=colour,
        size=rng.choice(tuple(SIZES)),
        background=background,
        pattern=rng.choice(PATTERNS),
        motion=rng.choice(motions[1:] if rng.random() < 0.9 else motions) if moving else "still",
        centre=(0.5 + rng.uniform(-0.03, 0.03), 0.5 + rng.uniform(-0.03, 0.03)),
    )


def caption(scene: Scene, *, size: bool = True, background: bool = True) -> str:
    pattern = "" if scene.pattern == "plain" else scene.pattern
    words = ["a", scene.size if size else "", scene.colour, scene.shape, MOTIONS[scene.motion]]
    if background:
        words += ["on a", pattern, scene.background, "background"]
    return " ".join(" ".join(words).split())


def loose_caption(scene: Scene, rng: random.Random) -> str:
    """The caption as people shorten it now and then."""
    return caption(scene, size=rng.random() > 0.1, background=rng.random() > 0.05)


def _polygon(points: tuple[tuple[float, float], ...], x: Tensor, y: Tensor) -> Tensor:
    """Signed distance to a polygon (Inigo Quilez, 2D distance functions)."""
    vertices = torch.tensor(points)
    first = vertices[0]
    distance = (x - first[0]) ** 2 + (y - first[1]) ** 2
    sign = torch.ones_like(x)
    for here, before in zip(vertices, vertices.roll(1, 0), strict=True):
        edge = before - here
        wx, wy = x - here[0], y - here[1]
        along = ((wx * edge[0] + wy * edge[1]) / edge.square().sum()).clamp(0, 1)
        off = (wx - edge[0] * along) ** 2 + (wy - edge[1] * along) ** 2
        distance = torch.minimum(distance, off)
        above, below = y >= here[1], y < before[1]
        left = edge[0] * wy > edge[1] * wx
        flip = (above & below & left) | (~above & ~below & ~left)
        sign = torch.where(flip, -sign, sign)
    return sign * distance.sqrt()


def _points(shape: str) -> tuple[tuple[float, float], ...]:
    turn = torch.pi / 5
    if shape == "square":
        return ((-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82))
    if shape == "triangle":
        return ((0.0, -0.95), (1.0, 0.8), (-1.0, 0.8))
    if shape == "star":
        radii = (1.08, 0.46)
        angles = torch.arange(10) * turn
        return tuple(
            (radii[i % 2] * float(a.sin()), -radii[i % 2] * float(a.cos()) + 0.06)
            for i, a in enumerate(angles)
        )
    arm, end = 0.32, 0.98
    corner = ((-arm, -end), (arm, -end), (arm, -arm), (end, -arm))
    half = (*corner, (end, arm), (arm, arm))
    return (*half, (arm, end), (-arm, end), (-arm, arm), (-end, arm), (-end, -arm), (-arm, -arm))


def _heart(x: Tensor, y: Tensor) -> Tensor:
    """Signed distance to a heart (Inigo Quilez), about one unit in radius."""
    x, y = (x / 1.75).abs(), -y / 1.75 + 0.53
    top = ((x - 0.25) ** 2 + (y - 0.75) ** 2).sqrt() - 2**0.5 / 4
    low = 0.5 * (x + y).clamp(min=0)
    side = torch.minimum(x**2 + (y - 1) ** 2, (x - low) ** 2 + (y - low) ** 2).sqrt()
    return 1.75 * torch.where(x + y > 1, top, side * torch.sign(x - y))


def exact_distance(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """Signed distance, negative inside, to a shape of about unit radius; y points down."""
    if shape == "circle":
        return (x**2 + y**2).sqrt() - 0.95
    if shape == "heart":
        return _heart(x, y)
    return _polygon(_points(shape), x, y)


@cache
def _table(shape: str) -> Tensor:
    steps = (torch.arange(2 * TABLE + 1) - TABLE) * (REACH / TABLE)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return exact_distance(shape, x, y)[None, None]


def distance(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """`exact_distance` read from a table: many times faster, right to a tenth of a pixel."""
    if shape == "circle":
        return exact_distance(shape, x, y)
    places = torch.stack((x, y), -1)[None] / REACH
    flat = places.reshape(1, -1, x.shape[-1], 2)
    read = grid_sample(_table(shape), flat, padding_mode="border", align_corners=True)
    return read.reshape(x.shape)
