"""``/v1/images``: pictures while the client waits, as a stream, or as a job for later."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.sse import format_sse_event
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from loraloom.errors import LoraloomError

from . import answers, documents, errors, forms, requests, watch
from .errors import Refusal
from .jobs import shown
from .keys import caller_of, keys_of
from .logs import note_job
from .schemas import EditBody, ImageBody
from .service import service_of
from .shapes import ImagesAnswer, JobAnswer, PictureAnswer, PictureEvent
from .wearing import Asking

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from starlette.datastructures import UploadFile

    from loraloom.engine.engine import Engine
    from loraloom.engine.ticket import Task, Ticket

router = APIRouter(tags=["images"])

IMAGE = ("image", "image[]")
"""The fields in which OpenAI's clients send one picture, and several."""

ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ImagesAnswer,
        "description": "The pictures; with stream an event for each.",
        "content": documents.stream(PictureEvent),
    },
    202: {"model": JobAnswer, "description": "With async: the job."},
    **documents.answers(
        *documents.MAKING,
        "cancelled",
        "result_gone",
        "lora_not_found",
        "lora_changed",
        "out_of_memory",
        "timeout",
    ),
}


@router.post(
    "/v1/images/generations",
    operation_id="create_image",
    summary="Make pictures",
    responses=ANSWERS,
    openapi_extra=documents.takes(ImageBody),
)
async def create(request: Request) -> Response:
    """Make pictures of a prompt, each wearing the adapters that the request names."""
    body = await forms.read_json(request, ImageBody)
    asking = Asking(service_of(request), caller_of(request).owner)
    return await _answered(request, body, lambda: requests.images(body, asking))


@router.post(
    "/v1/images/edits",
    operation_id="edit_image",
    summary="Draw over a picture",
    responses=ANSWERS,
    openapi_extra=documents.takes(
        form=documents.form(
            EditBody, {"image": "The picture: PNG, JPEG or WebP."}, required=("image",)
        )
    ),
)
async def edit(request: Request) -> Response:
    """Make pictures from a picture: ``strength`` says how much of it is redrawn."""
    asking = Asking(service_of(request), caller_of(request).owner)
    async with forms.reading_form(request, EditBody, IMAGE) as received:
        body, file = received.body, _one([*received.files.values()])
        most = asking.service.settings.max_pixels
        image = await run_in_threadpool(forms.picture, file.file, "image", most)
    return await _answered(request, body, lambda: requests.edits(body, image, asking))


def _one(files: Sequence[Sequence[UploadFile]]) -> UploadFile:
    given = [file for each in files for file in each]
    if len(given) != 1:
        raise Refusal("invalid_value", f"image is there {len(given)} times, want it once", "image")
    return given[0]


async def _answered(request: Request, body: ImageBody, task: Callable[[], Task]) -> Response:
    """Hand a task to the engine, and answer in the way that the call asks for."""
    engine = service_of(request).engine
    ticket = await run_in_threadpool(lambda: engine.submit(task()))
    note_job(request.scope, ticket.id)
    if body.later:
        job = await run_in_threadpool(shown, request, ticket)
        return answers.told(job, 202, {"Location": f"/v1/jobs/{ticket.id}"})
    if body.stream:
        return watch.Stream(_events(engine, ticket.id))
    ticket = await watch.awaited(request, engine, ticket.id)
    if ticket.state != "completed":
        raise errors.unmade(ticket)
    pictures = await run_in_threadpool(_pictures, request, ticket, body)
    return answers.told(answers.images(ticket, pictures))


def _pictures(request: Request, ticket: Ticket, body: ImageBody) -> list[PictureAnswer]:
    engine, base = service_of(request).engine, str(request.base_url).rstrip("/")
    found = []
    for index, output in enumerate(ticket.outcome.outputs):
        path = f"/v1/results/{ticket.id}/{index}"
        linked = body.response_format == "url"
        found.append(
            PictureAnswer(
                url=base + keys_of(request).signed(path) if linked else None,
                b64_json=None if linked else _encoded(engine, ticket.id, index),
                seed=output.seed,
                loras=[answers.worn(each, ticket.note) for each in output.worn],
            )
        )
    return found


def _encoded(engine: Engine, job: str, index: int) -> str:
    return base64.b64encode(engine.file(job, index).read_bytes()).decode()


async def _events(engine: Engine, job: str) -> AsyncGenerator[bytes]:
    """One event for every picture, or one that says why there is none.

    Nothing else is sent: OpenAI's clients take an event of another type for part of a picture.
    """
    ended = False
    try:
        async with watch.hearing(engine, job) as heard:
            async for event in watch.patiently(heard):
                if event is None:
                    yield watch.STILL_THERE
                elif event.ticket.ended:
                    ended = True
                    for chunk in await run_in_threadpool(_last, engine, event.ticket):
                        yield chunk
    finally:
        if not ended:
            await watch.cancelled(engine, job)


def _last(engine: Engine, ticket: Ticket) -> list[bytes]:
    try:
        if ticket.state != "completed":
            raise errors.unmade(ticket)
        events = [
            answers.event(ticket, output, _encoded(engine, ticket.id, index))
            for index, output in enumerate(ticket.outcome.outputs)
        ]
    except Refusal as refusal:
        return [_failure(refusal)]
    except LoraloomError as error:
        return [_failure(Refusal.of(error))]
    return [format_sse_event(event=each.type, data_str=each.model_dump_json()) for each in events]


def _failure(refusal: Refusal) -> bytes:
    said = {"type": "error", **errors.body(refusal)}
    return format_sse_event(event="error", data_str=json.dumps(said))
