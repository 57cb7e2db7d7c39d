"""How a picture or video was made, as a value that its file carries and that makes it again."""

from __future__ import annotations

import dataclasses
import json
import types
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from loraloom.errors import MediaError

from .request import Canvas, Policy, Sampling

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Worn:
    """One adapter as it was worn; ``sites`` counts the layers that it changed."""

    name: str
    digest: str
    strength: float
    sites: int

    def __str__(self) -> str:
        return f"{self.name}@{self.digest[:12]} at {self.strength:g} on {self.sites} sites"


@dataclass(frozen=True, slots=True)
class Shown:
    """An image that conditioned a video: where, how strongly, and the digest of its pixels."""

    digest: str
    frame: int
    strength: float


@dataclass(frozen=True, slots=True)
class Asked:
    """The request with everything that the model's card filled in; adapters are in ``worn``."""

    prompt: str
    negative_prompt: str
    seed: int
    canvas: Canvas
    sampling: Sampling
    images: tuple[Shown, ...] = ()


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
        return _record(cls, data, "provenance")

    def describe(self) -> str:
        """The same for people, a line a subject."""
        asked, canvas = self.asked, self.asked.canvas
        size = f"{canvas.width}x{canvas.height}"
        if canvas.frames > 1:
            size += f", {canvas.frames} frames at {canvas.rate:g} per second"
        lines = [
            asked.prompt,
            f"Negative prompt: {asked.negative_prompt}" if asked.negative_prompt else "",
            f"Seed: {asked.seed}, Steps: {asked.sampling.steps}, "
            f"Guidance: {asked.sampling.guidance:g}, Size: {size}",
            f"Model: {self.model} {self.model_version}",
            f"Adapters ({self.policy}): " + ("; ".join(map(str, self.worn)) or "none"),
        ]
        return "\n".join(line for line in lines if line)


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _record(kind: type[T], data: object, where: str) -> T:
    """A dataclass from a mapping that holds its fields, all of them and no other."""
    if not isinstance(data, dict):
        raise MediaError(f"{where} is {type(data).__name__}, want an object")
    hints = get_type_hints(kind)
    for missing in [name for name in hints if name not in data]:
        raise MediaError(f"{where} has no field {missing!r}")
    for unknown in [name for name in data if name not in hints]:
        raise MediaError(f"{where} has an unknown field {unknown!r}")
    return kind(**{name: _value(hints[name], data[name], f"{where}.{name}") for name in hints})


def _value(hint: Any, data: object, where: str) -> object:
    """``data`` as ``hint``, one of the few types that a provenance is made of."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _record(hint, data, where)
    if get_origin(hint) is tuple:
        if not isinstance(data, list):
            raise MediaError(f"{where} is {type(data).__name__}, want a list")
        item = get_args(hint)[0]
        return tuple(_value(item, one, f"{where}[{i}]") for i, one in enumerate(data))
    if get_origin(hint) is Literal:
        if data not in get_args(hint):
            raise MediaError(f"{where} is {data!r}, want one of {', '.join(get_args(hint))}")
        return data
    assert hint in (str, int, float)
    accepted: type | types.UnionType = int | float if hint is float else hint
    if isinstance(data, bool) or not isinstance(data, accepted):
        raise MediaError(f"{where} is {data!r}, want {hint.__name__}")
    return hint(data)
