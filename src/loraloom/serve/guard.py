"""What every request passes on its way in: its id, its host and origin, its key, its size."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders

from .errors import Refusal, answer

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from loraloom.settings import Settings

    from .keys import Keys

SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""What every answer says to browsers, unless a route says it otherwise."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

RESULT = re.compile(r"^/v1/results/[^/]+/[0-9]+$")
"""What a signed link may open without a key."""

SMALL_BODY = 64 * 2**20
"""The largest body of everything that brings no adapter, in bytes: a few large pictures."""

CLOSING = {"Connection": "close"}
"""Of an answer after which what is left of the body is not waited for."""

STALL = 60.0
"""Seconds without a byte after which whoever sends a body counts as gone."""

UPLOADS = frozenset({"/v1/adapters", "/v1/adapters/inspect"})
"""Where bodies may be as large as adapters are."""


@dataclass(frozen=True, slots=True)
class Hosts:
    """Under which names the server is meant.

    Attributes:
        allowed: names besides those of this machine, of which ``*`` is any.
        strict: whether other names are refused. A page elsewhere may let its own name point to
            this machine, and then asks as if it came from here; where no key stops it, its name
            does.
    """

    allowed: frozenset[str]
    strict: bool

    @classmethod
    def of(cls, settings: Settings, *, keys: bool) -> Hosts:
        """Names matter where they are given, and on a machine that serves itself without keys."""
        allowed = frozenset(name.lower() for name in settings.allowed_host)
        return cls(allowed, bool(allowed) or (not keys and local(settings.host)))

    def meant(self, host: str) -> bool:
        """Whether a header ``Host`` names this server."""
        name = name_of(host)
        return not self.strict or local(name) or bool(self.allowed & {name, host.lower(), "*"})

    def same(self, origin: str, host: str) -> bool:
        """Whether a page of ``origin`` is this server's own, or of an allowed name."""
        try:
            place = urlsplit(origin).netloc.lower()
        except ValueError:  # an address with half a pair of brackets
            return False
        return bool(place) and (
            place == host.lower() or bool(self.allowed & {name_of(place), place, "*"})
        )


def name_of(host: str) -> str:
    """A host without its port and brackets, in small letters."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def local(name: str) -> bool:
    """Whether ``name`` is this machine by itself, whatever a name server says."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Guard:
    """Lets through what may pass, with its caller and its id in ``request.state``.

    Pure ASGI, so that streams and the news that a client has gone come through as they are.
    """

    def __init__(self, app: ASGIApp, *, keys: Keys, hosts: Hosts, most_bytes: int) -> None:
        self.app = app
        self.keys = keys
        self.hosts = hosts
        self.most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = id_of(headers.get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id
        told = telling(send, request_id)
        most = self.most_bytes if scope["path"] in UPLOADS else SMALL_BODY
        try:
            self._check(scope, headers)
            check_length(headers, most)
        except Refusal as refusal:
            await answer(refusal)(scope, receive, told)
            return
        await self.app(scope, counted(receive, most), told)

    def _check(self, scope: Scope, headers: Headers) -> None:
        host = headers.get("host", "")
        if not self.hosts.meant(host):
            raise Refusal(
                "forbidden",
                f"the host {host[:100]!r} is not one of this server's names; "
                "--allowed-host NAME makes it one",
            )
        origin = headers.get("origin")
        if origin and scope["method"] not in SAFE_METHODS and not self.hosts.same(origin, host):
            raise Refusal(
                "forbidden",
                f"a page of {origin[:100]!r} may not do this; --allowed-host NAME allows its name",
            )
        caller, signed = self.keys.caller(headers.get("authorization")), self._signed(scope)
        scope["state"].update(caller=caller, signed=signed)
        if caller is None and scope["path"].startswith("/v1/") and not signed:
            raise _no_key(headers.get("authorization"))

    def _signed(self, scope: Scope) -> bool:
        path = scope["path"]
        if scope["method"] not in {"GET", "HEAD"} or not RESULT.match(path):
            return False
        query = parse_qs(scope["query_string"].decode("latin-1"))
        given = [query.get(name, [""])[0] for name in ("expires", "signature")]
        return self.keys.opens(path, *given)


def _no_key(authorization: str | None) -> Refusal:
    got = "the key is not one that is taken" if authorization else "there is no key"
    refusal = Refusal("invalid_api_key", f"{got}, want the header Authorization: Bearer KEY")
    refusal.headers = {"WWW-Authenticate": "Bearer"}
    return refusal


def id_of(given: str | None) -> str:
    """The id that a client gave its request, or one of our own."""
    if given and re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given):
        return given
    return secrets.token_hex(16)


def headers_of(request_id: str) -> dict[str, str]:
    """What every answer says beside its own headers."""
    return {**SAFE_HEADERS, "X-Request-ID": request_id}


def telling(send: Send, request_id: str) -> Send:
    """``send`` that adds the headers of every answer."""

    async def told(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in headers_of(request_id).items():
                headers.setdefault(name, value)
        await send(message)

    return told


def check_length(headers: Headers, most: int) -> None:
    """Return if a body is as long as it may be, by what its header says.

    Raises:
        Refusal: it is longer, or two headers say where it ends: a proxy in front may believe the
            one, and what is behind it the other (RFC 9112, 6.1).
    """
    given = headers.get("content-length", "")
    if given and "transfer-encoding" in headers:
        said = "Content-Length and Transfer-Encoding both say where the body ends, want one"
        refusal = Refusal("invalid_value", said)
        refusal.headers = CLOSING
        raise refusal
    if given.isascii() and given.isdigit() and int(given[:20]) > most:
        raise _too_large(most)


def counted(receive: Receive, most: int) -> Receive:
    """``receive`` that stops a body beyond ``most`` bytes, whatever its header said.

    A body of which nothing comes for :data:`STALL` seconds ends as if its sender had gone.

    Raises:
        Refusal: from where the body is read.
    """
    so_far, whole = 0, False

    async def received() -> Message:
        nonlocal so_far, whole
        try:
            async with asyncio.timeout(None if whole else STALL):
                message = await receive()
        except TimeoutError:
            return {"type": "http.disconnect"}
        if message["type"] == "http.request":
            whole = not message.get("more_body", False)
            so_far += len(message.get("body", b""))
            if so_far > most:
                raise _too_large(most)
        return message

    return received


def _too_large(most: int) -> Refusal:
    refusal = Refusal(
        "payload_too_large", f"the body is larger than {most // 2**20} MiB, which is the most"
    )
    refusal.headers = CLOSING
    return refusal
