"""``/v1/jobs``: tasks that were asked for; their events as a stream that can be taken up again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.sse import format_sse_event
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from loraloom.engine.archive import Page
from loraloom.errors import UnknownTicketError

from . import answers, documents, watch
from .answers import VIDEO
from .keys import by_link, caller_of, keys_of
from .service import service_of
from .shapes import JobAnswer, JobList

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from loraloom.engine.ticket import Event, Kind, Ticket

router = APIRouter(tags=["jobs"])

JobId: TypeAlias = Annotated[str, Path(examples=["0123456789abcdef0123456789abcdef"])]
Limit: TypeAlias = Annotated[int, Query(ge=1, le=100)]
After: TypeAlias = Annotated[str | None, Query(description="The last id of the page before.")]
Number: TypeAlias = Annotated[int, Query(ge=0, description="The number of the last event known.")]


@dataclass(frozen=True, slots=True)
class Listed:
    """A page of tickets, and whether there are more behind it."""

    tickets: list[Ticket]
    more: bool


@router.get(
    "/v1/jobs",
    operation_id="list_jobs",
    summary="List jobs",
    response_model=JobList,
    responses=documents.answers("job_not_found"),
)
def jobs(request: Request, limit: Limit = 20, after: After = None) -> Response:
    """The caller's jobs, the newest first."""
    page = listed(request, None, after and job_id(after), limit, "desc")
    data = [shown(request, ticket) for ticket in page.tickets]
    return answers.told(
        JobList(
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=page.more,
        )
    )


@router.get(
    "/v1/jobs/{job}",
    operation_id="retrieve_job",
    summary="How far a job is",
    response_model=JobAnswer,
    responses=documents.answers("job_not_found"),
)
def retrieve(request: Request, job: JobId) -> Response:
    """The job as it is now, with its results when it is completed."""
    return answers.told(shown(request, visible(request, job)))


@router.delete(
    "/v1/jobs/{job}",
    operation_id="cancel_job",
    summary="Cancel a job",
    response_model=JobAnswer,
    responses=documents.answers("job_not_found"),
)
def cancel(request: Request, job: JobId) -> Response:
    """End a job between two steps; one that has ended stays as it is."""
    ticket = visible(request, job)
    return answers.told(shown(request, service_of(request).engine.cancel(ticket.id)))


@router.post(
    "/v1/jobs/{job}/resume",
    operation_id="resume_job",
    summary="Run an interrupted job again",
    response_model=JobAnswer,
    responses=documents.answers("job_not_found", "queue_full", "not_ready"),
)
def resume(request: Request, job: JobId) -> Response:
    """Queue again what a stop of the server interrupted."""
    ticket = visible(request, job)
    return answers.told(shown(request, service_of(request).engine.resume(ticket.id)))


@router.get(
    "/v1/jobs/{job}/events",
    operation_id="watch_job",
    summary="Watch a job",
    responses={
        200: {
            "description": "An event for every change; the last one is the end of the job.",
            "content": documents.stream(JobAnswer, numbered=True),
        },
        204: {"description": "The job has ended, and the last event is known."},
        **documents.answers("job_not_found"),
    },
)
async def events(
    request: Request,
    job: JobId,
    after: Number = 0,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Server-sent events with numbers for ids, from the one after ``Last-Event-ID`` on."""
    ticket = await run_in_threadpool(visible, request, job)
    if last_event_id and last_event_id.isascii() and last_event_id.isdigit():
        after = int(last_event_id[:18])
    if ticket.ended and (await watch.last(service_of(request).engine, ticket.id)).number <= after:
        return Response(status_code=204)  # a browser asks again until it is told to stop so
    return watch.Stream(_told(request, ticket.id, after))


async def _told(request: Request, job: str, after: int) -> AsyncGenerator[bytes]:
    async with watch.hearing(service_of(request).engine, job) as heard:
        async for event in watch.patiently(heard):
            if event is None:
                yield watch.STILL_THERE
            elif event.number > after:
                yield await run_in_threadpool(_event, request, event)


def _event(request: Request, event: Event) -> bytes:
    job = shown(request, event.ticket).model_dump_json()
    return format_sse_event(id=str(event.number), event=event.ticket.state, data_str=job)


def job_id(given: str) -> str:
    """The id of a job, also where it is that of its video."""
    return given.removeprefix(VIDEO)


def visible(request: Request, job: str) -> Ticket:
    """A job that the caller may see.

    Raises:
        UnknownTicketError: there is none; those of others are none.
    """
    ticket: Ticket = service_of(request).engine.ticket(job_id(job))
    if not by_link(request) and ticket.owner != caller_of(request).owner:
        raise UnknownTicketError(f"there is no job {job!r}, or not any more")
    return ticket


def listed(
    request: Request,
    kind: Kind | None,
    after: str | None,
    limit: int,
    order: Literal["asc", "desc"],
) -> Listed:
    """The caller's jobs of one kind or of all, behind the one called ``after``.

    Raises:
        UnknownTicketError: there is none called so.
    """
    if after is not None:
        visible(request, after)
    page = Page(kind, caller_of(request).owner, after, limit + 1, order)
    tickets = service_of(request).engine.tickets(page)
    return Listed(tickets[:limit], len(tickets) > limit)


def shown(request: Request, ticket: Ticket) -> JobAnswer:
    """A job as answers show it, its results with links that this server opens."""
    base, keys = str(request.base_url).rstrip("/"), keys_of(request)
    position = service_of(request).engine.position(ticket.id) if ticket.state == "queued" else None
    return answers.job(
        ticket, position, lambda index: base + keys.signed(f"/v1/results/{ticket.id}/{index}")
    )
