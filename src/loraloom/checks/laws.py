"""The laws as data, each with its figure; and the one loop that tries them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from loraloom.errors import LoraloomError

from . import latents, weights
from .law import Bounds, Finding, Law
from .studio import Case, Studio

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True, slots=True)
class Trial:
    """A law and what computes its figure on a case, from a bare model to a bare model."""

    law: Law
    figure: Callable[[Studio, Case], float]


FAILURES = (LoraloomError, RuntimeError)
"""What a law may raise that cannot be tried: our errors, and those of torch."""

ONE_ROUNDING = Bounds(
    1e-6, 2**-8, 2**-11, "a sum in float32, rounded once to the type of the weight"
)
A_LAYER = Bounds(
    1e-5, 2e-2, 3e-3, "sums over a layer's input, its factors in the type of the weight"
)
LINE = Bounds(2e-6, 2**-7, 2**-10, "a difference of two weights, each rounded once")
LAYER_LINE = Bounds(1e-5, 2e-2, 3e-3, "a difference of two outputs, each rounded as a layer's is")
WHOLE_RUN = Bounds(1e-4, 5e-2, 1e-2, "the rounding of every layer, carried through every step")
BATCHED = Bounds(1e-4, 0.25, 5e-2, "batches of other sizes are summed in another order")

RESTORED = Law(
    "restored to the bit",
    "every tensor of every component before adapters are worn in every way, and after",
    "tensors differ",
    Bounds.always(0, "what is restored is compared with a digest of what was there"),
)

TRIALS = (
    Trial(
        Law(
            "fused is float64",
            "every fused weight and the same sum in float64, norm over norm",
            "relative",
            ONE_ROUNDING,
        ),
        weights.fused_is_float64,
    ),
    Trial(
        Law(
            "rounded once",
            "every number of a fused weight and float64, over what a sum in float32 and one "
            "rounding can be off",
            "roundings",
            Bounds.always(1, "the bound of a float32 sum and one rounding; two exceed it"),
        ),
        weights.fused_is_rounded_once,
    ),
    Trial(
        Law(
            "live is float64",
            "the output of every layer that wears its update live and the layer in float64",
            "relative",
            A_LAYER,
        ),
        weights.live_is_float64,
    ),
    Trial(
        Law(
            "strength is linear in weights",
            "the difference of a fused weight at 0.5, -1 and 1.75 and that at 1 times as much",
            "relative",
            LINE,
        ),
        weights.weights_are_linear,
    ),
    Trial(
        Law(
            "strength is linear in layers",
            "the same of the outputs of layers that wear live",
            "relative",
            LAYER_LINE,
        ),
        weights.layers_are_linear,
    ),
    Trial(
        Law(
            "a mix is the sum",
            "the weights with all adapters fused and the weight plus each difference alone",
            "relative",
            ONE_ROUNDING,
        ),
        weights.mix_is_the_sum,
    ),
    Trial(
        Law(
            "the path does not show",
            "the fused weights after other adapters and strengths, and from a bare model",
            "numbers differ",
            Bounds.always(0, "a fused weight is computed from the pristine one, whatever was worn"),
        ),
        weights.path_does_not_show,
    ),
    Trial(RESTORED, weights.restored),
    Trial(
        Law(
            "live is fused",
            "the latents of a whole run beside the weights and in them, norm over norm",
            "relative",
            WHOLE_RUN,
        ),
        latents.live_is_fused,
    ),
    Trial(
        Law(
            "a mixed batch is each alone",
            "the latents of every row of a batch (nothing, each adapter, all at half) and the row "
            "alone, largest difference",
            "of latents",
            BATCHED,
        ),
        latents.batch_is_alone,
    ),
    Trial(
        Law(
            "a bare row is the base",
            "the latents of the row that wears nothing and those of a batch that wears nothing",
            "numbers differ",
            Bounds.always(0, "nothing is added to a row that wears nothing"),
        ),
        latents.bare_row_is_base,
    ),
)


def cases(names: Sequence[str]) -> tuple[Case, ...]:
    """Every adapter alone, and every two together."""
    return (*(Case((name,)) for name in names), *(Case(pair) for pair in combinations(names, 2)))


def judge(studio: Studio, tried: Sequence[Case]) -> Iterator[Finding]:
    """What every law finds on every case. A law that cannot be tried is broken, and no other."""
    for case in tried:
        for trial in TRIALS:
            bound = trial.law.bounds.of(studio.dtype)
            try:
                yield Finding(trial.law, str(case), trial.figure(studio, case), bound)
            except FAILURES as error:
                yield failed(trial.law, str(case), bound, error)


def failed(law: Law, of: str, bound: float, error: Exception) -> Finding:
    """A law that could not be tried."""
    return Finding(law, of, math.nan, bound, failure=" ".join(str(error).split()))
