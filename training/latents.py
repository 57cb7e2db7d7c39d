"""Draw the data sets, encode them once, and write the latents' statistics into the autoencoder."""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLLTX2Video
from torch import Tensor

from training import configs
from training.drawing import paint, paint_transition
from training.loops import say
from training.scenes import Scene, Style, View, draw_scene

KEY_FRAMES = (5, 9, 13, 16)


@dataclass(frozen=True, slots=True)
class Order:
    """What to draw: `count` clips of one kind from the scenes of `seed`."""

    name: str
    count: int
    frames: int
    pixels: int
    seed: int
    style: Style | None = "plain"  # None: transitions

    @property
    def keyed(self) -> bool:
        return self.frames == 17


@dataclass(frozen=True, slots=True)
class Shelf:
    """Encoded clips. `keys` are single frames of them, encoded alone: [N, len(KEY_FRAMES), ...]."""

    scenes: list[tuple[Scene, Scene]]
    latents: Tensor  # [N, C, T, h, w], normalised, bfloat16
    keys: Tensor | None


# Equal seeds draw equal scenes: the upsampler pairs 64 with 128 pixels by position.
ORDERS = (
    Order("pictures128", 8000, 1, 128, 11),
    Order("pictures64", 4000, 1, 64, 11),
    Order("clips128", 2500, 17, 128, 12),
    Order("clips64", 1600, 17, 64, 12),
    Order("short128", 400, 9, 128, 13),
    Order("neon128", 1500, 1, 128, 14, "neon"),
    Order("neon64", 500, 1, 64, 14, "neon"),
    Order("neonclips128", 200, 17, 128, 15, "neon"),
    Order("sketch128", 1500, 1, 128, 16, "sketch"),
    Order("sketch64", 500, 1, 64, 16, "sketch"),
    Order("sketchclips128", 200, 17, 128, 17, "sketch"),
    Order("turns128", 700, 17, 128, 18, None),
    Order("turns64", 250, 17, 64, 18, None),
)


def scenes_of(order: Order) -> list[tuple[Scene, Scene]]:
    rng = random.Random(order.seed)
    made = []
    for _ in range(order.count):
        moving = order.style is not None and (order.frames > 1 or rng.random() < 0.25)
        made.append((draw_scene(rng, moving=moving), draw_scene(rng)))
    return made


def draw(order: Order, pair: tuple[Scene, Scene]) -> Tensor:
    view = View(order.pixels, order.pixels)
    if order.style is None:
        return paint_transition(*pair, order.frames, view)
    return paint(pair[0], order.frames, view, order.style)


def encode(vae: AutoencoderKLLTX2Video, clips: Tensor) -> Tensor:
    pixels = clips.to(torch.bfloat16).to(memory_format=torch.channels_last_3d)
    return vae.encode(pixels).latent_dist.mode().to(torch.bfloat16)


@torch.no_grad()
def fill(vae: AutoencoderKLLTX2Video, order: Order) -> Shelf:
    scenes = scenes_of(order)
    batch = 64 if order.frames == 1 else 4
    latents, keys = [], []
    for at in range(0, order.count, batch):
        clips = torch.stack([draw(order, pair) for pair in scenes[at : at + batch]])
        latents.append(encode(vae, clips))
        if order.keyed:
            frames = clips[:, :, list(KEY_FRAMES)].transpose(1, 2).flatten(0, 1)[:, :, None]
            keys.append(encode(vae, frames).unflatten(0, (-1, len(KEY_FRAMES))))
    return Shelf(scenes, torch.cat(latents), torch.cat(keys) if keys else None)


def normalise(vae: AutoencoderKLLTX2Video, latents: Tensor) -> Tensor:
    """Normalise over the channel axis, which is the fourth from the end."""
    mean = vae.latents_mean.float().view(-1, 1, 1, 1)
    return ((latents.float() - mean) / vae.latents_std.float().view(-1, 1, 1, 1)).bfloat16()


def measure(vae: AutoencoderKLLTX2Video, shelves: list[Shelf]) -> None:
    """Mean and deviation per channel into the autoencoder, each shelf weighing the same."""
    rows = [s.latents.float().movedim(1, -1).flatten(0, -2)[::7] for s in shelves]
    rows = [row[torch.randperm(len(row))[:40000]] for row in rows]
    values = torch.cat(rows)
    vae.latents_mean.copy_(values.mean(0))
    vae.latents_std.copy_(values.std(0))


def load(name: str, folder: Path = configs.WORK / "latents") -> Shelf:
    parts = torch.load(folder / f"{name}.pt", weights_only=False)
    return Shelf(parts["scenes"], parts["latents"], parts["keys"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", type=Path, default=configs.WORK / "vae")
    parser.add_argument("--out", type=Path, default=configs.WORK / "latents")
    parser.add_argument("--only", nargs="*", help="shelf names; the statistics are then kept")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    vae = AutoencoderKLLTX2Video.from_pretrained(options.vae, dtype=torch.bfloat16).eval()
    vae = vae.to(memory_format=torch.channels_last_3d)
    for order in ORDERS:
        if options.only and order.name not in options.only:
            continue
        shelf = fill(vae, order)
        if order.name == "pictures128":
            measure(vae, [shelf, fill(vae, Order("probe", 80, 17, 128, 99))])
            vae.save_pretrained(options.vae)
        keys = None if shelf.keys is None else normalise(vae, shelf.keys)
        parts = {"scenes": shelf.scenes, "latents": normalise(vae, shelf.latents), "keys": keys}
        torch.save(parts, options.out / f"{order.name}.pt")
        say(f"{order.name}: {order.count} clips")


if __name__ == "__main__":
    main()
