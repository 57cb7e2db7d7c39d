"""Train the audio stream to denoise towards silence; it never touches the picture."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from torch import Tensor

from training import configs
from training.flow import Denoiser, TextCache
from training.loops import Average, Budget, Masters, Rates, say
from training.scenes import caption, draw_scene
from training.transformer import load_denoiser, muon, save

COUNT = 16


def loss_of(denoiser: Denoiser, words: TextCache, rng: random.Random) -> Tensor:
    tokens = rng.choice((1, 2, 14, 18, 27, 27))
    captions = ["" if rng.random() < 0.2 else caption(draw_scene(rng)) for _ in range(COUNT)]
    text = words.read(captions)
    video, audio, _ = denoiser.connectors(text.states, text.mask)
    sigma = torch.rand(COUNT).clamp(min=0.02)
    noise = torch.randn(COUNT, tokens, configs.TRANSFORMER["audio_in_channels"])
    made = denoiser.transformer(
        hidden_states=torch.zeros(COUNT, 1, configs.LATENT_CHANNELS, dtype=torch.bfloat16),
        audio_hidden_states=(noise * sigma[:, None, None]).bfloat16(),
        encoder_hidden_states=video,
        audio_encoder_hidden_states=audio,
        timestep=(sigma * 1000)[:, None],
        audio_timestep=sigma * 1000,
        sigma=sigma * 1000,
        num_frames=1,
        height=1,
        width=1,
        fps=configs.FRAME_RATE,
        audio_num_frames=tokens,
        isolate_modalities=True,
        use_cross_timestep=True,
        return_dict=False,
    )[1]
    return (made.float() - noise).square().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.5)
    parser.add_argument("--folder", type=Path, default=configs.WORK / "transformer")
    options = parser.parse_args()
    torch.manual_seed(configs.SEED + 6)
    rng = random.Random(6)
    denoiser = load_denoiser(options.folder)
    for name, parameter in denoiser.named_parameters():
        heard = "transformer." in name and "audio" in name and "video" not in name
        parameter.requires_grad_(heard)
    words = TextCache(configs.WEIGHTS)
    masters = Masters(denoiser.named_parameters(), Rates(3e-3, 2e-3), muon)
    average, budget, step = Average(masters, 60), Budget(options.minutes), 0
    while budget.progress < 1:
        loss = loss_of(denoiser, words, rng)
        loss.backward()
        masters.step(budget.rate())
        average.update()
        step += 1
        if step % 25 == 0:
            say(f"{step} {budget.seconds:.0f}s {loss.item():.4f}")
    average.write()
    save(denoiser, options.folder)


if __name__ == "__main__":
    main()
