"""Train the video autoencoder on windows of drawn pictures and clips of all styles."""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLLTX2Video
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from training import configs
from training.drawing import paint, paint_transition
from training.loops import Budget, Masters, Rates, say, sheet
from training.scenes import STYLES, View, draw_scene

WINDOW = 64


@dataclass(frozen=True, slots=True)
class Pool:
    """Drawn once, cut anew every step: bytes [N, 3, T, 128, 128]."""

    pictures: Tensor
    clips: Tensor


def to_bytes(clip: Tensor) -> Tensor:
    return ((clip + 1) * 127.5).round().byte()


def to_floats(pixels: Tensor) -> Tensor:
    return pixels.bfloat16() / 127.5 - 1


def one_clip(rng: random.Random, frames: int) -> Tensor:
    view = View(128, 128) if rng.random() < 0.85 else View(96, 128, -16, -16)
    if frames > 1 and rng.random() < 0.15:
        scenes = (draw_scene(rng, moving=False), draw_scene(rng, moving=False))
        return paint_transition(*scenes, frames, view)
    style = rng.choices(STYLES, (0.6, 0.2, 0.2))[0]
    return paint(draw_scene(rng, moving=True), frames, view, style)


def make_pool(pictures: int, clips: int) -> Pool:
    rng = random.Random(configs.SEED)
    return Pool(
        torch.stack([to_bytes(one_clip(rng, 1)) for _ in range(pictures)]),
        torch.stack([to_bytes(one_clip(rng, 17)) for _ in range(clips)]),
    )


def cut(pool: Tensor, count: int, frames: int, rng: random.Random) -> Tensor:
    """Random windows [count, 3, frames, 64, 64]; a third of them halved whole frames."""
    made = []
    for _ in range(count):
        clip = pool[rng.randrange(len(pool))]
        start = rng.randrange(clip.shape[1] - frames + 1)
        clip = clip[:, start : start + frames]
        if rng.random() < 0.3:
            clip = avg_pool2d(clip.float(), 2).round().byte()
        else:
            left, top = rng.randrange(WINDOW + 1), rng.randrange(WINDOW + 1)
            clip = clip[:, :, top : top + WINDOW, left : left + WINDOW]
        made.append(clip)
    return to_floats(torch.stack(made)).to(memory_format=torch.channels_last_3d)


def initialise(model: nn.Module) -> None:
    """Unit gain through a normalised SiLU, half of it on the second convolution of a block."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv3d):
            gain = 1.0
            if "conv1" in name or "conv_out" in name:
                gain = 1.68
            if "conv2" in name:
                gain = 0.8
            if name.startswith("decoder.conv_out"):
                gain = 0.5
            nn.init.normal_(module.weight, std=gain / module.weight[0].numel() ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    encoder: Any = model.encoder
    encoder.conv_out.conv.bias.data[-1] = -5.0


def loss_of(model: AutoencoderKLLTX2Video, clip: Tensor, blur: float) -> tuple[Tensor, Tensor]:
    """The training loss and the squared error; the latents get noise of `blur` deviations."""
    posterior = model.encode(clip).latent_dist
    mean = posterior.mean
    noise = torch.randn_like(mean) * (posterior.std + blur * mean.detach().float().std())
    made = model.decode(mean + noise).sample.float()
    target = clip.float()
    off = made - target
    squared = off.square().mean()
    rows = (off[..., 1:, :] - off[..., :-1, :]).abs().mean()
    columns = (off[..., 1:] - off[..., :-1]).abs().mean()
    kl = (mean.float().square() + posterior.var.float() - 1 - posterior.logvar.float()).mean() / 2
    return off.abs().mean() + squared + rows + columns + 5e-4 * kl, squared


@torch.no_grad()
def psnr(model: AutoencoderKLLTX2Video, clips: Tensor, path: Path | None = None) -> float:
    """Decibels over whole 128 px clips, values in 0..1."""
    errors, rows = [], []
    for clip in clips:
        real = to_floats(clip)[None]
        made = model.decode(model.encode(real).latent_dist.mode()).sample.clamp(-1, 1)
        errors.append((made.float() - real.float()).square().mean() / 4)
        step = max(1, real.shape[2] // 4)
        rows.append([*real[0, :, ::step].unbind(1), *made[0, :, ::step].unbind(1)])
    if path:
        if len(rows[0]) == 2:
            rows = [list(chain(*rows[i : i + 4])) for i in range(0, len(rows) - 3, 4)]
        sheet(rows, path)
    return float((-10 * torch.stack(errors).log10()).mean())


def hidden(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 5 and "decoder.conv_out" not in name


def train(
    model: AutoencoderKLLTX2Video, pool: Pool, rates: Rates, options: argparse.Namespace
) -> None:
    rng, budget = random.Random(1), Budget(options.minutes)
    blur = 0.12 if options.polish else 0.06  # the polished decoder sees generated latents
    masters = Masters(model.named_parameters(), rates, hidden)
    step, next_save = 0, 90.0
    while budget.progress < 1:
        loss, squared = loss_of(model, cut(pool.pictures, 24, 1, rng), blur)
        loss.backward()
        count, frames = rng.choice(((4, 9), (6, 5), (2, 17)))
        clip_loss, clip_squared = loss_of(model, cut(pool.clips, count, frames, rng), blur)
        clip_loss.backward()
        masters.step(budget.rate())
        step += 1
        if step % 25 == 0:
            losses = f"{loss.item():.4f} {clip_loss.item():.4f}"
            errors = f"{squared.item() / 4:.5f} {clip_squared.item() / 4:.5f}"
            say(f"{step} {losses} {errors} {budget.seconds:.0f}s")
        if budget.seconds > next_save:
            next_save += 180
            model.save_pretrained(options.out)
            pictures = psnr(model, pool.pictures[:16], configs.WORK / "vae_pictures.png")
            clips = psnr(model, pool.clips[:4], configs.WORK / "vae_clips.png")
            say(f"psnr {pictures:.2f} {clips:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--out", type=Path, default=configs.WORK / "vae")
    parser.add_argument("--polish", type=Path, help="train this autoencoder's decoder further")
    options = parser.parse_args()
    torch.manual_seed(configs.SEED)
    if options.polish:
        model = AutoencoderKLLTX2Video.from_pretrained(options.polish)
        model.encoder.requires_grad_(requires_grad=False)
        rates = Rates(matrix=1.5e-3, other=5e-4)
    else:
        model = AutoencoderKLLTX2Video(**configs.VAE)
        initialise(model)
        rates = Rates(matrix=4e-3, other=1.5e-3)
    model = model.to(torch.bfloat16).to(memory_format=torch.channels_last_3d)
    pool = make_pool(2000, 250) if options.polish else make_pool(3000, 400)
    train(model, pool, rates, options)
    model.save_pretrained(options.out)
    rng = random.Random(8)
    pictures = torch.stack([to_bytes(one_clip(rng, 1)) for _ in range(48)])
    clips = torch.stack([to_bytes(one_clip(rng, 17)) for _ in range(12)])
    say(f"psnr of new drawings {psnr(model, pictures):.2f} {psnr(model, clips):.2f}")


if __name__ == "__main__":
    main()
