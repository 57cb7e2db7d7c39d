"""The bodies of answers: every field and its type, as clients of OpenAI's API read them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from .schemas import KnotBody, ScopeBody


class Named(BaseModel):
    """Which adapter it was, and who asked for it."""

    name: str
    sha256: str
    by: Literal["request", "stage"]


class Known(BaseModel):
    """What its file holds; ``alpha`` and ``rank`` are numbers, or ``4 to 16``."""

    alpha: str | None
    rank: str | None
    sites: int
    unmatched: int | None


class WornAnswer(Named, Known):
    """An adapter as it was worn."""

    scale: float
    mode: Literal["live", "fused"]
    why: str
    target: str | None
    stages: list[float] | None
    schedule: list[KnotBody] | None
    scopes: list[ScopeBody] | None


class Timings(BaseModel):
    """Where the time went, in seconds."""

    queue_s: float
    load_s: float
    switch_s: float
    steps_s: float
    decode_s: float
    encode_s: float
    total_s: float | None


class Usage(BaseModel):
    """OpenAI's count of tokens, of which there are none here."""

    input_tokens: Literal[0] = 0
    input_tokens_details: dict[str, int] = {"image_tokens": 0, "text_tokens": 0}
    output_tokens: Literal[0] = 0
    total_tokens: Literal[0] = 0


class PictureAnswer(BaseModel):
    """One picture: its bytes, or where they are."""

    b64_json: str | None = None
    url: str | None = None
    seed: int
    loras: list[WornAnswer]


class Drawn(BaseModel):
    """What OpenAI's clients are told of any picture."""

    size: str
    output_format: str
    background: Literal["opaque"] = "opaque"
    quality: Literal["auto"] = "auto"
    usage: Usage = Usage()


class ImagesAnswer(Drawn):
    """The pictures of one call; ``id`` is that of the job."""

    id: str
    object: Literal["images"] = "images"
    created: int
    model: str
    data: list[PictureAnswer]
    loras: list[WornAnswer]
    timings: Timings


class PictureEvent(Drawn):
    """One picture of a stream."""

    type: Literal["image_generation.completed", "image_edit.completed"]
    b64_json: str
    created_at: int
    seed: int
    loras: list[WornAnswer]


class TroubleAnswer(BaseModel):
    """Why there is no result."""

    code: str
    message: str


class Lasting(BaseModel):
    """When a video was asked for and made, and until when it is kept; seconds since 1970."""

    created_at: int
    completed_at: int | None
    expires_at: int | None


class Filmed(BaseModel):
    """What a video is."""

    model: str
    prompt: str
    seconds: str
    size: str
    seed: int
    loras: list[WornAnswer]


class VideoAnswer(Lasting, Filmed):
    """A video, made or not yet."""

    id: str
    object: Literal["video"] = "video"
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int
    error: TroubleAnswer | None
    remixed_from_video_id: None = None
    timings: Timings


class VideoList(BaseModel):
    """Videos of whoever asks."""

    object: Literal["list"] = "list"
    data: list[VideoAnswer]
    first_id: str | None
    last_id: str | None
    has_more: bool


class VideoDeleted(BaseModel):
    """A video that is gone."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


class StepAnswer(BaseModel):
    """How many steps are done, and in which stage."""

    done: int
    of: int
    stage: str


class ResultAnswer(BaseModel):
    """One result of a job."""

    url: str
    seed: int
    loras: list[WornAnswer]


class Timed(BaseModel):
    """When a job was asked for, began and ended, in seconds since 1970, and what took how long."""

    created_at: float
    started_at: float | None
    ended_at: float | None
    timings: Timings


class Advancing(BaseModel):
    """How far a job is: jobs before it while it waits, steps while it runs, percent in all."""

    position: int | None
    step: StepAnswer | None
    progress: int


class Asked(BaseModel):
    """What was asked for, in the call's own words, and the model and size that it came to."""

    request: dict[str, Any]
    model: str
    size: str


class JobAnswer(Timed, Advancing, Asked):
    """Everything about one job."""

    id: str
    object: Literal["job"] = "job"
    kind: Literal["images", "edits", "video"]
    status: Literal[
        "queued", "running", "completed", "failed", "cancelled", "interrupted", "expired"
    ]
    error: TroubleAnswer | None
    results: list[ResultAnswer]


class JobList(BaseModel):
    """Jobs of whoever asks, the newest first."""

    object: Literal["list"] = "list"
    data: list[JobAnswer]
    first_id: str | None
    last_id: str | None
    has_more: bool
