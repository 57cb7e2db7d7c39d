"""Where pristine bytes lie, decided from facts alone."""

from __future__ import annotations

import pytest

from loraloom.memory.residency import ORIGINAL, Facts, Home, Residency, home, resident, snapshot


@pytest.mark.parametrize(
    ("residency", "facts", "where"),
    [
        (ORIGINAL, Facts(fixed=False, filed=True, on_host=True), Home.FILE),
        (ORIGINAL, Facts(fixed=False, filed=True, on_host=False), Home.LEDGER),
        (ORIGINAL, Facts(fixed=False, filed=False, on_host=True), Home.LEDGER),
        (Residency(Home.FILE), Facts(fixed=False, filed=True, on_host=False), Home.FILE),
        (Residency(Home.FILE), Facts(fixed=False, filed=False, on_host=True), Home.LEDGER),
        (Residency(Home.LEDGER), Facts(fixed=False, filed=True, on_host=True), Home.LEDGER),
        (snapshot(9), Facts(fixed=False, filed=True, on_host=True), Home.HOST),
        (resident(9), Facts(fixed=False, filed=False, on_host=False), Home.BESIDE),
    ],
)
def test_where_pristine_bytes_lie(residency: Residency, facts: Facts, where: Home) -> None:
    assert home(residency, facts) is where


@pytest.mark.parametrize("residency", [ORIGINAL, snapshot(1), resident(1), Residency(Home.LEDGER)])
def test_memory_that_something_else_uses_is_never_written_to(residency: Residency) -> None:
    for filed in (True, False):
        for on_host in (True, False):
            facts = Facts(fixed=True, filed=filed, on_host=on_host)
            assert home(residency, facts) is Home.BESIDE
