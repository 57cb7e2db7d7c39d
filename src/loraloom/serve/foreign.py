"""Bodies and answers of the calls that clients of sglang and vLLM make."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, Field

from .errors import Refusal
from .listing import Name, Word
from .placing import ALL
from .schemas import Strict

T = TypeVar("T")


class SetLora(Strict):
    """``POST /v1/set_lora``; of lists, entries of one place belong together."""

    lora_nickname: Name | Annotated[list[Name], Field(min_length=1, max_length=64)]
    lora_path: Word | list[Word | None] | None = Field(
        None, description="A path under an allowed root or a hub id; null has the published one."
    )
    target: Word | list[Word] = ALL
    strength: float | list[float] = 1.0
    merge_mode: Literal["auto", "merge", "dynamic"] | None = Field(
        None, description="Changes nothing: weights are never merged for everybody."
    )
    lora_alpha: float | list[float | None] | None = None


class MergeLora(Strict):
    """``POST /v1/merge_lora_weights``."""

    target: Word = ALL
    strength: float = 1.0


class UnmergeLora(Strict):
    """``POST /v1/unmerge_lora_weights``."""

    target: Word = ALL


class LoadAdapter(Strict):
    """``POST /v1/load_lora_adapter``."""

    lora_name: Name
    lora_path: Word
    load_inplace: bool = Field(default=False, description="Whether a taken name is replaced.")


class UnloadAdapter(Strict):
    """``POST /v1/unload_lora_adapter``."""

    lora_name: Name
    lora_int_id: int | None = Field(None, description="Taken and not needed.")


class Done(BaseModel):
    """What sglang's calls answer; the message says what happened."""

    status: Literal["ok"] = "ok"
    message: str


class Loaded(BaseModel):
    """An adapter that is there; the path is where it came from, never one of the server."""

    nickname: str
    path: str


class Active(Loaded):
    """An adapter of the default mix."""

    merged: Literal[False] = False
    mode: str
    strength: float


class Loras(BaseModel):
    """``GET /v1/list_loras``: what is there, and what the default mix wears by component."""

    loaded_adapters: list[Loaded]
    active: dict[str, list[Active]]


@dataclass(frozen=True, slots=True)
class Setting:
    """One adapter of a call of ``set_lora``."""

    name: str
    path: str | None
    target: str
    strength: float
    alpha: float | None


def settings_of(body: SetLora) -> list[Setting]:
    """One setting a nickname; a value that is no list is for all of them.

    Raises:
        Refusal: lists are of different lengths, or a nickname is there twice.
    """
    names = body.lora_nickname if isinstance(body.lora_nickname, list) else [body.lora_nickname]
    for name, times in Counter(names).items():
        if times > 1:
            raise Refusal(
                "invalid_value",
                f"lora_nickname has {name!r} {times} times; what two components wear differently "
                "wants two nicknames",
                "lora_nickname",
            )
    if isinstance(body.lora_path, str) and len(names) > 1:
        said = f"lora_path is one path for {len(names)} nicknames, want a list"
        raise Refusal("invalid_value", said, "lora_path")
    each = partial(_each, count=len(names))
    columns = zip(
        names,
        each(body.lora_path, "lora_path"),
        each(body.target, "target"),
        each(body.strength, "strength"),
        each(body.lora_alpha, "lora_alpha"),
        strict=True,
    )
    return [Setting(*row) for row in columns]


def _each(value: T | list[T], param: str, count: int) -> list[T]:
    if not isinstance(value, list):
        return [value] * count
    if len(value) != count:
        said = f"{param} has {len(value)} entries for {count} nicknames, want one for each"
        raise Refusal("invalid_value", said, param)
    return value
