"""Paint scenes: resolution-independent, anti-aliased, in three styles and one transition."""

from __future__ import annotations

import torch
from torch import Tensor

from training.scenes import (
    BACKGROUNDS,
    COLOURS,
    DIRECTION,
    PAPER,
    SIZES,
    TRAVEL,
    Scene,
    Style,
    View,
    distance,
)


def rgb(values: tuple[float, float, float]) -> Tensor:
    return torch.tensor(values).view(3, 1, 1, 1)


def grid(view: View) -> Tensor:
    """Pixel centres as fractions of the frame: [2, 1, H, W], x then y."""
    steps = torch.arange(view.size, dtype=torch.float32) + 0.5
    y, x = torch.meshgrid(
        (steps + view.top) / view.frame, (steps + view.left) / view.frame, indexing="ij"
    )
    return torch.stack((x, y))[:, None]


def times(frames: int) -> Tensor:
    """When each frame happens, 0 to 1; a lone picture is the middle."""
    if frames == 1:
        return torch.full((1, 1, 1), 0.5)
    return torch.linspace(0, 1, frames).view(frames, 1, 1)


def tones(scene: Scene, xy: Tensor) -> Tensor:
    """1 where the pattern shows its second tone: [1, H, W]."""
    x, y = xy
    if scene.pattern == "striped":
        return ((x * 8).floor() % 2).float()
    if scene.pattern == "checkered":
        return (((x * 4).floor() + (y * 4).floor()) % 2).float()
    return torch.zeros_like(x)


def shape_distance(scene: Scene, xy: Tensor, when: Tensor) -> Tensor:
    """Signed distance in fractions of the frame: [T, H, W]."""
    step = DIRECTION.get(scene.motion, (0, 0))
    cx = scene.centre[0] + step[0] * TRAVEL * (2 * when - 1)
    cy = scene.centre[1] + step[1] * TRAVEL * (2 * when - 1)
    radius = torch.full_like(when, SIZES[scene.size])
    if scene.motion == "growing":
        radius = radius * (0.5 + 0.75 * when)
    if scene.motion == "shrinking":
        radius = radius * (1.25 - 0.75 * when)
    return distance(scene.shape, (xy[0] - cx) / radius, (xy[1] - cy) / radius) * radius


def second_tone(colour: Tensor) -> Tensor:
    return colour * 0.70 if float(colour.mean()) > 0.3 else colour + 0.24 * (1 - colour)


def paint_plain(scene: Scene, xy: Tensor, away: Tensor, pixel: float) -> Tensor:
    ground = rgb(BACKGROUNDS[scene.background])
    tone = tones(scene, xy)
    picture = ground * (1 - tone) + second_tone(ground) * tone
    inside = (0.5 - away / pixel).clamp(0, 1)
    return picture * (1 - inside) + rgb(COLOURS[scene.colour]) * inside


def paint_neon(scene: Scene, xy: Tensor, away: Tensor, pixel: float) -> Tensor:
    del pixel
    night = rgb((0.03, 0.02, 0.07)) + 0.10 * rgb(BACKGROUNDS[scene.background])
    picture = night * (1 + 0.8 * tones(scene, xy))
    colour = rgb(COLOURS[scene.colour])
    glow = torch.exp(-away.abs() / 0.05)
    tube = torch.exp(-((away / 0.018) ** 2))
    picture = picture + colour * glow * 0.55
    return (picture * (1 - tube) + (0.45 + 0.55 * colour) * tube).clamp(0, 1)


def paint_sketch(scene: Scene, xy: Tensor, away: Tensor, pixel: float) -> Tensor:
    x, y = xy
    tint = rgb(BACKGROUNDS[scene.background])
    paper = rgb(PAPER) * (0.93 - 0.10 * tones(scene, xy)) + 0.07 * tint
    inside = (0.5 - away / pixel).clamp(0, 1)
    hatch = (0.5 + 0.5 * torch.cos((x + y) * 16 * 2 * torch.pi)) ** 2
    ink = rgb(COLOURS[scene.colour])
    fill = paper * (1 - 0.75 * hatch) + (0.85 * ink) * 0.75 * hatch
    picture = paper * (1 - inside) + fill * inside
    line = ((0.014 - away.abs()) / pixel + 0.5).clamp(0, 1)
    return picture * (1 - line) + 0.2 * line


PAINTERS = {"plain": paint_plain, "neon": paint_neon, "sketch": paint_sketch}


def paint(scene: Scene, frames: int, view: View, style: Style = "plain") -> Tensor:
    """A clip in -1..1: [3, frames, H, W]."""
    xy = grid(view)
    away = shape_distance(scene, xy, times(frames))
    picture = PAINTERS[style](scene, xy, away, 1 / view.frame)
    return picture.expand(3, frames, view.size, view.size) * 2 - 1


def paint_transition(before: Scene, after: Scene, frames: int, view: View) -> Tensor:
    """`before` opens into `after` through an iris: [3, frames, H, W]."""
    xy = grid(view)
    radius = times(frames) * 0.80 - 0.04
    away = distance("circle", (xy[0] - 0.5) / 0.95, (xy[1] - 0.5) / 0.95) + 0.95 - radius
    inside = (0.5 - away * view.frame).clamp(0, 1)
    first, second = paint(before, frames, view), paint(after, frames, view)
    return first * (1 - inside) + second * inside
