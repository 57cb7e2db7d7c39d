"""Every failure of a route or of the framework, turned into the one shape of errors."""

from __future__ import annotations

from errno import EDQUOT, ENOSPC
from functools import cache, partial
from typing import TYPE_CHECKING

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from loraloom.errors import LoraloomError, closest

from .errors import Refusal, answer
from .guard import CLOSING, headers_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from fastapi import FastAPI
    from pydantic import BaseModel
    from starlette.requests import Request
    from starlette.routing import BaseRoute

SHOWN = 80
"""The most characters of a wrong value that a message repeats."""

FRAMEWORK = {
    400: "invalid_value",
    404: "not_found",
    405: "method_not_allowed",
    413: "payload_too_large",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
}
"""The codes of errors that the framework raises itself."""


def install(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Make ``app``, which has these ``routes``, answer every error in OpenAI's shape."""
    app.add_exception_handler(HTTPException, partial(_http, routes))
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(LoraloomError, _library)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(OSError, _disk)
    app.add_exception_handler(Exception, _unexpected)


def invalid(problems: Sequence[Any], schema: type[BaseModel] | None = None) -> Refusal:
    """What pydantic found wrong, the first of it, with the field and the value.

    Args:
        problems: as ``ValidationError.errors()`` lists them.
        schema: of the body, for names that are close to an unknown one.
    """
    first = problems[0]
    path = path_of(_place(first, schema) if schema else first["loc"])
    rest = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
    if first["type"] == "json_invalid":
        cause = first.get("ctx", {}).get("error", first["msg"])
        return Refusal("invalid_json", f"the body is no JSON: {cause}")
    if first["type"] == "extra_forbidden":
        known = _fields(schema) if schema and len(first["loc"]) == 1 else []
        near = " or ".join(repr(name) for name in closest(str(first["loc"][-1]), known))
        meant = f"; did you mean {near}?" if near else ""
        return Refusal("unknown_field", f"field {path!r} is not known{meant}{rest}", path)
    if first["type"] == "missing":
        return Refusal("invalid_value", f"field {path!r} is missing{rest}", path)
    wanted = first["msg"].removeprefix("Value error, ")
    wanted = wanted.replace("Input should be", "want", 1).replace("Input should", "want it to", 1)
    wanted = wanted.replace("String should", "want it to", 1)
    if not path and first["type"] == "value_error":
        return Refusal("invalid_value", wanted)
    got = repr(first.get("input"))
    got = got if len(got) <= SHOWN else got[:SHOWN] + "…"
    return Refusal("invalid_value", f"{path or 'the body'} is {got}, {wanted}{rest}", path or None)


def path_of(place: Sequence[int | str]) -> str:
    """A place in a body as programs write it: ``loras[0].scale``."""
    return "".join(
        f"[{each}]" if isinstance(each, int) else f".{each}" for each in place
    ).removeprefix(".")


def _place(problem: Any, schema: type[BaseModel]) -> list[int | str]:
    """Where it is, without the words of pydantic for one of several types that a field may have."""
    names, place = _names(schema), problem["loc"]
    last = len(place) if problem["type"] == "extra_forbidden" else 0
    return [
        each
        for number, each in enumerate(place, 1)
        if isinstance(each, int) or each in names or number == last
    ]


@cache
def _names(schema: type[BaseModel]) -> frozenset[str]:
    """Of the fields of a body, and of what lies in it."""
    whole = schema.model_json_schema()
    parts = (whole, *whole.get("$defs", {}).values())
    return frozenset(name for each in parts for name in each.get("properties", ()))


def _fields(schema: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in schema.model_fields.items()]


async def _http(routes: Sequence[BaseRoute], request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error, Refusal):
        return answer(error)
    code = FRAMEWORK.get(error.status_code, "internal_error")
    said = str(error.detail)
    if code in {"not_found", "method_not_allowed"}:
        said = f"there is no {request.method[:20]} {request.url.path[:300]}"
    refusal = Refusal(code, said)
    refusal.headers = error.headers
    if code == "method_not_allowed":
        refusal.headers = {"Allow": ", ".join(allowed(routes, request.url.path))}
    return answer(refusal)


def allowed(routes: Sequence[BaseRoute], path: str) -> list[str]:
    """The methods that ``path`` takes; the framework knows those of one route alone."""
    there = [each for each in routes if isinstance(each, Route) and each.path_regex.match(path)]
    exact = [each for each in there if each.path == path]
    return sorted({method for each in exact or there for method in each.methods or ()})


async def _validation(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [
        {**each, "loc": each["loc"][1:] if each["loc"][0] != "body" or len(each["loc"]) > 1 else ()}
        for each in error.errors()
    ]
    return answer(invalid(problems))


async def _library(_request: Request, error: Exception) -> Response:
    assert isinstance(error, LoraloomError)
    return answer(Refusal.of(error))


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400, headers=CLOSING)  # nobody reads it


async def _unexpected(request: Request, _error: Exception) -> Response:
    """Our own mistake; starlette raises it again behind the answer, into the log.

    It answers outside of the guard, whose headers are therefore added here.
    """
    refusal = Refusal("internal_error", "the server made a mistake; its log says more")
    refusal.headers = headers_of(getattr(request.state, "request_id", ""))
    return answer(refusal)


async def _disk(_request: Request, error: Exception) -> Response:
    assert isinstance(error, OSError)
    if error.errno not in {ENOSPC, EDQUOT}:
        raise error
    return answer(Refusal("storage_full", "the disk of the server is full"))
