"""The figures of the laws on the embedded model, and on one with a fault in its arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

import loraloom
from loraloom.checks import weights
from loraloom.checks.laws import TRIALS, cases, judge
from loraloom.checks.studio import Case, Studio
from loraloom.core.provenance import Asked
from loraloom.core.request import Canvas
from loraloom.core.stage import Guidance, Guides, Sigmas, Stage

from . import faults

if TYPE_CHECKING:
    from loraloom import Loom

NEON = Case(("neon",))
PAIR = Case(("neon", "sketch"))
STAGES = (Stage("base", Sigmas(2), guidance=Guidance(Guides(cfg=3.0))),)


def studio_of(loom: Loom) -> Studio:
    return Studio(loom, Asked("a star", "", 0, Canvas(64, 64), STAGES, audio=True))


@pytest.fixture(scope="module")
def bf16() -> Studio:
    return studio_of(loraloom.Loom.load("mini", dtype="bfloat16"))


def test_cases_are_each_adapter_and_every_two() -> None:
    assert [str(case) for case in cases(["a", "b", "c"])] == [
        *("a", "b", "c", "a + b", "a + c", "b + c"),
    ]
    assert len(PAIR.rows) == 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_law_holds_on_the_embedded_model(loom: Loom, bf16: Studio, dtype: str) -> None:
    studio = studio_of(loom) if dtype == "float32" else bf16
    assert studio.dtype == dtype
    findings = list(judge(studio, [PAIR]))
    assert len(findings) == len(TRIALS)
    for finding in findings:
        assert finding.passed, str(finding)


def test_a_second_rounding_is_found_in_bfloat16(
    bf16: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays within the bound of the norm; the bound of one rounding sees it."""
    assert weights.fused_is_rounded_once(bf16, NEON) <= 1
    faults.rounds_twice(monkeypatch)
    assert weights.fused_is_float64(bf16, NEON) < 2**-8
    assert weights.fused_is_rounded_once(bf16, NEON) > 1.1


def test_one_wrong_layer_in_all_is_found(loom: Loom, monkeypatch: pytest.MonkeyPatch) -> None:
    faults.wrong_at(monkeypatch, "transformer_blocks.3.attn1.to_v")
    studio = studio_of(loom)
    assert weights.fused_is_float64(studio, NEON) == pytest.approx(1e-4, rel=0.01)
    monkeypatch.undo()
    assert weights.fused_is_float64(studio, NEON) < 1e-6


@pytest.mark.parametrize(
    "layer",
    [
        torch.nn.Linear(4, 6),
        torch.nn.Conv1d(4, 6, 3, dilation=2),
        torch.nn.Conv2d(4, 6, (1, 3), stride=2),
        torch.nn.Conv3d(4, 6, 3, padding=1),
        torch.nn.Embedding(5, 4),
    ],
)
def test_every_kind_of_layer_has_a_probe(layer: torch.nn.Module) -> None:
    x = weights.probe(layer)
    assert torch.equal(x, weights.probe(layer))
    assert layer(x).numel()
