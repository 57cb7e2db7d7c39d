"""``/v1/results``: the files that jobs made."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import Response, StreamingResponse

from loraloom.engine.ticket import MIME
from loraloom.errors import ResultGoneError

from . import documents, files
from .files import Shown
from .jobs import JobId, visible
from .service import service_of

router = APIRouter(tags=["jobs"])

MEDIA: dict[str, dict[str, str]] = {name: {} for name in MIME.values()}


@router.head("/v1/results/{job}/{index}", include_in_schema=False)
@router.get(
    "/v1/results/{job}/{index}",
    operation_id="download_result",
    summary="Download a result",
    response_class=StreamingResponse,
    responses={
        200: {"description": "The file.", "content": MEDIA},
        206: {"description": "The part that the header Range asks for.", "content": MEDIA},
        **documents.answers("job_not_found", "result_gone", "range_not_satisfiable"),
    },
)
def result(request: Request, job: JobId, index: Annotated[int, Path(ge=0, le=999)]) -> Response:
    """A result of a job that is completed; a signed link of an answer needs no key."""
    ticket = visible(request, job)
    if index >= len(ticket.outcome.outputs):
        raise ResultGoneError(f"job {ticket.id!r} has no result {index}, or not any more")
    path = service_of(request).engine.file(ticket.id, index)
    name = f"{ticket.id}-{index}"
    return files.answer(request, path, Shown(f"{name}{path.suffix}", MIME[ticket.format], name))
