"""Where the pristine bytes of a fused weight lie, and which fused ones are kept. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

LEAST = 256 * 2**20
"""Bytes for adapters worn live that a small component gets."""


def live_budget(weights: int) -> int:
    """Bytes for adapters worn live beside so many bytes of weights, where nothing else is said."""
    return max(LEAST, weights // 4)


class Home(Enum):
    """Where the pristine bytes of a weight are while adapters are in it."""

    FILE = "in the mapped checkpoint"
    LEDGER = "in the fused weight, less the adapters, with a ledger of what that misses"
    HOST = "in a copy on the host"
    BESIDE = "where they were; the fused weight takes their place in the layer"


@dataclass(frozen=True, slots=True)
class Residency:
    """What memory is given for quick changes of fused weights.

    Attributes:
        home: where pristine bytes lie; ``None`` leaves it to each weight: see :func:`home`.
        budget: bytes of fused weights that are kept of mixes worn before, beside the pristine
            ones: on the host with ``Home.HOST``, on the device with ``Home.BESIDE``.
    """

    home: Home | None = None
    budget: int = 0

    def __post_init__(self) -> None:
        assert not self.budget or self.home in {Home.HOST, Home.BESIDE}


ORIGINAL = Residency()
"""One set of weights and no copy of them: fusing and restoring compute."""


def snapshot(budget: int) -> Residency:
    """Pristine and fused weights on the host: fusing and restoring copy them to the device."""
    return Residency(Home.HOST, budget)


def resident(budget: int) -> Residency:
    """Pristine and fused weights on the device: fusing and restoring move no byte."""
    return Residency(Home.BESIDE, budget)


@dataclass(frozen=True, slots=True)
class Facts:
    """What decides about one weight.

    Attributes:
        fixed: its memory must not change: something else uses it too.
        filed: a mapped file holds the same bits.
        on_host: the weight lies in the host's memory, as a mapped file does.
    """

    fixed: bool
    filed: bool
    on_host: bool


def home(residency: Residency, facts: Facts) -> Home:
    """Where the pristine bytes of a weight lie while it is fused.

    A file is read where that is a copy within the host; across a bus it takes some tenths of a
    second for a large model, and the ledger's few percent of memory are the better bargain.
    """
    if facts.fixed:
        return Home.BESIDE
    if residency.home is Home.FILE and not facts.filed:
        return Home.LEDGER
    if residency.home is not None:
        return residency.home
    return Home.FILE if facts.filed and facts.on_host else Home.LEDGER
