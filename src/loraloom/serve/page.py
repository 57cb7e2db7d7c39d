"""The page: its files come with the package, and nothing on it comes from anywhere else."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from starlette.responses import Response

from .errors import Refusal
from .files import known

if TYPE_CHECKING:
    from collections.abc import Mapping

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).parent / "web"
INDEX = "index.html"

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""The kinds of files that the page is made of; no other is given away."""

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "form-action 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
"""What the page may do: nothing is loaded from or sent to another host, nothing inline is run."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # a browser keeps the files, and asks whether they are current
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page; the tag changes with its bytes."""

    data: bytes
    kind: str
    tag: str


@cache
def assets() -> Mapping[str, Asset]:
    """The files of the page by name; read once, and nothing that is not among them is found."""
    paths = sorted(path for path in FOLDER.iterdir() if path.suffix in TYPES)
    return MappingProxyType({path.name: _asset(path) for path in paths})


def _asset(path: Path) -> Asset:
    data = path.read_bytes()
    return Asset(data, TYPES[path.suffix], f'"{hashlib.sha256(data).hexdigest()[:32]}"')


@router.api_route("/", methods=["GET", "HEAD"])
def index(request: Request) -> Response:
    """The page itself."""
    return _answer(request, INDEX)


@router.api_route("/static/{file}", methods=["GET", "HEAD"])
def static(request: Request, file: str) -> Response:
    """What belongs to it."""
    return _answer(request, file)


def _answer(request: Request, name: str) -> Response:
    """A file, or that the one which the browser has is current.

    Raises:
        Refusal: there is none of that name.
    """
    asset = assets().get(name)
    if asset is None:
        raise Refusal("not_found", f"the page has no file {name[:100]!r}")
    headers = {**HEADERS, "ETag": asset.tag}
    if known(request, asset.tag):
        return Response(status_code=304, headers=headers)
    return Response(asset.data, headers=headers, media_type=asset.kind)
