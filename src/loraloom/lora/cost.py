"""Live or fused: what either costs, what fusing would lose, and which it is. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loraloom.core.request import Mode

NOISE_BOUND = 0.25
"""The largest share of a mix's effect that rounding the fused weights may be.

A quarter is ‖ΔW‖/‖W‖ = 0.0068 in bfloat16. Down to there the noise follows its formula and the
effect keeps its strength; below 0.003 more than half is noise, and what is left is weaker too.
"""


@dataclass(frozen=True, slots=True)
class Rates:
    """What a machine takes for one model in one type, in seconds.

    Attributes:
        call: for a layer's call to wear something at all.
        flop: an entry, a rank and a number of its input or output.
        touch: an entry and a number of its input or output, which is read or written once more.
        fuse_call: for a site to be fused and restored at all.
        fuse: a weight, to compute it anew and put it in place.
        fuse_flop: a weight and a rank.
        restore: a weight, to have the pristine one back.
    """

    call: float
    flop: float
    touch: float
    fuse_call: float
    fuse: float
    fuse_flop: float
    restore: float


CAUTIOUS = Rates(
    call=1e-5,
    flop=2e-12,
    touch=5e-12,
    fuse_call=2e-4,
    fuse=3e-9,
    fuse_flop=2e-11,
    restore=3e-10,
)
"""Of a machine that could not be measured: a style is worn live, a high rank in many steps fused.

Wearing takes half of what a processor was measured to take where nothing else ran, fusing twice.
"""


@dataclass(frozen=True, slots=True)
class Layers:
    """Sites that are alike, and what a mix asks of each.

    Attributes:
        count: how many they are.
        out: of the weight ``[out, width]``; ``width`` covers the axes of a kernel.
        rank: of the mix that may be fused, all its adapters together.
        beside: of what is worn live whatever is chosen.
        passes: calls in a step.
        entries: rows × tokens in a call.
    """

    count: int
    out: int
    width: int
    rank: int
    beside: int
    passes: float
    entries: float


@dataclass(frozen=True, slots=True)
class Work:
    """What is about to be done with a mix.

    Attributes:
        uses: how many batches in a row are expected to ask for the mix, this one included.
        resident: whether it is in the weights already.
    """

    layers: tuple[Layers, ...]
    steps: int
    uses: float = 1.0
    resident: bool = False


@dataclass(frozen=True, slots=True)
class Rounding:
    """What fusing would round away, as sums over sites of squares relative to ‖W‖².

    Every fused site adds the same relative noise to its layer's output, however small its update;
    so noise and effect are summed before they are compared. A few sites with tiny updates are then
    what they are, a little noise for a little effect, and do not decide for all.

    Attributes:
        noise: of the rounding; infinite where a weight cannot hold an update at all.
        effect: of the updates.
        into: the type that is rounded to, for people.
    """

    noise: float = 0.0
    effect: float = 0.0
    into: str = ""

    def __add__(self, other: Rounding) -> Rounding:
        worse = self if self.noise >= other.noise else other
        return Rounding(self.noise + other.noise, self.effect + other.effect, worse.into)

    @property
    def share(self) -> float:
        """Noise over effect; more than all of the effect cannot be lost."""
        if not self.noise:
            return 0.0
        return min(math.sqrt(self.noise / self.effect), 1.0) if self.effect else 1.0


EXACT = Rounding()


@dataclass(frozen=True, slots=True)
class Choice:
    """How a mix is worn and why; the seconds are those of one batch."""

    mode: Mode
    why: str
    live_s: float
    fused_s: float

    def __str__(self) -> str:
        return f"{self.mode}: {self.why}"


def choose(rates: Rates, work: Work, rounding: Rounding = EXACT) -> Choice:
    """Live or fused for a mix that every row of a batch wears at one strength.

    Fusing is paid once for as many batches in a row as are expected to ask for the mix. Of two
    equal costs live is taken: it leaves the weights alone.
    """
    live = work.steps * sum(_worn(rates, each) for each in work.layers)
    restoring = sum(_restoring(rates, each) for each in work.layers)
    fusing = sum(_fusing(rates, each) for each in work.layers)
    if work.resident:
        live, fused = live + restoring, restoring / work.uses
    else:
        fused = (fusing + restoring) / work.uses
    refused = lost(rounding)
    if refused:
        return Choice("live", refused, live, fused)
    if not work.layers:
        return Choice("live", "no layer is changed", live, fused)
    mode: Mode = "fused" if fused < live else "live"
    return Choice(mode, _compared(work, live, fused), live, fused)


def lost(rounding: Rounding) -> str:
    """Why a mix must not be fused, whatever it costs; empty if it may."""
    if math.isinf(rounding.noise):
        return f"weights of {rounding.into} cannot hold it"
    if rounding.share > NOISE_BOUND:
        return f"rounding to {rounding.into} would be {rounding.share:.0%} of the effect"
    return ""


def _compared(work: Work, live: float, fused: float) -> str:
    if work.resident:
        return f"it is in the weights already, wearing it live would cost {seconds(live)} more"
    steps = "1 step" if work.steps == 1 else f"{work.steps} steps"
    said = f"{steps} live cost {seconds(live)}, fusing and restoring {seconds(fused)}"
    if work.uses >= 1.5:
        said += f" a batch if {work.uses:.0f} in a row ask for it"
    return said


def _worn(rates: Rates, layers: Layers) -> float:
    """Seconds a step that the mix costs live, beyond what is worn beside it anyway."""
    both = _call(rates, layers, layers.rank + layers.beside)
    return layers.count * layers.passes * (both - _call(rates, layers, layers.beside))


def _call(rates: Rates, layers: Layers, rank: int) -> float:
    if not rank:
        return 0.0
    each = rates.flop * rank + rates.touch
    return rates.call + layers.entries * (layers.out + layers.width) * each


def _fusing(rates: Rates, layers: Layers) -> float:
    weights = layers.out * layers.width
    each = rates.fuse_call + weights * (rates.fuse + rates.fuse_flop * layers.rank)
    return layers.count * each


def _restoring(rates: Rates, layers: Layers) -> float:
    return layers.count * layers.out * layers.width * rates.restore


def seconds(value: float) -> str:
    """A time for people."""
    return f"{value:.1f} s" if value >= 0.95 else f"{value * 1e3:.3g} ms"
