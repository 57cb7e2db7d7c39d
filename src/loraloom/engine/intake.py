"""Whether a task may come in: what its requests are as jobs, and how they are written down."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from loraloom.errors import InvalidRequestError

from .job import admit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loraloom.core.request import Request
    from loraloom.models.card import Card
    from loraloom.store.catalog import Catalog

    from .job import Job
    from .ticket import Task

ROWS = 64
"""The most requests of one task."""


def jobs_of(task: Task, card: Card, catalog: Catalog, work: int | None) -> list[Job]:
    """The jobs of a task; a video without a canvas gets the model's own.

    Args:
        work: frames × pixels × steps that one request may ask for; ``None`` is as many as it will.

    Raises:
        InvalidRequestError: too many requests or none, too much work, or frames that are not
            those of a picture or of a video.
        LoraloomError: as :func:`admit`.
    """
    if not 1 <= len(task.requests) <= ROWS:
        raise InvalidRequestError(
            f"{len(task.requests)} results are asked for at once, want 1 to {ROWS}"
        )
    requests: Sequence[Request] = task.requests
    if task.kind == "video":
        usual = card.defaults.video
        requests = [replace(each, canvas=each.canvas or usual) for each in requests]
    jobs = admit(requests, card, catalog)
    for job in jobs:
        if task.kind == "video":
            card.check_video(job.canvas)
        elif job.canvas.frames != 1:
            raise InvalidRequestError(f"frames is {job.canvas.frames}, a picture wants 1")
        _check_work(job, work)
    return jobs


def pinned(job: Job) -> Request:
    """The request of a job with the versions that it wears: to run it again is to run the same."""
    digests = {key.name: key.digest for key in job.named}
    loras = (replace(lora, version=digests[lora.name]) for lora in job.request.loras)
    return replace(job.request, loras=tuple(loras))


def _check_work(job: Job, most: int | None) -> None:
    canvas = job.canvas
    work = canvas.frames * canvas.width * canvas.height * job.steps
    if most is not None and work > most:
        raise InvalidRequestError(
            f"{canvas.frames} frames of {canvas.width}x{canvas.height} in {job.steps} steps are "
            f"{work} pixels to compute, this server takes at most {most}"
        )
