"""``loraloom models``: what comes with the package."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from loraloom.models import find


def models() -> None:
    """List the models that come with the package; folders and hub ids work as well."""
    table = Table("name", "family", "adapters", "source", box=None)
    for name in find.BUNDLED:
        card = find.card(name)
        table.add_row(
            name,
            card.family.name,
            ", ".join(card.adapters),
            "bundled",
        )
    Console().print(table)
