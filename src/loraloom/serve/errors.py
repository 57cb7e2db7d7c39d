"""What goes wrong, as OpenAI's clients read it: one body, and two tables that say what is what."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from loraloom import errors
from loraloom.engine.ticket import Trouble

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.responses import Response

    from loraloom.engine.ticket import Ticket

STATUS: Mapping[str, int] = MappingProxyType(
    {
        "invalid_value": 400,
        "invalid_json": 400,
        "unknown_field": 400,
        "lora_invalid": 400,
        "invalid_api_key": 401,
        "forbidden": 403,
        "source_refused": 403,
        "not_found": 404,
        "model_not_found": 404,
        "lora_not_found": 404,
        "job_not_found": 404,
        "method_not_allowed": 405,
        "lora_incompatible": 409,
        "lora_changed": 409,
        "video_not_ready": 409,
        "cancelled": 409,
        "result_gone": 410,
        "payload_too_large": 413,
        "unsupported_media_type": 415,
        "range_not_satisfiable": 416,
        "queue_full": 429,
        "internal_error": 500,
        "source_unavailable": 502,
        "not_ready": 503,
        "interrupted": 503,
        "out_of_memory": 503,
        "timeout": 504,
        "storage_full": 507,
    }
)
"""The status of every code that an answer can have."""

CODES: Mapping[type[errors.LoraloomError], str] = MappingProxyType(
    {
        errors.LoraloomError: "internal_error",
        errors.InvalidRequestError: "invalid_value",
        errors.RecordError: "invalid_value",
        errors.UnknownAdapterError: "lora_not_found",
        errors.DigestMismatchError: "lora_changed",
        errors.AdapterFileError: "lora_invalid",
        errors.AdapterCoverageError: "lora_incompatible",
        errors.AdapterChangedError: "lora_changed",
        errors.AdapterMismatchError: "lora_incompatible",
        errors.BudgetError: "out_of_memory",
        errors.RestoreError: "internal_error",
        errors.RowsError: "internal_error",
        errors.ModelError: "invalid_value",
        errors.MediaError: "invalid_value",
        errors.SettingsError: "internal_error",
        errors.SourceError: "source_refused",
        errors.SourceUnavailableError: "source_unavailable",
        errors.SourceTooLargeError: "payload_too_large",
        errors.StorageFullError: "storage_full",
        errors.QueueFullError: "queue_full",
        errors.NotReadyError: "not_ready",
        errors.UnknownTicketError: "job_not_found",
        errors.ResultGoneError: "result_gone",
        errors.ApiError: "internal_error",
    }
)
"""The code of every cause; a class that is not here has that of the nearest one above it."""


class ErrorBody(BaseModel):
    """``param`` is the field that is wrong, where it is one."""

    message: str
    type: Literal[
        "invalid_request_error",
        "authentication_error",
        "permission_error",
        "rate_limit_error",
        "server_error",
    ]
    param: str | None
    code: str


class ErrorAnswer(BaseModel):
    """What every error answers."""

    error: ErrorBody


class Refusal(HTTPException):
    """A request that is refused where HTTP itself is the cause, or where the field is known.

    It is one of starlette's so that it comes through whatever reads a body.
    """

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(STATUS[code], message)
        self.code = code
        self.param = param

    @classmethod
    def of(cls, error: errors.LoraloomError, param: str | None = None) -> Refusal:
        """What an error of the library is to a client."""
        said = str(error) if isinstance(error, OWN_WORDS) else without_paths(str(error))
        refusal = cls(code_of(type(error)), said, param)
        if isinstance(error, errors.QueueFullError):
            seconds = max(1, round(error.retry_after))
            refusal.headers = {"Retry-After": str(seconds)}
        return refusal


OWN_WORDS = (errors.InvalidRequestError, errors.SourceError, errors.UnknownAdapterError)
"""Errors whose paths, if they hold any, are the caller's own."""

PATH = re.compile(
    r"""(?P<quote>['"])/(?:(?!(?P=quote)).)*?(?P<quoted>[^'"/]+)/?(?P=quote)"""
    r"""|(?<![\w/.:])/(?:[^\s'",;:/]+/)*(?P<bare>[^\s'",;:/]+)"""
)
"""An absolute path up to its last name, in quotes or without; of a link it is no part."""


def without_paths(text: str) -> str:
    """``text`` with files by their names alone: where they lie is the server's business."""
    return PATH.sub(_last_name, text)


def _last_name(found: re.Match[str]) -> str:
    quote, name = found["quote"] or "", found["quoted"] or found["bare"]
    return f"{quote}{name}{quote}"


def code_of(kind: type[errors.LoraloomError]) -> str:
    """The code of a class of errors."""
    return next(CODES[each] for each in kind.__mro__ if each in CODES)


def unmade(ticket: Ticket) -> Refusal:
    """The error that a job without results answers with."""
    trouble = ticket.outcome.trouble or Trouble("internal_error", f"the job is {ticket.state}")
    code = trouble.code if trouble.code in STATUS else "internal_error"
    return Refusal(code, without_paths(trouble.message))


def type_of(status: int) -> str:
    """OpenAI's word for errors of a status."""
    special = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    return special.get(status) or ("server_error" if status >= 500 else "invalid_request_error")


def body(refusal: Refusal) -> dict[str, Any]:
    """The JSON of an error."""
    return {
        "error": {
            "message": refusal.detail,
            "type": type_of(refusal.status_code),
            "param": refusal.param,
            "code": refusal.code,
        }
    }


def answer(refusal: Refusal) -> Response:
    """The whole answer of an error."""
    return JSONResponse(body(refusal), refusal.status_code, refusal.headers)
