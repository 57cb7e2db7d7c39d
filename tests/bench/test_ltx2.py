"""What only a large device measures is tried on a small transformer."""

from __future__ import annotations

import math
from typing import get_args

import pytest

from bench import ltx2, stages
from bench.options import Options
from loraloom.memory.staging import Mode

TINY = Options(device="cpu", runs=1, size="tiny", only="ltx2")


def test_every_mode_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    rows = ltx2.rows(TINY)
    assert all(math.isfinite(row.ours) for row in rows)
    for mode in get_args(Mode):
        assert {f"ltx2: {mode}: stage switch", f"ltx2: {mode}: bytes off the plan"} <= {
            row.name for row in rows
        }
    assert "stage switch" in capsys.readouterr().out


@pytest.mark.parametrize("size", ["full", "ltx2"])
def test_nothing_large_is_measured_without_its_device(
    size: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ltx2.rows(Options(device="cpu", runs=1, size=size, only="ltx2")) == []  # type: ignore[arg-type]
    assert ("CUDA" in capsys.readouterr().out) == (size == "ltx2")


def test_stages_are_left_out_where_they_are_not_asked_for() -> None:
    assert stages.rows(Options(device="cpu", runs=1, size="tiny", only="ltx2")) == []
