"""What must hold, how far it may be off in each type, and what was found. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Dtype: TypeAlias = Literal["float32", "bfloat16", "float16"]
"""The type of a model's weights."""

Sense: TypeAlias = Literal["at most", "at least"]
"""On which side of its bound a figure belongs."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far a figure may go, by the type of the weights, and why that far."""

    float32: float
    bfloat16: float
    float16: float
    why: str

    @classmethod
    def always(cls, bound: float, why: str) -> Bounds:
        """One bound whatever the type."""
        return cls(bound, bound, bound, why)

    def of(self, dtype: Dtype) -> float:
        return {
            "float32": self.float32,
            "bfloat16": self.bfloat16,
            "float16": self.float16,
        }[dtype]


@dataclass(frozen=True, slots=True)
class Law:
    """One thing that must hold.

    Attributes:
        says: what is compared with what.
        unit: of the figure.
    """

    name: str
    says: str
    unit: str
    bounds: Bounds
    sense: Sense = "at most"


@dataclass(frozen=True, slots=True)
class Finding:
    """What came out for one law on one subject.

    Attributes:
        of: the adapters, and the path where there is one.
        figure: NaN where it could not be computed.
        failure: why it could not be computed.
    """

    law: Law
    of: str
    figure: float
    bound: float
    failure: str = ""

    @property
    def passed(self) -> bool:
        """NaN is on no side of a bound."""
        if self.law.sense == "at least":
            return self.figure >= self.bound
        return self.figure <= self.bound

    @property
    def figure_text(self) -> str:
        return number(self.figure)

    @property
    def bound_text(self) -> str:
        if self.bound == 0:
            return f"0 {self.law.unit}"
        return f"{self.law.sense} {number(self.bound)} {self.law.unit}".strip()

    def __str__(self) -> str:
        said = f"{self.law.name}, {self.of}: {self.figure_text}, want {self.bound_text}"
        return f"{said} ({self.failure})" if self.failure else said


def number(figure: float) -> str:
    """For people: counts in full, anything else to four digits."""
    return f"{figure:.0f}" if abs(figure) >= 1000 else f"{figure:.4g}"
