"""What the server logs: one line a request and one a job that outlives its request, as events.

Never a prompt, a key, or what follows ``?`` in an address, which may hold a signature.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from loraloom.errors import UnknownTicketError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from loraloom.engine.engine import Engine
    from loraloom.engine.ticket import Event, Ticket
    from loraloom.settings import Settings

QUIET = frozenset({"/health", "/ready", "/metrics"})
"""What machines ask every few seconds; logged at the level ``debug``."""

LONGEST = 300
"""Characters of an address that are logged."""

GONE = 499
"""The status in the log of a request whose client left before the answer began."""

log = logging.getLogger(__name__)


def configure(settings: Settings) -> None:
    """Send what this process logs to stderr, ours from the level of the settings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines() if settings.log_format == "text" else Records())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("loraloom").setLevel(settings.log_level.upper())


def event(name: str, level: int = logging.INFO, **values: object) -> None:
    """Log something that happened, with its values."""
    log.log(level, name, extra={"values": values})


class Records(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(
            {
                "time": _time(record),
                "level": record.levelname.lower(),
                "event": record.getMessage(),
                **_values(record),
                **({"trace": self.formatException(record.exc_info)} if record.exc_info else {}),
            },
            default=str,
        )


class Lines(logging.Formatter):
    """Words for a person; a value never begins a line of its own."""

    def format(self, record: logging.LogRecord) -> str:
        said = [_time(record), record.levelname.lower(), record.getMessage()]
        said += [f"{name}={_word(value)}" for name, value in _values(record).items()]
        line = " ".join(said)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _time(record: logging.LogRecord) -> str:
    begun = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{begun}.{int(record.msecs):03}Z"


def _values(record: logging.LogRecord) -> Mapping[str, object]:
    values: Mapping[str, object] = getattr(record, "values", {})
    return {
        name: round(value, 6) if isinstance(value, float) else value
        for name, value in values.items()
    }


def _word(value: object) -> str:
    text = str(value)
    plain = text.isprintable() and not set(text) & set(' "=')
    return text if plain and text else json.dumps(text)


class Logged:
    """Logs every request when its answer has gone out. Pure ASGI, around the whole application.

    Who submits a job says so with :func:`note_job`; its times are then part of the request's line,
    or of a line of its own if it goes on after the answer.
    """

    def __init__(self, app: ASGIApp, engine: Engine) -> None:
        self.app = app
        self.engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), GONE

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, told)
        finally:
            self._request(scope, status, time.perf_counter() - began)

    def _request(self, scope: Scope, status: int, seconds: float) -> None:
        state = scope.get("state", {})
        caller, job = state.get("caller"), state.get("job")
        event(
            "request",
            logging.DEBUG if scope["path"] in QUIET else logging.INFO,
            method=scope["method"],
            path=scope["path"][:LONGEST],
            status=status,
            seconds=seconds,
            request=state.get("request_id", ""),
            **(owned(caller.owner) if caller else {}),
            **(self._job(job) if job else {}),
        )

    def _job(self, job: str) -> dict[str, Any]:
        """What is known of a job now; the rest when it has ended."""
        try:
            ticket = self.engine.ticket(job)
            if not ticket.ended:
                self.engine.watch(job, ended)
        except UnknownTicketError:  # deleted meanwhile
            return {"job": job}
        return told_of(ticket)


def note_job(scope: Scope, job: str) -> None:
    """Say which job a request is about."""
    scope.setdefault("state", {})["job"] = job


def ended(seen: Event) -> None:
    """Log a job that has ended."""
    if seen.ticket.ended:
        event("job", **told_of(seen.ticket), **owned(seen.ticket.owner))


def owned(owner: str) -> dict[str, Any]:
    """Whose it is, where that is told apart."""
    return {"owner": owner} if owner else {}


def told_of(ticket: Ticket) -> dict[str, Any]:
    """The values of a job, with its times where it has ended."""
    values: dict[str, Any] = {"job": ticket.id, "kind": ticket.kind, "state": ticket.state}
    if ticket.outcome.trouble is not None:
        values["code"] = ticket.outcome.trouble.code
    if ticket.ended:
        values["results"] = len(ticket.outcome.outputs)
        values |= asdict(ticket.outcome.spent)
    return values
