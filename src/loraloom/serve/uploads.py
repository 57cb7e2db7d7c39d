"""Multipart bodies as they arrive: fields as text, files straight to where they are wanted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from .errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from python_multipart.multipart import MultipartCallbacks
    from starlette.requests import Request

MOST_FIELDS = 64
LONGEST_FIELD = 1 << 16
HELD = 1 << 20
"""Bytes that are written at a time, in another thread."""


class Sink(Protocol):
    """Where the bytes of one file go."""

    def write(self, data: bytes, /) -> object: ...


@dataclass(slots=True)
class Part:
    """One part under way: a file has a sink, a field has none; ``held`` is not written yet."""

    name: str = ""
    sink: Sink | None = None
    held: bytearray = field(default_factory=bytearray)

    async def flush(self) -> None:
        """Write what is held; of a field nothing is written."""
        if self.sink is not None and self.held:
            await run_in_threadpool(self.sink.write, bytes(self.held))
            self.held.clear()


def is_multipart(request: Request) -> bool:
    """Whether the body says that it is a form."""
    kind = request.headers.get("content-type", "")
    return kind.partition(";")[0].strip().lower() == "multipart/form-data"


async def receive(request: Request, opened: Callable[[str, str], Sink]) -> Mapping[str, str]:
    """The fields of a form, by name.

    Args:
        opened: where a file goes, by the names of its field and of itself.

    Raises:
        Refusal: the form is none, is cut off, has too many or too long fields, or names one twice.
    """
    _, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if not boundary:
        raise Refusal("invalid_value", "the form names no boundary in its content-type")
    form = _Form(opened)
    try:
        parser = MultipartParser(boundary, form.callbacks)
        async for chunk in request.stream():
            parser.write(chunk)
            await form.drain(HELD)
        parser.finalize()
    except FormParserError as error:
        raise Refusal("invalid_value", f"the form is malformed: {error}") from error
    except ClientDisconnect as error:
        raise Refusal("invalid_value", "the form was cut off") from error
    await form.drain(HELD)
    if not form.ended:
        raise Refusal("invalid_value", "the form was cut off: its last boundary is missing")
    return form.fields


class _Form:
    """What was found so far. Callbacks of the parser write nothing, for they may not wait."""

    def __init__(self, opened: Callable[[str, str], Sink]) -> None:
        self.opened = opened
        self.fields: dict[str, str] = {}
        self.ended = False
        self._part = Part()
        self._over: list[Part] = []
        self._header = (bytearray(), bytearray())
        self._headers: dict[bytes, bytes] = {}

    @property
    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, i, j: self._header[0].extend(data[i:j]),
            "on_header_value": lambda data, i, j: self._header[1].extend(data[i:j]),
            "on_header_end": self._note,
            "on_headers_finished": self._open,
            "on_part_data": self._hold,
            "on_part_end": self._close,
            "on_end": self._end,
        }

    async def drain(self, least: int) -> None:
        """Write what came for files: of those that are over, and of one with ``least`` bytes."""
        for part in self._over:
            await part.flush()
        self._over.clear()
        if len(self._part.held) >= least:
            await self._part.flush()

    def _begin(self) -> None:
        self._part = Part()
        self._headers.clear()

    def _note(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _open(self) -> None:
        _, said = parse_options_header(self._headers.get(b"content-disposition"))
        if b"name" not in said:
            raise Refusal("invalid_value", "a part of the form has no name")
        name = said[b"name"].decode("utf-8", "replace")
        sink = None
        if b"filename" in said:
            sink = self.opened(name, said[b"filename"].decode("utf-8", "replace"))
        elif name in self.fields:
            raise Refusal("invalid_value", f"field {name!r} is there twice", name)
        elif len(self.fields) >= MOST_FIELDS:
            raise Refusal("invalid_value", f"the form has more than {MOST_FIELDS} fields")
        self._part = Part(name, sink)

    def _hold(self, data: bytes, start: int, stop: int) -> None:
        part = self._part
        part.held += data[start:stop]
        if part.sink is None and len(part.held) > LONGEST_FIELD:
            raise Refusal(
                "payload_too_large", f"field {part.name!r} has more than {LONGEST_FIELD} bytes"
            )

    def _close(self) -> None:
        part = self._part
        if part.sink is not None:
            self._over.append(part)
            return
        try:
            self.fields[part.name] = part.held.decode()
        except UnicodeDecodeError as error:
            raise Refusal(
                "invalid_value", f"field {part.name!r} is no UTF-8: {error}", part.name
            ) from error

    def _end(self) -> None:
        self.ended = True
