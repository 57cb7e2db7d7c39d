"""Figures on the latents of whole runs: one number for each law."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .figures import differing, largest, relative, worst
from .studio import BARE

if TYPE_CHECKING:
    from .studio import Case, Studio


def live_is_fused(studio: Studio, case: Case) -> float:
    """Relative distance of the latents beside the weights from those in them."""
    return relative(studio.rows([case.whole], "live")[0], studio.rows([case.whole], "fused")[0])


def batch_is_alone(studio: Studio, case: Case) -> float:
    """Largest difference of a row of a mixed batch from the row alone."""
    together = studio.rows(case.rows, "live")
    return worst(
        largest(row, studio.rows([attire], "live")[0])
        for row, attire in zip(together, case.rows, strict=True)
    )


def bare_row_is_base(studio: Studio, case: Case) -> float:
    """How many numbers of a bare row in a mixed batch are not those of the base in that batch.

    A batch of another size is summed in another order, so the base runs in a batch as large.
    """
    base = studio.rows([BARE] * len(case.rows), "live")
    return differing(studio.rows(case.rows, "live")[0], base[0])
