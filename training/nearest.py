"""How far a clip is from what its caption asks for, drawn where the clip shows it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

from torch import Tensor

from training.drawing import grid, paint, paint_transition, shape_distance, times
from training.scenes import Scene, View

PROBE = 4  # frames from one that the place is searched by to the next
COARSE = tuple(0.02 * i for i in range(-3, 4))
FINE = tuple(0.005 * i for i in range(-2, 3))
FINEST = tuple(0.00125 * i for i in range(-2, 3))
BAND = 4 / 128  # how far from the outline an edge reaches, as a share of the frame


@dataclass(frozen=True, slots=True)
class Off:
    """Decibels to a drawing: over all pixels, and over those within four pixels of the outline."""

    whole: float
    edges: float


def decibels(one: Tensor, other: Tensor) -> float:
    """Peak signal to noise of two pictures or clips in 0..1."""
    return float(-10 * (one - other).square().mean().clamp(min=1e-10).log10())


def drawn(scene: Scene, clip: Tensor) -> Tensor:
    """The scene as a clip in 0..1, as long and as large as ``clip`` [3, T, H, W]."""
    return paint(scene, clip.shape[1], View(clip.shape[-1], clip.shape[-1])) / 2 + 0.5


def nearest(clip: Tensor, scene: Scene) -> Scene:
    """``scene`` with its centre, the one thing that a caption leaves open, where it fits best."""
    around = replace(scene, centre=(0.5, 0.5))
    return _best(clip, _best(clip, _best(clip, around, COARSE), FINE), FINEST)


def _best(clip: Tensor, scene: Scene, steps: tuple[float, ...]) -> Scene:
    x, y = scene.centre
    places = [replace(scene, centre=(x + dx, y + dy)) for dx, dy in product(steps, steps)]
    return min(places, key=lambda each: _misfit(clip, each))


def _misfit(clip: Tensor, scene: Scene) -> float:
    return float((clip - drawn(scene, clip))[:, ::PROBE].square().mean())


def off(clip: Tensor, scene: Scene) -> Off:
    """What parts a clip from ``scene`` drawn at exactly its centre."""
    wanted = drawn(scene, clip)
    view = View(clip.shape[-1], clip.shape[-1])
    edge = shape_distance(scene, grid(view), times(clip.shape[1])).abs() < BAND
    return Off(decibels(clip, wanted), decibels(clip[:, edge], wanted[:, edge]))


def turned(before: Scene, after: Scene, clip: Tensor) -> Tensor:
    """The transition between two scenes, as long and as large as ``clip``, in 0..1."""
    view = View(clip.shape[-1], clip.shape[-1])
    return paint_transition(before, after, clip.shape[1], view) / 2 + 0.5
