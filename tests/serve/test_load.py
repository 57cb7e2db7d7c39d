"""Many clients at once, with a kill in the middle: `python -m bench.load` in small."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.judge import LEVELS
from bench.load import TENTH, Load, Plan

if TYPE_CHECKING:
    from pathlib import Path

PLAN = Plan(requests=200, clients=8, adapters=8, kill=True, threads=1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_answer_under_load_is_right_and_a_kill_loses_nothing(tmp_path: Path) -> None:
    found = Load(PLAN, tmp_path).run()
    assert found.wrong == ()
    ends = [found.ends.get(end, 0) for end in ("answered", "cancelled", "left", "refused")]
    assert sum(ends) == PLAN.requests
    assert all(ends), f"nothing was tried of one of {found.ends}"
    assert found.compared.pictures >= found.ends["answered"] // TENTH
    assert found.compared.farthest <= LEVELS
    assert found.killed
    assert found.killed.finished
    assert found.killed.interrupted, "nothing was under way when the server was killed"
    assert found.ends.get("interrupted"), "no client had an interrupted job run again"
    assert all(life.growth <= 0.25 for life in found.memory), found.memory
