"""Figures against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from PIL import Image

from loraloom.checks.figures import differing, largest, levels, psnr, relative, ssim, worst
from loraloom.checks.law import Bounds, Finding, Law

SIZE = (16, 12)


def flat(*rgb: int) -> Image.Image:
    return Image.new("RGB", SIZE, rgb)


def noise(seed: int) -> Image.Image:
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (*SIZE[::-1], 3), generator=draw, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def test_psnr_of_a_constant_difference_is_the_formula() -> None:
    assert psnr(flat(10, 10, 10), flat(15, 15, 15)) == pytest.approx(20 * math.log10(255 / 5))
    # one channel of three is off by 6: the mean of squares is 12
    assert psnr(flat(10, 10, 10), flat(10, 16, 10)) == pytest.approx(10 * math.log10(255**2 / 12))
    assert psnr(noise(1), noise(1)) == math.inf


def test_ssim_of_flat_pictures_is_the_luminance_term() -> None:
    """Without variance only (2·a·b + C₁) / (a² + b² + C₁) is left, C₁ = (0.01 · 255)²."""
    c1 = 6.5025
    want = (2 * 100 * 120 + c1) / (100**2 + 120**2 + c1)
    assert ssim(flat(100, 100, 100), flat(120, 120, 120)) == pytest.approx(want, abs=1e-12)
    assert ssim(flat(100, 100, 100), flat(120, 100, 100)) == pytest.approx((want + 2) / 3)


def test_ssim_of_stripes_is_the_formula_worked_out_by_hand() -> None:
    """Columns of 0 and 200 against 200 and 0: a window of even symmetry sees two weights.

    With e the weight of the columns like the middle one and o = 1 - e of the others, a window over
    a 0 has means of 200·o and 200·e, both variances 200²·e·o, and their covariance is minus that.
    """
    stripes = Image.new("RGB", (11, 11))
    swapped = Image.new("RGB", (11, 11), (200, 200, 200))
    for x in range(1, 11, 2):
        stripes.paste((200, 200, 200), (x, 0, x + 1, 11))
        swapped.paste((0, 0, 0), (x, 0, x + 1, 11))
    bell = {x: math.exp(-((x - 5) ** 2) / (2 * 1.5**2)) for x in range(11)}
    odd = sum(w for x, w in bell.items() if x % 2) / sum(bell.values())
    mean_x, mean_y, var = 200 * odd, 200 * (1 - odd), 200**2 * odd * (1 - odd)
    c1, c2 = 6.5025, 58.5225
    want = (2 * mean_x * mean_y + c1) * (-2 * var + c2)
    want /= (mean_x**2 + mean_y**2 + c1) * (2 * var + c2)
    assert ssim(stripes, swapped) == pytest.approx(want, abs=1e-12)


def test_equal_pictures_are_alike_and_others_less() -> None:
    assert ssim(noise(1), noise(1)) == pytest.approx(1, abs=1e-12)
    assert ssim(noise(1), noise(2)) < 0.2
    assert levels(flat(10, 20, 30), flat(10, 17, 31)) == 3


def test_tensors_are_compared_by_bits_and_by_size() -> None:
    one = torch.tensor([0.0, 1.0, 2.0])
    assert differing(one, one.clone()) == 0
    assert differing(one, torch.tensor([-0.0, 1.0, 2.5])) == 2
    assert differing(one, one.double()) == 3
    assert largest(one, torch.tensor([0.0, -1.0, 2.5])) == 2
    assert largest(one, one[:2]) == math.inf
    assert relative(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0])) == pytest.approx(0.1)
    assert relative(one, torch.zeros(3)) == math.inf
    assert relative(torch.zeros(3), torch.zeros(3)) == 0


def test_what_is_no_number_is_worst_and_passes_no_bound() -> None:
    assert math.isnan(worst([1.0, math.nan, 2.0]))
    assert math.isnan(worst([math.nan, 2.0]))
    assert worst([]) == 0
    bounds = Bounds(1, 2, 3, "why")
    most, least = Law("a", "", "", bounds), Law("b", "", "dB", bounds, "at least")
    assert [bounds.of(dtype) for dtype in ("float32", "bfloat16", "float16")] == [1, 2, 3]
    for law in (most, least):
        assert not Finding(law, "", math.nan, 1).passed
        assert Finding(law, "", 1, 1).passed
    assert not Finding(most, "", math.inf, 1).passed
    assert Finding(least, "", math.inf, 1).passed
    assert not Finding(least, "", 0.9, 1).passed
