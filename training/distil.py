"""Train `distilled`: three refine steps that end where guided refining over many steps does.

First `make`: stage 1 and the upsampler make latents, and the base model refines them in many
guided steps. Then `train`: from the same noise the adapter goes three steps by itself, and after
each it is told the mean of two ends: the base model's, and the scene drawn where that one shows it.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLLTX2Video
from peft import PeftModel
from torch import Tensor

from loraloom import Loom, Request
from loraloom.core.request import Canvas
from loraloom.core.stage import Guidance, Guides, Sigmas, Stage
from training import configs
from training.adapters import ADAPTERS
from training.build import save_adapter
from training.flow import Batch, Denoiser, TextCache, grid_coords, pack
from training.loops import Budget, Masters, Rates, say
from training.nearest import drawn, nearest
from training.scenes import Scene, caption, draw_scene
from training.transformer import load_denoiser

GUIDANCE = 3.0
STEPS = 10
SHIFT = math.exp(1.1)  # as the scheduler shifts levels for 17 frames of 128 px
GROUP = 16
TEACHER = 0.5  # its share of the target; the rest is drawn
FIRST = Stage("base", Sigmas(16), guidance=Guidance(Guides(cfg=GUIDANCE)))


@dataclass(frozen=True, slots=True)
class Lessons:
    """Tokens [N, S, C], normalised, bfloat16: where stage 2 begins, and its two ends."""

    captions: list[str]
    start: Tensor  # upsampled latents with the first noise in them
    refined: Tensor
    drawn: Tensor
    coords: Tensor


def levels(start: float, steps: int) -> list[float]:
    """``steps`` noise levels from ``start``, spaced as the scheduler spaces them, and 0."""
    first = 1 / (1 + SHIFT * (1 / start - 1))
    times = [first * (1 - i / steps) for i in range(steps)]
    return [SHIFT / (SHIFT + 1 / time - 1) for time in times] + [0.0]


def clean(denoiser: Denoiser, x: Tensor, level: float, batch: Batch) -> Tensor:
    """The denoised tokens as predicted at ``level``, float32."""
    made = denoiser(x.bfloat16(), torch.full((len(x),), level), batch)
    return x - level * made.float()


def refine(denoiser: Denoiser, batch: Batch, empty: Batch) -> Tensor:
    """Where many guided Euler steps end."""
    x, sigmas = batch.start.float(), levels(configs.STAGE_2_SIGMAS[0], STEPS)
    for level, after in itertools.pairwise(sigmas):
        weak = clean(denoiser, x, level, empty)
        end = weak + GUIDANCE * (clean(denoiser, x, level, batch) - weak)
        x = end + (x - end) * (after / level)
    return x


def batch_of(words: TextCache, captions: list[str], start: Tensor, coords: Tensor) -> Batch:
    free = torch.zeros(start.shape[1], dtype=torch.bool)
    return Batch(start, start, free, coords, words.read(captions))


class Maker:
    """Makes lessons on captions of the training split, with the model as it ships."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.loom = Loom.load(str(folder), dtype="bfloat16")
        self.vae: AutoencoderKLLTX2Video = self.loom.pipe.vae
        self.denoiser = Denoiser(self.loom.pipe.transformer, self.loom.pipe.connectors)
        self.words = TextCache(folder)
        self.rng = random.Random(seed)

    @torch.no_grad()
    def make(self, frames: int) -> Lessons:
        scenes = [draw_scene(self.rng, moving=frames > 1) for _ in range(GROUP)]
        captions = [caption(scene) for scene in scenes]
        large = self.enlarged(captions, frames)
        first = configs.STAGE_2_SIGMAS[0]
        start = self.tokens(large)
        start = start.lerp(torch.randn_like(start), first).bfloat16()
        coords = grid_coords(self.denoiser.transformer, large, configs.FRAME_RATE)
        batch, empty = (
            batch_of(self.words, texts, start, coords) for texts in (captions, [""] * GROUP)
        )
        refined = refine(self.denoiser, batch, empty)
        targets = self.targets(refined, large.shape[2:], scenes)
        return Lessons(captions, start, refined.bfloat16(), targets.bfloat16(), coords)

    def enlarged(self, captions: list[str], frames: int) -> Tensor:
        """What stage 1 and the upsampler make: [N, C, T, h, w] as the autoencoder takes it."""
        canvas = Canvas(64, 64, frames, configs.FRAME_RATE)
        seeds = [self.rng.randrange(1 << 32) for _ in captions]
        small = self.loom.latents(
            [
                Request(text, seed, canvas=canvas, stages=(FIRST,), audio=False)
                for text, seed in zip(captions, seeds, strict=True)
            ]
        )
        size = 128 // configs.SPATIAL
        return self.loom.denoiser.enlarge({"video": torch.stack(small)}, (size, size))["video"]

    def targets(self, refined: Tensor, shape: torch.Size, scenes: list[Scene]) -> Tensor:
        """The scenes drawn where the refined clips show them, as tokens."""
        latents = refined.mT.unflatten(2, shape) * self.deviation + self.mean
        made = []
        for latent, scene in zip(latents, scenes, strict=True):
            pixels = self.vae.decode(latent[None].bfloat16(), return_dict=False)[0][0].float()
            clip = (pixels / 2 + 0.5).clamp(0, 1)
            ideal = drawn(nearest(clip, scene), clip) * 2 - 1
            made.append(self.vae.encode(ideal[None].bfloat16()).latent_dist.mode().float())
        return self.tokens(torch.cat(made))

    def tokens(self, latents: Tensor) -> Tensor:
        return pack((latents.float() - self.mean) / self.deviation)

    @property
    def mean(self) -> Tensor:
        return self.vae.latents_mean.float().view(1, -1, 1, 1, 1)

    @property
    def deviation(self) -> Tensor:
        return self.vae.latents_std.float().view(1, -1, 1, 1, 1)


