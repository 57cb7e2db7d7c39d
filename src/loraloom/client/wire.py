"""What calls and answers of the HTTP interface look like: bodies, events, pictures, errors."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from PIL import Image

from loraloom.core.lora import Lora
from loraloom.core.schedule import ALWAYS
from loraloom.engine.wishes import parse_wish
from loraloom.errors import ApiError, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from os import PathLike

Json: TypeAlias = dict[str, Any]
Bytes: TypeAlias = bytes
Worn: TypeAlias = "str | Lora | Mapping[str, Any]"
"""``neon`` at its default strength, ``neon:0.8``, a :class:`loraloom.Lora`, or as HTTP has it."""

Wears: TypeAlias = "Sequence[Worn] | None"
"""What is worn; ``None`` is the server's default mix, an empty list is nothing."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as it was sent, with what was worn, by the job that made it."""

    bytes: Bytes = field(repr=False)
    seed: int
    loras: tuple[Json, ...]
    job: str

    @property
    def image(self) -> Image.Image:
        return Image.open(BytesIO(self.bytes))

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the bytes as they are: the file says how it was made."""
        path = Path(path)
        path.write_bytes(self.bytes)
        return path


@dataclass(frozen=True, slots=True)
class JobEvent:
    """A change of a job; numbers count up from 1."""

    number: int
    job: Json


def fields(prompt: str, loras: Wears, options: Mapping[str, Any]) -> Json:
    """The body of a call; what is ``None`` is not said."""
    fields: Json = {"prompt": prompt, **options}
    if loras is not None:
        fields["loras"] = [_lora(each) for each in loras]
    if fields.get("mixes") is not None:
        fields["mixes"] = [[_lora(each) for each in mix] for mix in fields["mixes"]]
    return {name: value for name, value in fields.items() if value is not None}


def _lora(worn: Worn) -> Json:
    """One adapter as HTTP has it.

    Raises:
        InvalidRequestError: it comes with a file, which has to be published first.
    """
    if not isinstance(worn, str | Lora):
        return dict(worn)
    usual = False
    if isinstance(worn, str):
        wish = parse_wish(worn)
        if wish.path is not None:
            raise InvalidRequestError(f"{worn!r} names a file, publish it first: adapters.add")
        usual, worn = not wish.strengths, wish.worn()
    knots = [{"progress": each.progress, "factor": each.factor} for each in worn.curve.knots]
    said = {
        "name": worn.name,
        "scale": None if usual else worn.strength,
        "target": worn.target,
        "version": worn.version,
        "stages": list(worn.stages) or None,
        "schedule": None if worn.curve == ALWAYS else knots,
        "scopes": [{"pattern": s.pattern, "factor": s.factor} for s in worn.scopes] or None,
    }
    return {name: value for name, value in said.items() if value is not None}


def form(fields: Json) -> dict[str, str]:
    """Fields as a form has them: texts as they are, everything else as JSON."""
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in fields.items()
    }


def pictures(answer: Json) -> list[Picture]:
    return [
        Picture(
            base64.b64decode(each["b64_json"]), each["seed"], tuple(each["loras"]), answer["id"]
        )
        for each in answer["data"]
    ]


def events(lines: Iterator[str]) -> Iterator[JobEvent]:
    """The events of a stream; https://html.spec.whatwg.org/multipage/server-sent-events.html."""
    said: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if name:
            said[name] = value.removeprefix(" ")
        elif not line and "data" in said:
            yield JobEvent(int(said["id"]), json.loads(said["data"]))
            said = {}


def refusal(status: int, body: bytes) -> ApiError:
    """The error of an answer; of one that is not the server's own, what it says."""
    try:
        said = json.loads(body)["error"]
        return ApiError(status, said["code"], said["message"], said["param"])
    except (ValueError, KeyError, TypeError):
        return ApiError(status, "unknown", body[:300].decode("utf-8", "replace"), None)
