"""How far two tensors or two pictures are apart: pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterable

    from PIL.Image import Image
    from torch import Tensor

PEAK = 255.0
WINDOW, SIGMA = 11, 1.5  # of SSIM, in pixels
K1, K2 = 0.01, 0.03


@dataclass(frozen=True, slots=True)
class Likeness:
    """How alike two shots are.

    Attributes:
        psnr: of the pictures in dB; infinite where they are equal.
        ssim: of the pictures, 1 where they are equal.
        levels: largest difference of a channel of the pictures, 0 to 255.
        latents: largest absolute difference of the latents.
        differing: how many numbers of the latents differ in a bit.
    """

    psnr: float
    ssim: float
    levels: int
    latents: float
    differing: int


def worst(figures: Iterable[float]) -> float:
    """The largest; NaN if one of them is, which ``max`` would lose. 0 of none."""
    known = list(figures)
    return math.nan if any(map(math.isnan, known)) else max(known, default=0.0)


def relative(got: Tensor, want: Tensor, scale: Tensor | None = None) -> float:
    """The norm of the difference over that of ``scale``, by itself ``want``; in float64."""
    off = float((got.double() - want.double()).norm())
    size = float((want if scale is None else scale).double().norm())
    if size == 0:
        return math.inf if off else 0.0
    return off / size


def largest(got: Tensor, want: Tensor) -> float:
    """The largest absolute difference; infinite where the shapes differ."""
    if got.shape != want.shape:
        return math.inf
    return float((got.double() - want.double()).abs().max())


def differing(got: Tensor, want: Tensor) -> int:
    """How many numbers differ in a bit; all where types or shapes differ."""
    if (got.dtype, got.shape) != (want.dtype, want.shape):
        return max(got.numel(), want.numel())
    one, other = (_bytes(tensor) for tensor in (got, want))
    return int((one != other).any(dim=1).sum())


def psnr(got: Image, want: Image) -> float:
    """Peak signal to noise ratio of two RGB pictures of one size, in dB."""
    error = float((_pixels(got) - _pixels(want)).square().mean())
    return 10 * math.log10(PEAK**2 / error) if error else math.inf


def ssim(got: Image, want: Image) -> float:
    """Mean structural similarity of two RGB pictures of one size, the mean of the channels.

    Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to
    structural similarity", IEEE TIP 13(4), 2004, equation 13: a Gaussian window of 11 by 11
    pixels, σ 1.5, K₁ 0.01, K₂ 0.03, only where the window lies inside the picture.
    """
    x, y = _pixels(got), _pixels(want)  # [3, 1, height, width]
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x = _blurred(x * x) - mean_x.square()
    var_y = _blurred(y * y) - mean_y.square()
    covar = _blurred(x * y) - mean_x * mean_y
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    alike = (2 * mean_x * mean_y + c1) * (2 * covar + c2)
    size = (mean_x.square() + mean_y.square() + c1) * (var_x + var_y + c2)
    return float((alike / size).mean())


def levels(got: Image, want: Image) -> int:
    """The largest difference of a channel of two RGB pictures of one size, 0 to 255."""
    return int((_pixels(got) - _pixels(want)).abs().max())


def _blurred(image: Tensor) -> Tensor:
    taps = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    bell = torch.exp(-taps.square() / (2 * SIGMA**2))
    bell = bell / bell.sum()
    rows = functional.conv2d(image, bell.reshape(1, 1, -1, 1))
    return functional.conv2d(rows, bell.reshape(1, 1, 1, -1))


def _pixels(image: Image) -> Tensor:
    """``[3, 1, height, width]`` in float64."""
    array = np.asarray(image.convert("RGB"), dtype=np.float64)
    return torch.from_numpy(array.copy()).permute(2, 0, 1)[:, None]


def _bytes(tensor: Tensor) -> Tensor:
    """``[numbers, bytes of one]``."""
    flat = tensor.detach().contiguous().flatten()
    return flat.view(torch.uint8).reshape(len(flat), -1)
