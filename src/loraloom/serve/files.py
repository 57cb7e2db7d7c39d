"""A file as an answer, whole or the part that is asked for; open before the answer begins."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from starlette.responses import Response, StreamingResponse

from loraloom.errors import ResultGoneError

from .errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

CHUNK = 2**18
"""Bytes that are read at a time."""


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes of a file from ``start`` to ``stop``, exclusive."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Shown:
    """How a file is called; ``tag`` is other for other bytes."""

    name: str
    media_type: str
    tag: str


class FileAnswer(StreamingResponse):
    """A part of an open file; it is sent to its end, even if it is removed meanwhile."""

    def __init__(self, file: BinaryIO, part: Part, status: int, headers: dict[str, str]) -> None:
        super().__init__(_chunks(file, part), status, headers)
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await super().__call__(scope, receive, send)


def answer(request: Request, path: Path, shown: Shown) -> Response:
    """The answer with a file, with the part that the header Range names, or that it is known.

    Raises:
        ResultGoneError: it has just been removed.
        Refusal: it has no such part.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise ResultGoneError("the result has expired") from error
    size = os.fstat(file.fileno()).st_size
    headers = {
        "Content-Type": shown.media_type,
        "Content-Disposition": f'inline; filename="{shown.name}"',
        "Accept-Ranges": "bytes",
        "ETag": f'"{shown.tag}"',
        # a result never changes; only browsers keep it, for a link may be somebody's alone
        "Cache-Control": "private, max-age=31536000, immutable",
    }
    if known(request, headers["ETag"]):
        file.close()
        return Response(status_code=304, headers=headers)
    whole = Part(0, size)
    same = request.headers.get("if-range", headers["ETag"]) == headers["ETag"]
    part = _part(request.headers.get("range", ""), size) if same else None
    if part is not None and not part.start < part.stop:
        file.close()
        refusal = Refusal("range_not_satisfiable", f"the file has bytes 0 to {size - 1}")
        refusal.headers = {"Content-Range": f"bytes */{size}"}
        raise refusal
    sent = part or whole
    headers["Content-Length"] = str(sent.stop - sent.start)
    if part is None:
        return FileAnswer(file, whole, 200, headers)
    headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
    return FileAnswer(file, part, 206, headers)


def known(request: Request, tag: str) -> bool:
    """Whether a header If-None-Match names a tag (RFC 9110, 13.1.2)."""
    given = request.headers.get("if-none-match", "").split(",")
    tags = {each.strip().removeprefix("W/") for each in given}
    return tag in tags or "*" in tags


def _part(wanted: str, size: int) -> Part | None:
    """The part that a header Range names, an empty one where the file has none of it.

    ``None`` is the whole file: several parts at once, and what is no range, may be ignored
    (RFC 9110, 14.2).
    """
    found = re.fullmatch(r"bytes=([0-9]{0,18})-([0-9]{0,18})", wanted.replace(" ", ""))
    if found is None or found[0] == "bytes=-":
        return None
    first, last = found[1], found[2]
    if not first:
        return Part(max(0, size - int(last)), size)
    stop = min(int(last) + 1, size) if last else size
    return None if last and int(last) < int(first) else Part(int(first), stop)


def _chunks(file: BinaryIO, part: Part) -> Iterator[bytes]:
    file.seek(part.start)
    left = part.stop - part.start
    while left and (chunk := file.read(min(CHUNK, left))):
        left -= len(chunk)
        yield chunk
