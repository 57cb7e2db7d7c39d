"""Train the latent upsampler: 64 px latents to the 128 px latents of the same scenes."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from diffusers import AutoencoderKLLTX2Video
from diffusers.pipelines.ltx2 import LTX2LatentUpsamplerModel
from torch import Tensor, nn

from training import configs
from training.latents import load
from training.loops import Budget, Masters, Rates, say

PAIRS = (
    ("pictures64", "pictures128", 32),
    ("clips64", "clips128", 8),
    ("turns64", "turns128", 6),
    ("neon64", "neon128", 32),
    ("sketch64", "sketch128", 32),
)


class Upsampler(nn.Module):
    """Normalised latents in and out around the model, which works on plain ones."""

    def __init__(self, model: LTX2LatentUpsamplerModel, vae: AutoencoderKLLTX2Video) -> None:
        super().__init__()
        self.model = model
        self.mean = vae.latents_mean.float().view(1, -1, 1, 1, 1)
        self.std = vae.latents_std.float().view(1, -1, 1, 1, 1)

    def forward(self, latents: Tensor) -> Tensor:
        plain = latents.float() * self.std + self.mean
        return (self.model(plain.bfloat16()).float() - self.mean) / self.std


def load_upsampler(folder: Path, vae: Path) -> Upsampler:
    return Upsampler(
        LTX2LatentUpsamplerModel.from_pretrained(folder, dtype=torch.bfloat16),
        AutoencoderKLLTX2Video.from_pretrained(vae, dtype=torch.bfloat16),
    )


def prepare(upsampler: Upsampler) -> None:
    """Start at the latents' own scale and mean."""
    final = upsampler.model.final_conv
    final.weight.data.mul_(0.1)
    final.bias.data.copy_(upsampler.mean.flatten())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.5)
    parser.add_argument("--start", type=Path, default=configs.WEIGHTS / "latent_upsampler")
    parser.add_argument("--vae", type=Path, default=configs.WORK / "vae")
    parser.add_argument("--out", type=Path, default=configs.WORK / "upsampler")
    options = parser.parse_args()
    torch.manual_seed(configs.SEED + 2)
    rng = random.Random(3)
    upsampler = load_upsampler(options.start, options.vae)
    prepare(upsampler)
    matrix = lambda name, p: p.ndim >= 4 and "final" not in name  # noqa: E731
    masters = Masters(upsampler.model.named_parameters(), Rates(4e-3, 1.5e-3), matrix)
    shelves = [(load(low), load(high), count) for low, high, count in PAIRS]
    budget, step = Budget(options.minutes), 0
    while budget.progress < 1:
        low, high, count = rng.choices(shelves, (0.4, 0.3, 0.1, 0.1, 0.1))[0]
        picked = [rng.randrange(min(len(low.scenes), len(high.scenes))) for _ in range(count)]
        loss = (upsampler(low.latents[picked]) - high.latents[picked].float()).square().mean()
        loss.backward()
        masters.step(budget.rate())
        step += 1
        if step % 50 == 0:
            say(f"{step} {budget.seconds:.0f}s {loss.item():.4f}")
    upsampler.model.save_pretrained(options.out)


if __name__ == "__main__":
    main()
