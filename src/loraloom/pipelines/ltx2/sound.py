"""The sound beside a video: its tokens, and the wave that they become."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from loraloom.pipelines.sound import Sound

if TYPE_CHECKING:
    from torch import Tensor

    from loraloom.core.request import Canvas


def length(vae: Any, canvas: Canvas, rate: float) -> int:
    """Latent frames of the sound that is as long as the video."""
    per_second = vae.config.sample_rate / vae.config.mel_hop_length / vae.temporal_compression_ratio
    return round(float(canvas.frames / rate * per_second))


def channels(vae: Any) -> int:
    """Of one token: the bins of one latent frame, in all latent channels."""
    bins: int = vae.config.mel_bins // vae.mel_compression_ratio
    return bins * int(vae.config.latent_channels)


def pack(latents: Tensor, vae: Any) -> Tensor:
    """``[rows, channels, length, bins]`` as normalised tokens ``[rows, length, channels·bins]``."""
    tokens = latents.transpose(1, 2).flatten(2)
    packed: Tensor = (tokens - vae.latents_mean.to(tokens)) / vae.latents_std.to(tokens)
    return packed


def unpack(tokens: Tensor, vae: Any) -> Tensor:
    """The other way."""
    latents: Tensor = tokens * vae.latents_std.to(tokens) + vae.latents_mean.to(tokens)
    bins = vae.config.mel_bins // vae.mel_compression_ratio
    return latents.reshape(*latents.shape[:2], -1, bins).transpose(1, 2)


@torch.no_grad()
def heard(latents: Tensor, vae: Any, vocoder: Any) -> Sound:
    """The wave of one ``[channels, length, bins]`` latent."""
    spectrogram = vae.decode(latents[None].to(vae.dtype), return_dict=False)[0]
    wave = vocoder(spectrogram)[0]
    return Sound(wave.float().cpu().numpy(), int(vocoder.config.output_sampling_rate))