def make(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    maker = Maker(options.folder, options.seed)
    options.lessons.mkdir(parents=True, exist_ok=True)
    for frames, count in ((1, options.pictures), (17, options.clips)):
        made = [maker.make(frames) for _ in range(count // GROUP)]
        parts = joined(made)
        values = {field.name: getattr(parts, field.name) for field in fields(parts)}
        torch.save(values, options.lessons / f"{frames}-{options.seed}.pt")
        say(f"{count} of {frames} frames")


def joined(parts: list[Lessons]) -> Lessons:
    tensors: dict[str, Any] = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name in ("start", "refined", "drawn")
    }
    captions = [each for part in parts for each in part.captions]
    return Lessons(captions, coords=parts[0].coords, **tensors)


def shelf(folder: Path, frames: int) -> Lessons:
    files = sorted(folder.glob(f"{frames}-*.pt"))
    return joined([Lessons(**torch.load(file)) for file in files])


def walk(denoiser: Denoiser, lessons: Lessons, picked: list[int], words: TextCache) -> float:
    """Three steps of the adapter by itself, a gradient from each."""
    captions = [lessons.captions[i] for i in picked]
    batch = batch_of(words, captions, lessons.start[picked], lessons.coords)
    wanted = torch.lerp(lessons.drawn[picked].float(), lessons.refined[picked].float(), TEACHER)
    x, total = batch.start.float(), 0.0
    sigmas = [*configs.STAGE_2_SIGMAS, 0.0]
    for level, after in itertools.pairwise(sigmas):
        end = clean(denoiser, x, level, batch)
        loss = (end - wanted).square().mean()
        loss.backward()
        total += loss.item()
        end = end.detach()
        x = end + (x - end) * (after / level)
    return total / len(configs.STAGE_2_SIGMAS)


def train(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(configs.SEED + 6)
    rng = random.Random(5)
    denoiser = load_denoiser(options.folder).requires_grad_(requires_grad=False)
    begin = options.folder / "adapters" / "distilled"
    model = PeftModel.from_pretrained(denoiser.transformer, begin, is_trainable=True)
    model.to(torch.bfloat16)
    words = TextCache(options.folder)
    masters = Masters(model.named_parameters(), Rates(0.0, options.rate), lambda *_: False)
    shelves = {frames: shelf(options.lessons, frames) for frames in (1, 17)}
    budget, step, seen = Budget(options.minutes), 0, dict.fromkeys(shelves, 0.0)
    while budget.progress < 1:
        frames, count = rng.choices(((1, 32), (17, 8)), (0.3, 0.7))[0]
        lessons = shelves[frames]
        picked = rng.sample(range(len(lessons.captions)), count)
        loss = walk(denoiser, lessons, picked, words)
        masters.step(budget.rate())
        step += 1
        seen[frames] += (loss - seen[frames]) * max(0.05, 1 / step)
        if step % 20 == 0:
            say(f"{step} {budget.seconds:.0f}s {seen}")
            keep(model, options.out)
    keep(model, options.out)


def keep(model: PeftModel, folder: Path) -> None:
    save_adapter(model, folder, "", ADAPTERS["distilled"].description)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("make", "train"))
    parser.add_argument("--folder", type=Path, default=configs.WEIGHTS)
    parser.add_argument("--lessons", type=Path, default=configs.WORK / "distil")
    parser.add_argument("--seed", type=int, default=31)
    parser.add_argument("--pictures", type=int, default=320)
    parser.add_argument("--clips", type=int, default=160)
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, default=configs.WORK / "adapters" / "distilled")
    options = parser.parse_args()
    {"make": make, "train": train}[options.what](options)


if __name__ == "__main__":
    main()
