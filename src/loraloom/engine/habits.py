"""How often a mix is asked for several times in a row. No torch here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loraloom.core.mix import NOTHING

if TYPE_CHECKING:
    from loraloom.core.mix import Mix

WEIGHT = 0.25
"""Of the newest batch in what is remembered: half of it is of the last two or three."""

MOST, MIXES = 20.0, 256
"""The longest run to count on, and how many mixes are remembered."""


class Habits:
    """For every mix, how likely the next batch asks for it again.

    A fused mix pays until another one is wanted, so what counts is the length of runs and not
    the number of uses: two mixes in turn are asked for often and never twice in a row. The
    likelihood is a mean over the times that the mix was asked for, in which older ones fade.
    """

    def __init__(self) -> None:
        self.last = NOTHING
        self.again: dict[Mix, float] = {}

    def note(self, mix: Mix) -> None:
        """A batch asks for ``mix``."""
        before = self.again.pop(self.last, 0.0)
        kept = before + WEIGHT * ((mix == self.last) - before)
        self.again = {**dict(list(self.again.items())[-MIXES + 1 :]), self.last: kept}
        self.last = mix

    def uses(self, mix: Mix) -> float:
        """How many batches in a row are expected to ask for ``mix``, the next one included."""
        again = self.again.get(mix, 0.0)
        return min(1 / (1 - again), MOST) if again < 1 else MOST
