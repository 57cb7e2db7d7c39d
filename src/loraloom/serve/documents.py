"""What the OpenAPI document says beyond what types say: bodies, and the errors of every route."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from .errors import STATUS, ErrorAnswer
from .foreign import LoadAdapter, MergeLora, SetLora, UnloadAdapter, UnmergeLora
from .listing import AdapterBody, InspectBody, LabelBody, MixBody, PinBody
from .schemas import EditBody, ImageBody, VideoBody
from .shapes import PictureEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI

BODIES = (
    *(ImageBody, EditBody, VideoBody),
    *(AdapterBody, InspectBody, LabelBody, PinBody, MixBody),
    *(SetLora, MergeLora, UnmergeLora, LoadAdapter, UnloadAdapter),
)
"""Those that routes read themselves, so that FastAPI does not know of them."""

PLACE = "#/components/schemas/{model}"

EVERYWHERE = ("invalid_value", "invalid_api_key", "forbidden", "internal_error")
"""What any route under ``/v1`` may answer."""

READING = ("payload_too_large", "unsupported_media_type")
"""What any route may answer that reads a body."""

MAKING = (
    *READING,
    "model_not_found",
    "lora_incompatible",
    "queue_full",
    "not_ready",
    "storage_full",
)
"""What any route may answer that takes a task."""


def answers(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The errors of a route by their status, for its ``responses``."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in sorted({STATUS[code] for code in (*EVERYWHERE, *codes)}):
        names = sorted({code for code in (*EVERYWHERE, *codes) if STATUS[code] == status})
        schema = {"$ref": PLACE.format(model=ErrorAnswer.__name__)}
        found[status] = {
            "description": ", ".join(names),
            # said outright: errors are JSON also where the route answers something else
            "content": {"application/json": {"schema": schema}},
        }
    return found


def takes(
    json: type[BaseModel] | None = None, form: Form | None = None, *, required: bool = True
) -> dict[str, Any]:
    """The body of a route that reads it itself, for its ``openapi_extra``."""
    content: dict[str, Any] = {}
    if json is not None:
        content["application/json"] = {"schema": {"$ref": PLACE.format(model=json.__name__)}}
    if form is not None:
        content["multipart/form-data"] = {"schema": form}
    return {"requestBody": {"required": required, "content": content}}


def stream(data: type[BaseModel], *, numbered: bool = False) -> dict[str, Any]:
    """The content of an answer that is a stream of events, each with ``data`` as JSON."""
    told = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"$ref": PLACE.format(model=data.__name__)},
    }
    number = {"id": {"type": "string", "pattern": "^[0-9]+$"}} if numbered else {}
    fields = {**number, "event": {"type": "string"}, "data": told}
    schema = {"type": "object", "properties": fields, "required": [*fields]}
    return {"text/event-stream": {"schema": schema}}


def form(schema: type[BaseModel], files: Mapping[str, str], required: tuple[str, ...] = ()) -> Form:
    """A form: the fields of a schema, of which those that are no plain values hold JSON; files.

    Args:
        files: what is said of them, by their fields.
        required: those of them that must be there.
    """
    whole = schema.model_json_schema(ref_template=PLACE)
    fields = {name: _field(each) for name, each in whole["properties"].items()}
    binary = {
        name: {
            "type": "string",
            "contentMediaType": "application/octet-stream",
            "description": said,
        }
        for name, said in files.items()
    }
    return {
        "type": "object",
        "properties": {**fields, **binary},
        "required": [*whole.get("required", ()), *required],
        "additionalProperties": False,
    }


Form = dict[str, Any]


def _field(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a form's field; one that takes null may be left out instead."""
    options = [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]
    said = {"description": schema["description"]} if "description" in schema else {}
    if any(each.get("type") in {"array", "object"} or "$ref" in each for each in options):
        text = [each for each in options if each.get("type") == "string"]
        return {
            "type": "string",
            **(text[0] if text else {"contentMediaType": "application/json"}),
            **said,
        }
    return {**(options[0] if len(options) == 1 else {"anyOf": options}), **said}


def document(app: FastAPI) -> None:
    """Let ``app`` describe itself, with the bodies that its routes read themselves."""
    app.openapi = partial(_document, app)  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
        )
        _, bodies = models_json_schema(
            [(body, "validation") for body in (*BODIES, ErrorAnswer, PictureEvent)],
            ref_template=PLACE,
        )
        schemas = made.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(bodies["$defs"])
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for path in made["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        app.openapi_schema = made
    return app.openapi_schema
