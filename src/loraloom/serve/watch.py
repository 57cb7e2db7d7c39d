"""The engine's events in the event loop: streams of them, and waiting for a job to end."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

from anyio import CancelScope
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from starlette.requests import Request
    from starlette.types import Send

    from loraloom.engine.engine import Engine
    from loraloom.engine.ticket import Event, Ticket

PAUSE = 15.0
"""Seconds of silence after which a stream says that it is still there."""

STILL_THERE = format_sse_event(comment="still there")


@asynccontextmanager
async def hearing(engine: Engine, job: str) -> AsyncIterator[asyncio.Queue[Event]]:
    """A queue into which the events of a ticket come in order, also those that were.

    Raises:
        UnknownTicketError: there is no such ticket.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Event] = asyncio.Queue()

    def heard(event: Event) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, event)

    end = await run_in_threadpool(engine.watch, job, heard)
    try:
        yield queue
    finally:
        end()


async def last(engine: Engine, job: str) -> Event:
    """The event with which a ticket ends."""
    async with hearing(engine, job) as events:
        while True:
            event = await events.get()
            if event.ticket.ended:
                return event


async def awaited(request: Request, engine: Engine, job: str) -> Ticket:
    """The ticket when nothing more happens to it; a client that goes takes its job along.

    Raises:
        ClientDisconnect: the client has gone, the job is cancelled.
    """
    gone = asyncio.ensure_future(_gone(request))
    end = asyncio.ensure_future(last(engine, job))
    try:
        await asyncio.wait({gone, end}, return_when=asyncio.FIRST_COMPLETED)
        if not end.done():
            raise ClientDisconnect
        return end.result().ticket
    finally:
        gone.cancel()
        if not end.done():
            end.cancel()
            await cancelled(engine, job)


async def cancelled(engine: Engine, job: str) -> None:
    """Cancel a job whose client has gone, although whoever waited for it is cancelled too."""
    with CancelScope(shield=True):
        await run_in_threadpool(engine.cancel, job)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def patiently(events: asyncio.Queue[Event]) -> AsyncGenerator[Event | None]:
    """Every event up to the last one; ``None`` after every pause without any."""
    while True:
        try:
            event = await asyncio.wait_for(events.get(), PAUSE)
        except TimeoutError:
            yield None
            continue
        yield event
        if event.ticket.ended:
            return


class Stream(EventSourceResponse):
    """Server-sent events that no proxy holds back; where the client goes, they are closed."""

    def __init__(self, chunks: AsyncGenerator[bytes]) -> None:
        super().__init__(chunks, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._chunks = chunks

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self._chunks):
            await super().stream_response(send)
