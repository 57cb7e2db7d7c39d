"""From tickets to answers: what was made, what was worn, how far it is, where the time went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from starlette.responses import Response

from loraloom.core.schedule import ALWAYS

from .errors import without_paths
from .schemas import KnotBody, ScopeBody
from .shapes import (
    ImagesAnswer,
    JobAnswer,
    PictureAnswer,
    PictureEvent,
    ResultAnswer,
    StepAnswer,
    Timings,
    TroubleAnswer,
    VideoAnswer,
    WornAnswer,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import BaseModel

    from loraloom.core.provenance import Worn
    from loraloom.engine.ticket import Output, Step, Ticket


def told(
    answer: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """An answer as JSON; it is not checked again, for the models are what it is made of."""
    text = answer.model_dump_json()
    return Response(text, status, headers, media_type="application/json")


def worn(each: Worn, note: Mapping[str, Any]) -> WornAnswer:
    """An adapter as it was worn, with what the call noted of it."""
    facts = note["facts"].get(each.digest, {})
    knots = [KnotBody(progress=knot.progress, factor=knot.factor) for knot in each.curve.knots]
    scopes = [ScopeBody(pattern=scope.pattern, factor=scope.factor) for scope in each.scopes]
    return WornAnswer(
        name=each.name,
        sha256=each.digest,
        scale=each.strength,
        alpha=facts.get("alpha"),
        rank=facts.get("rank"),
        sites=each.sites,
        unmatched=facts.get("unmatched"),
        mode=each.manner.mode,
        why=each.manner.why,
        by=each.by,
        target=each.target,
        stages=list(each.stages) or None,
        schedule=None if each.curve == ALWAYS else knots,
        scopes=scopes or None,
    )


def timings(ticket: Ticket) -> Timings:
    """Where the time of a ticket went, as far as it is over."""
    spent, times = ticket.outcome.spent, ticket.times
    return Timings(
        queue_s=spent.queue,
        load_s=spent.load,
        switch_s=spent.switch,
        steps_s=spent.steps,
        decode_s=spent.decode,
        encode_s=spent.encode,
        total_s=None if times.ended is None else times.ended - times.created,
    )


def images(ticket: Ticket, pictures: list[PictureAnswer]) -> ImagesAnswer:
    """The pictures of a ticket that is completed."""
    note = ticket.note
    return ImagesAnswer(
        id=ticket.id,
        created=int(ticket.times.created),
        model=note["model"],
        data=pictures,
        size=note["size"],
        output_format=ticket.format,
        loras=pictures[0].loras,
        timings=timings(ticket),
    )


def event(ticket: Ticket, output: Output, encoded: str) -> PictureEvent:
    """One picture of a ticket that is completed, for a stream."""
    edited = ticket.kind == "edits"
    return PictureEvent(
        type="image_edit.completed" if edited else "image_generation.completed",
        b64_json=encoded,
        created_at=int(ticket.times.created),
        size=ticket.note["size"],
        output_format=ticket.format,
        seed=output.seed,
        loras=[worn(each, ticket.note) for each in output.worn],
    )


STATUS: Mapping[str, Literal["queued", "in_progress", "completed", "failed"]] = {
    "queued": "queued",
    "running": "in_progress",
    "completed": "completed",
    "expired": "completed",
}
"""OpenAI's words for the states of a video; every other one is failed."""

VIDEO = "video_"
"""What the ids of videos begin with, before that of the job."""


def video(ticket: Ticket, keep_for: float) -> VideoAnswer:
    """A video as OpenAI tells of it; its results are kept for ``keep_for`` seconds."""
    note, times = ticket.note, ticket.times
    ended, made = times.ended, STATUS.get(ticket.state) == "completed"
    return VideoAnswer(
        id=VIDEO + ticket.id,
        status=STATUS.get(ticket.state, "failed"),
        progress=progress(ticket),
        created_at=int(times.created),
        completed_at=int(ended) if made and ended else None,
        expires_at=int(ended + keep_for) if made and ended else None,
        model=note["model"],
        prompt=note["asked"]["prompt"],
        seconds=note["seconds"],
        size=note["size"],
        seed=note["seeds"][0],
        error=trouble(ticket),
        loras=[worn(each, note) for output in ticket.outcome.outputs for each in output.worn],
        timings=timings(ticket),
    )


def job(ticket: Ticket, position: int | None, url: Callable[[int], str]) -> JobAnswer:
    """All of a job; ``url`` says where its results are, by their index."""
    times, note = ticket.times, ticket.note
    outputs = ticket.outcome.outputs if ticket.state == "completed" else ()
    return JobAnswer(
        id=ticket.id,
        kind=ticket.kind,
        status=ticket.state,
        created_at=times.created,
        started_at=times.started,
        ended_at=times.ended,
        step=_step(ticket.step),
        position=position,
        progress=progress(ticket),
        error=trouble(ticket),
        results=[
            ResultAnswer(
                url=url(index),
                seed=output.seed,
                loras=[worn(each, note) for each in output.worn],
            )
            for index, output in enumerate(outputs)
        ],
        timings=timings(ticket),
        model=note["model"],
        size=note["size"],
        request=note["asked"],
    )


def progress(ticket: Ticket) -> int:
    """Percent; 100 are only those of what is completed."""
    if STATUS.get(ticket.state) == "completed":
        return 100
    step = ticket.step
    return min(99, 100 * step.done // step.of) if step and step.of else 0


def trouble(ticket: Ticket) -> TroubleAnswer | None:
    """Why a ticket has no result, if it ended without one."""
    found = ticket.outcome.trouble
    return TroubleAnswer(code=found.code, message=without_paths(found.message)) if found else None


def _step(step: Step | None) -> StepAnswer | None:
    return StepAnswer(done=step.done, of=step.of, stage=step.stage) if step else None
