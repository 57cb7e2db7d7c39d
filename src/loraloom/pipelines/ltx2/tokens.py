"""The tokens of one request: its latents, what it must show or look at, and where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from loraloom.pipelines.denoiser import Stream

if TYPE_CHECKING:
    from PIL.Image import Image

CHANNELS = 255 / 2
"""Of a pixel in 0..255, to bring it into -1..1."""


@dataclass(frozen=True, slots=True)
class Group:
    """Tokens of one reference, and how much they and the video see of each other."""

    count: int
    attention: float


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """The tokens of one request before any noise: of the video, of images, of references.

    Attributes:
        latents: ``[tokens, channels]``.
        mask: ``[tokens, 1]``, how far a token is held to ``latents``: 0 is denoised, 1 is kept.
        coords: ``[axes, tokens, 2]``, where each begins and ends: seconds, rows, columns.
        video: how many of the tokens, the first ones, are of the video itself.
        groups: what the last tokens are.
    """

    latents: Tensor
    mask: Tensor
    coords: Tensor
    video: int
    groups: tuple[Group, ...] = ()

    @classmethod
    def free(cls, latents: Tensor, coords: Tensor) -> Row:
        """Tokens that no condition holds."""
        return cls(latents, latents.new_zeros(len(latents), 1), coords, len(latents))

    def __len__(self) -> int:
        return len(self.latents)

    def overwritten(self, latents: Tensor, strength: float) -> Row:
        """With the first tokens held to ``latents``."""
        count = len(latents)
        held = torch.full_like(self.mask[:count], strength)
        return replace(
            self,
            latents=torch.cat([latents, self.latents[count:]]),
            mask=torch.cat([held, self.mask[count:]]),
        )

    def extended(self, latents: Tensor, coords: Tensor, strength: float) -> Row:
        """With tokens behind the others that are held to ``latents``."""
        held = self.mask.new_full((len(latents), 1), strength)
        return replace(
            self,
            latents=torch.cat([self.latents, latents]),
            mask=torch.cat([self.mask, held]),
            coords=torch.cat([self.coords, coords], dim=1),
        )

    def grouped(self, count: int, attention: float) -> Row:
        """With the last tokens known as those of a reference."""
        return replace(self, groups=(*self.groups, Group(count, attention)))

    def padded(self, count: int) -> Row:
        """With tokens of zeros behind the others, which nothing changes."""
        more = count - len(self)
        return replace(
            self,
            latents=functional.pad(self.latents, (0, 0, 0, more)),
            mask=functional.pad(self.mask, (0, 0, 0, more), value=1.0),
            coords=functional.pad(self.coords, (0, 0, 0, more)),
        )

    @property
    def apart(self) -> bool:
        """Whether some of its tokens do not fully see others."""
        return any(group.attention < 1 for group in self.groups)

    def sight(self, count: int) -> Tensor:
        """``[count, count]``: how much a token (first axis) sees of another (second axis).

        Where attention is less than 1, video and images see all of each other, a reference all of
        itself, and it and the video see ``attention`` of each other (diffusers,
        ``pipeline_ltx2_ic_lora.py``). Tokens beyond its own are seen by none.
        """
        end = len(self)
        seen = self.mask.new_zeros(count, count)
        if not self.apart:
            seen[:, :end] = 1
            return seen
        begin = end - sum(group.count for group in self.groups)
        seen[:begin, :begin] = 1
        for group in self.groups:
            own = slice(begin, begin + group.count)
            seen[: self.video, own] = group.attention
            seen[own, : self.video] = group.attention
            seen[own, own] = 1
            begin += group.count
        return seen


@dataclass(frozen=True, slots=True, eq=False)
class VideoStream(Stream):
    """A video with what its tokens see of each other.

    Attributes:
        sight: ``[rows, 1 or tokens, tokens]``, 1 where a token sees another; one row stands for
            all tokens, ``None`` for all that see all.
    """

    sight: Tensor | None = None


def stream(rows: Sequence[Row], noise: Sequence[Tensor], start: float) -> VideoStream:
    """Rows with ``start`` of noise in what is not held, as one batch.

    Args:
        noise: for every row ``[1, tokens, channels]``.
    """
    most = max(map(len, rows))
    noised = []
    for row, own in zip(rows, noise, strict=True):
        share = (1 - row.mask) * start
        noised.append(own[0].to(row.latents) * share + row.latents * (1 - share))
    filled = [row.padded(most) for row in rows]
    tokens = [functional.pad(each, (0, 0, 0, most - len(each))) for each in noised]
    mask = torch.stack([row.mask for row in filled])
    latents = torch.stack([row.latents for row in filled])
    held = bool(mask.any())
    real = _real(rows, most) if len(set(map(len, rows))) > 1 else None
    return VideoStream(
        tokens=torch.stack(tokens),
        coords=torch.stack([row.coords for row in filled]),
        clean=latents if held else None,
        mask=mask if held else None,
        real=real,
        sight=_sight(rows, real),
    )


def _real(rows: Sequence[Row], most: int) -> Tensor:
    there = [torch.arange(most, device=row.mask.device) < len(row) for row in rows]
    return torch.stack(there)[..., None].float()


def _sight(rows: Sequence[Row], real: Tensor | None) -> Tensor | None:
    if any(row.apart for row in rows):
        return torch.stack([row.sight(max(map(len, rows))) for row in rows])
    return None if real is None else real.mT


def place(shape: tuple[int, int, int], scales: Sequence[int], frame: int, rate: float) -> Tensor:
    """``[3, tokens, 2]``: where the tokens of images lie that begin at ``frame`` of a video.

    A single one lasts one frame, and none is moved as the first frame of a video is
    (Lightricks/LTX-2, ltx-core, conditioning by key frames).
    """
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in shape), indexing="ij")
    begins = torch.stack([axis.flatten() * scale for axis, scale in zip(axes, scales, strict=True)])
    ends = begins + torch.tensor(scales, dtype=torch.float32)[:, None]
    begins[0] += frame
    ends[0] = begins[0] + (1 if shape[0] == 1 else scales[0])
    coords = torch.stack([begins, ends], dim=-1)
    coords[0] /= rate
    return coords


def pixels(images: Sequence[Image], width: int, height: int) -> Tensor:
    """``[1, 3, frames, height, width]`` in -1..1: each image fills the frame, cut at its edges.

    Images are made smaller without smoothing first, as the model was trained (Lightricks/LTX-2).
    """
    frames = []
    for image in images:
        rgb = image.convert("RGB")
        flat = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8)
        pixel = flat.view(rgb.height, rgb.width, 3).permute(2, 0, 1)[None].float()
        scale = max(height / rgb.height, width / rgb.width)
        tall, wide = ceil(rgb.height * scale), ceil(rgb.width * scale)
        pixel = functional.interpolate(pixel, (tall, wide), mode="bilinear", align_corners=False)
        top, left = (tall - height) // 2, (wide - width) // 2
        frames.append(pixel[..., top : top + height, left : left + width] / CHANNELS - 1)
    return torch.stack(frames, dim=2)
