"""``/v1/videos``: a job that is asked for, polled and then downloaded, as OpenAI has it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Path, Request
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from loraloom.pipelines.media import load_frames

from . import answers, documents, files, forms, requests
from .answers import VIDEO
from .errors import Refusal, unmade
from .files import Shown
from .jobs import After, Limit, listed, visible
from .keys import caller_of
from .logs import note_job
from .schemas import Pixels, VideoBody
from .service import service_of
from .shapes import VideoAnswer, VideoDeleted, VideoList
from .wearing import Asking

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.datastructures import UploadFile

    from loraloom.engine.ticket import Ticket

router = APIRouter(tags=["videos"])

ENDS = {"input_reference": 0, "last_image": -1}
"""The frames at which the images of a body stand."""

VideoId = Annotated[str, Path(examples=["video_0123456789abcdef0123456789abcdef"])]


@router.post(
    "/v1/videos",
    operation_id="create_video",
    summary="Ask for a video",
    response_model=VideoAnswer,
    responses=documents.answers(*documents.MAKING),
    openapi_extra=documents.takes(
        VideoBody,
        documents.form(
            VideoBody,
            {"input_reference": "The first image, PNG, JPEG or WebP.", "last_image": "The last."},
        ),
    ),
)
async def create(request: Request) -> Response:
    """Queue a video of a prompt; poll it, and download it when it is completed."""
    asking = Asking(service_of(request), caller_of(request).owner)
    most = asking.service.settings.max_pixels
    if forms.check_type(request, forms.JSON, forms.FORM) == forms.JSON:
        body = await forms.read_json(request, VideoBody)
        ends = await run_in_threadpool(_ends, body, {}, most)
    else:
        async with forms.reading_form(request, VideoBody, ENDS) as received:
            body = received.body
            given = {name: _one(name, [*held]) for name, held in received.files.items()}
            ends = await run_in_threadpool(_ends, body, given, most)
    task = await run_in_threadpool(requests.video, body, ends, asking)
    ticket = await run_in_threadpool(asking.service.engine.submit, task)
    note_job(request.scope, ticket.id)
    return answers.told(_video(request, ticket))


@router.get(
    "/v1/videos",
    operation_id="list_videos",
    summary="List videos",
    response_model=VideoList,
    responses=documents.answers("job_not_found"),
)
def videos(
    request: Request,
    limit: Limit = 20,
    after: After = None,
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """The caller's videos, the newest first."""
    page = listed(request, "video", after and job_id(after), limit, order)
    data = [_video(request, ticket) for ticket in page.tickets]
    return answers.told(
        VideoList(
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=page.more,
        )
    )


@router.get(
    "/v1/videos/{video_id}",
    operation_id="retrieve_video",
    summary="How far a video is",
    response_model=VideoAnswer,
    responses=documents.answers("job_not_found"),
)
def retrieve(request: Request, video_id: VideoId) -> Response:
    """The video as it is now."""
    return answers.told(_video(request, _found(request, video_id)))


@router.delete(
    "/v1/videos/{video_id}",
    operation_id="delete_video",
    summary="Delete a video",
    response_model=VideoDeleted,
    responses=documents.answers("job_not_found"),
)
def delete(request: Request, video_id: VideoId) -> Response:
    """Forget a video and its file; one that is under way is cancelled."""
    ticket = _found(request, video_id)
    service_of(request).engine.delete(ticket.id)
    return answers.told(VideoDeleted(id=VIDEO + ticket.id))


@router.head("/v1/videos/{video_id}/content", include_in_schema=False)
@router.get(
    "/v1/videos/{video_id}/content",
    operation_id="download_video",
    summary="Download a video",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "The video, or its first frame.",
            "content": {"video/mp4": {}, "image/webp": {}},
        },
        206: {"description": "The part that the header Range asks for."},
        **documents.answers(
            "job_not_found",
            "video_not_ready",
            "result_gone",
            "range_not_satisfiable",
            "out_of_memory",
            "timeout",
            "storage_full",
        ),
    },
)
def content(
    request: Request, video_id: VideoId, variant: Literal["video", "thumbnail"] = "video"
) -> Response:
    """The file of a completed video, in parts where a Range is asked for, or a thumbnail."""
    ticket = _found(request, video_id)
    if not ticket.ended:
        raise Refusal("video_not_ready", f"video {video_id!r} is {ticket.state}, want it completed")
    if ticket.state not in {"completed", "expired"}:
        raise unmade(ticket)
    path = service_of(request).engine.file(ticket.id, 0)
    if variant == "video":
        shown = Shown(f"{VIDEO}{ticket.id}.mp4", "video/mp4", ticket.id)
        return files.answer(request, path, shown)
    frames, _ = load_frames(path, 1)
    return Response(_thumbnail(frames[0]), media_type="image/webp")


def job_id(video_id: str) -> str:
    """The job of a video."""
    return video_id.removeprefix(VIDEO)


def _found(request: Request, video_id: str) -> Ticket:
    """The ticket of a video that the caller may see.

    Raises:
        Refusal: there is none.
    """
    ticket = visible(request, job_id(video_id))
    if ticket.kind != "video":
        raise Refusal("job_not_found", f"job {video_id!r} is no video")
    return ticket


def _video(request: Request, ticket: Ticket) -> VideoAnswer:
    return answers.video(ticket, service_of(request).settings.keep_for)


def _one(name: str, files: list[UploadFile]) -> UploadFile:
    if len(files) != 1:
        raise Refusal("invalid_value", f"{name} is there {len(files)} times, want it once", name)
    return files[0]


def _ends(body: VideoBody, given: Mapping[str, UploadFile], most: int) -> dict[int, Image.Image]:
    """The images that a video begins and ends with, by their frames."""
    shown = {}
    for name, frame in ENDS.items():
        text: Any = getattr(body, name)
        if text is not None and name in given:
            raise Refusal("invalid_value", f"{name} is a file and a text, want one", name)
        if name in given:
            shown[frame] = forms.picture(given[name].file, name, most)
        elif text is not None:
            held = text.b64_json if isinstance(text, Pixels) else text
            shown[frame] = forms.picture_of(held, name, most)
    return shown


def _thumbnail(frame: Image.Image) -> bytes:
    frame.thumbnail((512, 512))
    held = io.BytesIO()
    frame.save(held, "WEBP", quality=85)
    return held.getvalue()
