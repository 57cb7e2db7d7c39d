"""What a call brings about an adapter: JSON that says where it is, or a form with its file."""

from __future__ import annotations

import json
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from anyio import CancelScope, to_thread

from loraloom.formats.source import LARGEST_CONFIG

from .errors import Refusal
from .forms import FORM, JSON, check_type, meant, parsed, picture, read_json
from .listing import SourceBody
from .uploads import receive

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from PIL.Image import Image
    from starlette.requests import Request

    from loraloom.store.stock import Draft

    from .shop import Goods, Shop
    from .uploads import Sink

S = TypeVar("S", bound=SourceBody)

LARGEST_PICTURE = 1 << 24
"""Bytes of a preview image's file."""

LISTS = ("triggers", "aliases")
"""Fields that a form may give as words with commas between them."""


class Small:
    """A small file, in memory."""

    def __init__(self, name: str, most: int) -> None:
        self.name = name
        self.most = most
        self.held = bytearray()

    def write(self, data: bytes) -> None:
        """More of it.

        Raises:
            Refusal: that is too much.
        """
        if len(self.held) + len(data) > self.most:
            said = f"file {self.name!r} has more than {self.most} bytes"
            raise Refusal("payload_too_large", said, self.name)
        self.held += data


class Upload:
    """The files of a form: the adapter's goes into a draft, those beside it into memory."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.config = Small("config", LARGEST_CONFIG)
        self.picture = Small("picture", LARGEST_PICTURE)
        self.given: set[str] = set()

    def opened(self, field: str, name: str) -> Sink:
        """Where the file of a field goes.

        Raises:
            Refusal: there is no such field, or it is there twice.
        """
        sinks: dict[str, Sink] = {
            "file": self.draft,
            "config": self.config,
            "picture": self.picture,
        }
        if field not in sinks:
            said = f"file {field!r} is not known, want file, config or picture"
            raise Refusal("unknown_field", said, field)
        if field in self.given:
            raise Refusal("invalid_value", f"file {field!r} is there twice", field)
        if name:  # a browser sends a field in which no file was chosen, without a name
            self.given.add(field)
        return sinks[field]


@dataclass(frozen=True, slots=True, eq=False)
class Brought(Generic[S]):
    """A call's body, and the files that came with it."""

    body: S
    upload: Upload | None = None

    @contextmanager
    def goods(self, shop: Shop) -> Iterator[Goods]:
        """The adapter's file, until the block ends; it takes a while.

        Raises:
            LoraloomError: it cannot be got, or may not be.
        """
        if self.upload is None or "file" not in self.upload.given:
            assert self.body.source is not None
            with shop.fetched(self.body.source) as goods:
                yield goods
            return
        config = bytes(self.upload.config.held) if "config" in self.upload.given else None
        with shop.uploaded(self.upload.draft, config) as goods:
            yield goods

    def picture(self, most: int) -> Image | None:
        """The picture of the adapter, if one came.

        Raises:
            Refusal: it is none, or has more than ``most`` pixels.
        """
        if self.upload is None or "picture" not in self.upload.given:
            return None
        return picture(BytesIO(self.upload.picture.held), "picture", most)


@asynccontextmanager
async def brought(request: Request, schema: type[S], shop: Shop) -> AsyncIterator[Brought[S]]:
    """What a call brings; nothing of an upload is left after the block that was not kept.

    Raises:
        Refusal: it does not fit the schema, or brings no adapter, or two.
    """
    if check_type(request, JSON, FORM) == JSON:
        body = await read_json(request, schema)
        _check_one(body, set())
        yield Brought(body)
        return
    stack = ExitStack()
    try:
        draft = await to_thread.run_sync(stack.enter_context, shop.stock.draft())
        upload = Upload(draft)
        fields = await receive(request, upload.opened)
        said = {name: _meant(schema, name, text) for name, text in fields.items() if text}
        body = parsed(json.dumps(said).encode(), schema)
        _check_one(body, upload.given)
        yield Brought(body, upload)
    finally:
        with CancelScope(shield=True):
            await to_thread.run_sync(stack.close)


def _check_one(body: SourceBody, given: set[str]) -> None:
    if (body.source is None) == ("file" not in given):
        how = "no adapter is given" if body.source is None else "a file and a source are given"
        raise Refusal("invalid_value", f"{how}, want a form's file or a source", "source")


def _meant(schema: type[SourceBody], name: str, text: str) -> Any:
    """A form may give lists as JSON, or as words with commas between them."""
    if name in LISTS and not text.lstrip().startswith("["):
        return [word.strip() for word in text.split(",") if word.strip()]
    return meant(schema, name, text)
