"""``docs/reference/http.md``, by ``python -m loraloom.serve.reference``."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from loraloom.settings import Settings

from .app import create_app
from .build import opened
from .errors import STATUS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Schema: TypeAlias = "Mapping[str, Any]"
"""A part of an OpenAPI document."""

HEAD = """\
# HTTP interface

Made by `python -m loraloom.serve.reference` from the application; edit the code, not this file. A
server has the same as JSON under `/openapi.json`. [Serving](../guides/serving.md) shows its use.

A field that is not listed is refused; one without a default may be left out, and null is the same.
Where a server has keys, everything under `/v1` wants the header `Authorization: Bearer KEY`. Every
answer has the header `X-Request-ID`.

## Errors

`{"error": {"message": …, "type": …, "param": …, "code": …}}`. `param` is the field that is wrong,
or null. With 429 comes the header `Retry-After`. A call may answer the codes that are listed with
it, and others of the same status.

"""

JSON, FORM = "application/json", "multipart/form-data"
BINARY = "application/octet-stream"
SILENT = "Successful Response"
"""What FastAPI says where nothing is said."""

WORDS = {"string": "text", "array": "list", None: "any value"}


def document() -> dict[str, Any]:
    """The OpenAPI document of a server; no model is loaded."""
    with tempfile.TemporaryDirectory() as state:
        settings = Settings(state=Path(state), device="cpu", warmup=False)
        with opened(settings) as service:
            return create_app(service).openapi()


def markdown(found: Schema) -> str:
    """An OpenAPI document as a page."""
    schemas: Schema = found["components"]["schemas"]
    parts = [HEAD, *_table(("status", "codes"), _codes())]
    asked, told = set[str](), set[str]()
    for tag, calls in _by_tag(found["paths"]).items():
        parts += ["", f"## {tag[0].upper()}{tag[1:]}"]
        for place, call in calls:
            parts += ["", f"### {place}", "", _said(call), *_call(call, schemas)]
            asked |= _named(call.get("requestBody", {}), schemas, within=True)
            told |= _named(call["responses"], schemas)
    told -= asked | {"ErrorAnswer", "ErrorBody"}
    for title, names, table in (
        ("Values in bodies", asked, _fields),
        ("Values in answers", told, _told),
    ):
        parts += ["", f"## {title}"]
        for name in sorted(names):
            said = _words(schemas[name].get("description", ""))
            parts += ["", f"### {name}", "", said, "", *table(schemas[name])]
    return "\n".join(parts) + "\n"


def _codes() -> Iterator[tuple[str, ...]]:
    for status in sorted(set(STATUS.values())):
        yield str(status), ", ".join(f"`{code}`" for code in STATUS if STATUS[code] == status)


def _by_tag(paths: Schema) -> dict[str, list[tuple[str, Schema]]]:
    found: dict[str, list[tuple[str, Schema]]] = {}
    for path, calls in paths.items():
        for method, call in calls.items():
            found.setdefault(call["tags"][0], []).append((f"{method.upper()} {path}", call))
    return found


def _said(call: Schema) -> str:
    return f"{call['summary']}. {_words(call.get('description', ''))}".rstrip()


def _call(call: Schema, schemas: Schema) -> Iterator[str]:
    """Parameters, body and answers of one call."""
    if parameters := call.get("parameters"):
        rows = (
            (f"`{each['name']}`", each["in"], *_field(each["schema"], needed=each["required"]))
            for each in parameters
        )
        yield from ("", *_table(("parameter", "in", "type", "default", ""), rows))
    body = _content(call.get("requestBody", {}))
    for kind, schema in body.items():
        if kind == FORM and len(body) > 1:
            yield from ("", _files(schema))
        else:
            may = "" if call["requestBody"]["required"] else ", which may be left out"
            whole = schemas[_name(schema)] if "$ref" in schema else schema
            yield from ("", f"Body: `{kind}`{may}.", "", *_fields(whole))
    yield from _answers(call["responses"])


def _answers(responses: Schema) -> Iterator[str]:
    """What a call answers: values, then errors by their codes."""
    values: list[tuple[str, ...]] = []
    errors: list[str] = []
    for status, answer in sorted(responses.items()):
        content = _content(answer)
        if any(_name(each) == "ErrorAnswer" for each in content.values()):
            errors.append(f"{status} `{answer['description'].replace(', ', '` `')}`")
        else:
            values.append(
                (status, _kinds(content), _words(answer["description"].replace(SILENT, "")))
            )
    yield from ("", *_table(("status", "answer", ""), values))
    if errors:
        yield from ("", f"Errors: {', '.join(errors)}.")


def _files(form: Schema) -> str:
    """What a form has beside the fields of the JSON body."""
    files = (
        f"`{name}` ({_words(each['description']).rstrip('.')})"
        for name, each in form["properties"].items()
        if each.get("contentMediaType") == BINARY
    )
    return (
        f"Or `{FORM}`: the same fields, lists and objects as JSON text, and files: "
        f"{', '.join(files)}."
    )


def _kinds(content: Mapping[str, Schema]) -> str:
    """The types of an answer."""
    said = []
    for kind, schema in content.items():
        data = schema.get("properties", {}).get("data", {}).get("contentSchema")
        if data:
            said.append(f"`{kind}` of {_type(data)}")
        elif kind != JSON:
            said.append(f"`{kind}`")
        elif schema:
            said.append(_type(schema))
    return ", ".join(said)


def _content(holder: Schema) -> dict[str, Schema]:
    return {kind: each.get("schema", {}) for kind, each in holder.get("content", {}).items()}


def _fields(schema: Schema) -> Iterator[str]:
    """What may be sent as an object: its fields as a table, those first that must be there."""
    needed = schema.get("required", ())
    fields = sorted(schema["properties"].items(), key=lambda each: each[0] not in needed)
    rows = ((f"`{name}`", *_field(each, needed=name in needed)) for name, each in fields)
    return _table(("field", "type", "default", ""), rows)


def _told(schema: Schema) -> Iterator[str]:
    """What is answered as an object."""
    rows = (
        (f"`{name}`", _type(each), _words(each.get("description", "")))
        for name, each in schema["properties"].items()
    )
    return _table(("field", "type", ""), rows)


def _field(schema: Schema, *, needed: bool) -> tuple[str, str, str]:
    """Type, default and description of what is sent; null need not be said."""
    value = schema.get("default")
    options = [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]
    default = "required" if needed else "" if value is None else f"`{json.dumps(value)}`"
    return _type({"anyOf": options}), default, _words(schema.get("description", ""))


def _type(schema: Schema) -> str:
    """A type in words."""
    if name := _name(schema):
        return f"[{name}](#{name.lower()})"
    if options := schema.get("anyOf"):
        return " or ".join(map(_type, options))
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(f"`{json.dumps(value)}`" for value in values)
    if "contentMediaType" in schema:
        return "file" if schema["contentMediaType"] == BINARY else "JSON as text"
    return _plain(schema)


def _plain(schema: Schema) -> str:
    """A type that is none of others, with its bounds."""
    kind, span, inner = schema.get("type"), _span(schema), schema.get("additionalProperties")
    word = WORDS.get(kind, str(kind))
    if kind == "array":
        return f"{word}{span and f' ({span})'} of {_type(schema.get('items', {}))}"
    if isinstance(inner, dict):
        return f"{word} of {_type(inner)}"
    if kind == "string" and span:
        span += " characters"
    like = f"`{schema['pattern']}`" if "pattern" in schema else ""
    return ", ".join(filter(None, (word, span, like)))


def _span(schema: Schema) -> str:
    """The bounds of a number, or of how long a text or list is."""
    least, most = (
        next((schema[key] for key in keys if schema.get(key)), None)
        for keys in (("minimum", "minLength", "minItems"), ("maximum", "maxLength", "maxItems"))
    )
    if least is None and schema.get("minimum") == 0:
        least = 0
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if least is not None and most is not None:
        return f"{least:g} to {most:g}"
    said = (("at least", least), ("above", above), ("at most", most), ("below", below))
    return ", ".join(f"{word} {_number(bound)}" for word, bound in said if bound is not None)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _name(schema: Schema) -> str:
    """The name of what is referred to; empty where nothing is."""
    return str(schema.get("$ref", "")).rpartition("/")[2]


def _named(part: Any, schemas: Schema, *, within: bool = False) -> set[str]:
    """All values that a part of the document refers to, and those that they refer to.

    Args:
        within: only those that the first ones refer to.
    """
    found: set[str] = set()
    first = {_name(each) for each in _content(part).values()} if within else set[str]()
    left = [part]
    while left:
        each = left.pop()
        if isinstance(each, list):
            left += each
        elif isinstance(each, dict):
            left += each.values()
            name = _name(each) if isinstance(each.get("$ref"), str) else ""
            if name and name not in found:
                found.add(name)
                left.append(schemas[name])
    return found - first


def _words(text: str) -> str:
    """A docstring as Markdown, in one paragraph."""
    return " ".join(text.replace("``", "`").split())


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Rows as a table; a column in which nothing is said is left out."""
    held = [*rows]
    shown = [index for index, _ in enumerate(heads) if any(row[index] for row in held)]
    for row in (heads, tuple("---" for _ in heads), *held):
        yield f"| {' | '.join(row[index].replace('|', chr(92) + '|') for index in shown)} |"


if __name__ == "__main__":
    sys.stdout.write(markdown(document()))
