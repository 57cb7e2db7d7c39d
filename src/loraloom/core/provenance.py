"""How a picture or video was made, as a value that its file carries and that makes it again."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Literal, NoReturn

from loraloom.errors import MediaError, RecordError

from .mix import Component, Scope
from .records import record
from .request import LIVE, Canvas, Manner, Policy
from .schedule import ALWAYS, Curve
from .stage import Stage


@dataclass(frozen=True, slots=True)
class Worn:
    """One adapter as it was worn; ``sites`` counts the layers that it changed.

    ``manner`` is what :class:`Lora` takes to be worn so again. What a stage brought (``by``), it
    brings again; a request that named it at strength 0 took it off.
    """

    name: str
    digest: str
    strength: float
    sites: int
    curve: Curve = ALWAYS
    scopes: tuple[Scope, ...] = ()
    manner: Manner = LIVE
    stages: tuple[float, ...] = ()
    by: Literal["request", "stage"] = "request"
    target: Component | None = None

    def __str__(self) -> str:
        if not self.strength:
            return f"{self.name}@{self.digest[:12]} taken off"
        by_stage = ", ".join(f"{self.strength * factor:g}" for factor in self.stages)
        strength = f"{by_stage} by stage" if by_stage else f"{self.strength:g}"
        said = f"{self.name}@{self.digest[:12]} at {strength} on {self.sites} sites"
        if self.target:
            said += f" of {self.target}"
        if self.curve != ALWAYS:
            knots = " ".join(f"{knot.progress:g}:{knot.factor:g}" for knot in self.curve.knots)
            said += f", over progress {knots}"
        if self.scopes:
            said += ", at " + " ".join(f"{s.pattern}:{s.factor:g}" for s in self.scopes)
        return said


@dataclass(frozen=True, slots=True)
class Shown:
    """An image that a video shows: where, how strongly, and the digest of its pixels.

    Those of the frames that follow it are in the digest too.
    """

    digest: str
    frame: int
    strength: float


@dataclass(frozen=True, slots=True)
class Seen:
    """A video that was looked at: how, and the digest of its frames."""

    digest: str
    strength: float
    downscale: int
    attention: float


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture that another was made of: the digest of its pixels, and how much was redrawn."""

    digest: str
    redrawn: float


@dataclass(frozen=True, slots=True)
class Asked:
    """The request with everything that the model's card filled in; adapters are in ``worn``."""

    prompt: str
    negative_prompt: str
    seed: int
    canvas: Canvas
    stages: tuple[Stage, ...]
    audio: bool
    images: tuple[Shown, ...] = ()
    references: tuple[Seen, ...] = ()
    origin: Drawn | None = None


@dataclass(frozen=True, slots=True)
class Versions:
    """The packages whose change may change a picture's bits."""

    loraloom: str
    torch: str
    diffusers: str

    def __str__(self) -> str:
        return f"loraloom {self.loraloom}, torch {self.torch}, diffusers {self.diffusers}"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Everything that the bytes of a picture depend on, besides the machine."""

    model: str
    model_version: str
    asked: Asked
    worn: tuple[Worn, ...]
    policy: Policy
    versions: Versions

    def to_json(self) -> str:
        """One line of ASCII with sorted keys: equal values are equal bytes."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        """The value that :meth:`to_json` wrote.

        Raises:
            MediaError: not JSON, or a field is missing, unknown or of another type.
        """
        try:
            data = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise MediaError(f"the provenance is no JSON: {error}") from error
        try:
            return record(cls, data, "provenance")
        except RecordError as error:
            raise MediaError(str(error)) from error

    def describe(self) -> str:
        """The same for people, a line a subject."""
        asked, canvas = self.asked, self.asked.canvas
        size = f"{canvas.width}x{canvas.height}"
        if canvas.frames > 1:
            size += f", {canvas.frames} frames at {canvas.rate:g} per second"
        lines = [
            asked.prompt,
            f"Negative prompt: {asked.negative_prompt}" if asked.negative_prompt else "",
            f"Seed: {asked.seed}, Size: {size}",
            *(f"Stage {stage.describe(canvas)}" for stage in asked.stages),
            f"Model: {self.model} {self.model_version}",
            f"Adapters ({self.policy}): " + ("; ".join(map(self._told, self.worn)) or "none"),
        ]
        return "\n".join(line for line in lines if line)

    def _told(self, worn: Worn) -> str:
        return f"{worn} ({worn.manner})" if self.policy == "auto" else str(worn)


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")
