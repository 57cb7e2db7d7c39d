"""The latent space of LTX-2's videos: its shapes, its numbers, and where its tokens lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from loraloom.core.request import Canvas

PICTURE_RATE = 24.0
"""What a picture is told; its rate means nothing, but the sound beside it must have a length."""


def rate(canvas: Canvas) -> float:
    """Frames per second, as positions are counted."""
    return canvas.rate if canvas.frames > 1 else PICTURE_RATE


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """The space of a pipeline's VAE.

    Attributes:
        pipe: whose components these are.
    """

    pipe: Any

    @property
    def scales(self) -> tuple[int, int, int]:
        """Frames, rows and columns of pixels that one token stands for."""
        vae = self.pipe.vae
        pixel = vae.spatial_compression_ratio
        return vae.temporal_compression_ratio, pixel, pixel

    def shape(self, canvas: Canvas) -> tuple[int, int, int]:
        """Latent frames, height and width."""
        frame, pixel, _ = self.scales
        return (canvas.frames - 1) // frame + 1, canvas.height // pixel, canvas.width // pixel

    def coords(self, shape: tuple[int, int, int], rate: float) -> Tensor:
        """``[3, tokens, 2]``: where the tokens of a whole video lie, as the transformer has it."""
        rope, device = self.pipe.transformer.rope, self.pipe._execution_device
        found: Tensor = rope.prepare_video_coords(1, *shape, device, fps=rate)[0]
        return found

    def normalised(self, latents: Tensor) -> Tensor:
        """Latents of the VAE as those of the transformer."""
        mean, deviation, factor = self._normal(latents)
        return (latents - mean) * factor / deviation

    def restored(self, latents: Tensor) -> Tensor:
        """The other way."""
        mean, deviation, factor = self._normal(latents)
        return latents * deviation / factor + mean

    def encoded(self, pixels: Tensor) -> Tensor:
        """Normalised latents of frames in -1..1, the most likely ones."""
        vae = self.pipe.vae
        device = self.pipe._execution_device
        made = vae.encode(pixels.to(device, vae.dtype)).latent_dist.mode()
        return self.normalised(made)

    def _normal(self, like: Tensor) -> tuple[Tensor, Tensor, float]:
        """Mean and deviation of latents by channel, and the factor that goes with them."""
        vae = self.pipe.vae
        mean, deviation = (
            each.view(1, -1, 1, 1, 1).to(like) for each in (vae.latents_mean, vae.latents_std)
        )
        return mean, deviation, float(vae.config.scaling_factor)
