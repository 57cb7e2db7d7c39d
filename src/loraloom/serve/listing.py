"""Bodies of requests about adapters, and adapters as answers show them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import BaseModel, Field

from loraloom.errors import UnknownAdapterError
from loraloom.store.editions import Fit, Label

from .schemas import LoraBody, Strict

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from loraloom.core.mix import AdapterKey
    from loraloom.store.catalog import Catalog
    from loraloom.store.editions import Edition

Name: TypeAlias = Annotated[
    str,  # of dots alone it would lead elsewhere in an address
    Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}$", examples=["neon"]),
]
Word: TypeAlias = Annotated[str, Field(min_length=1, max_length=200)]
Tier: TypeAlias = Literal["device", "host", "disk"]


FACTS = (
    "format",
    "sites",
    "of",
    "components",
    "rank",
    "alpha",
    "unmatched",
    "nbytes",
    "notes",
    "about",
)
"""What answers show of an edition's facts, by the same names."""


class FitBody(Strict):
    """How a file is to be read."""

    component: Word | None = Field(
        None, description="That the file is for, where its keys do not say so."
    )
    alpha: float | None = Field(None, description="Of layers that carry none of their own.")
    allow_partial: bool = Field(default=False, description="Take a file that fits only in part.")

    @property
    def fit(self) -> Fit:
        return Fit(self.component, self.alpha, self.allow_partial)


class LabelBody(Strict):
    """How an adapter is offered; what is absent stays as it is."""

    strength: float | None = Field(None, description="Where a request gives no scale.")
    triggers: Annotated[list[Word], Field(max_length=64)] | None = None
    aliases: Annotated[list[Name], Field(max_length=16)] | None = None
    pinned: bool | None = Field(None, description="Whether it stays in the host's memory.")

    def label(self, before: Label) -> Label:
        """``before`` with what the body says."""
        return replace(
            before,
            strength=before.strength if self.strength is None else self.strength,
            triggers=before.triggers if self.triggers is None else tuple(self.triggers),
            aliases=before.aliases if self.aliases is None else tuple(self.aliases),
            pinned=before.pinned if self.pinned is None else self.pinned,
        )


class SourceBody(Strict):
    """Where an adapter is."""

    source: str | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="A path under an allowed root, a hub id, or a link of the hub.",
    )


class InspectBody(FitBody, SourceBody):
    """``POST /v1/adapters/inspect``."""


class AdapterBody(FitBody, LabelBody, SourceBody):
    """``POST /v1/adapters``."""

    name: Name
    replace: bool = Field(
        default=True, description="Whether a name that is taken gets the new adapter."
    )


class PinBody(Strict):
    """``POST /v1/adapters/{name}/pin``."""

    pinned: bool = True


class MixBody(Strict):
    """``PUT /v1/default-mix``."""

    loras: Annotated[list[LoraBody], Field(max_length=64)]


class Origin(BaseModel):
    """Which bytes an adapter is, and where they came from; never a path of the server."""

    name: str
    sha256: str
    source: str
    bundled: bool
    published_at: int


class Coverage(BaseModel):
    """What a file changes of the model."""

    format: str
    sites: int
    of: int


class Words(BaseModel):
    """What a user should know of a file, and what it says of itself."""

    notes: tuple[str, ...]
    about: dict[str, str]


class Contents(Coverage, Words):
    """What the file of an adapter holds; rank and alpha are numbers, or spans of them."""

    components: tuple[str, ...]
    rank: str
    alpha: str
    unmatched: int
    nbytes: int


class Offered(BaseModel):
    """How an adapter is offered: the label of its name."""

    strength: float
    triggers: tuple[str, ...]
    aliases: tuple[str, ...]
    pinned: bool
    picture: str | None


class AdapterAnswer(Origin, Contents, Offered):
    """One adapter of the catalogue, where it lies now, and how many requests use it."""

    object: Literal["adapter"] = "adapter"
    tier: Tier
    users: int


class AdapterList(BaseModel):
    """All of them, by name."""

    object: Literal["list"] = "list"
    data: list[AdapterAnswer]


class WithdrawnAnswer(BaseModel):
    """``in_use`` requests still wear it, and keep it until they are done."""

    object: Literal["adapter.deleted"] = "adapter.deleted"
    name: str
    deleted: Literal[True] = True
    in_use: int
    left_default_mix: bool


def shown(edition: Edition, catalog: Catalog, on_device: AbstractSet[AdapterKey]) -> AdapterAnswer:
    """An edition with its label, as answers show it."""
    key, label = edition.key, catalog.label(edition.key.name)
    tier: Tier = "device" if key in on_device else "host" if key in catalog.by_key else "disk"
    facts = asdict(edition.facts)
    return AdapterAnswer(
        name=key.name,
        sha256=key.digest,
        source=edition.source,
        bundled=edition.source == "bundled",
        tier=tier,
        users=catalog.users(key.name),
        published_at=int(edition.published),
        strength=label.strength,
        triggers=label.triggers,
        aliases=label.aliases,
        pinned=label.pinned,
        picture=picture_of(edition.name, label),
        **{name: facts[name] for name in FACTS},
    )


def all_shown(catalog: Catalog, on_device: AbstractSet[AdapterKey]) -> list[AdapterAnswer]:
    """The whole catalogue, without what is withdrawn while it is looked at."""
    found = []
    for edition in catalog.editions():
        with suppress(UnknownAdapterError):
            found.append(shown(edition, catalog, on_device))
    return found


def picture_of(name: str, label: Label) -> str | None:
    """Where the picture is; another picture is elsewhere, so that browsers may keep them."""
    if label.picture is None:
        return None
    return f"/v1/adapters/{name}/picture?v={label.picture[:8]}"
