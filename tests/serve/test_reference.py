"""The reference of the HTTP interface is what the application says of itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from loraloom.serve.errors import STATUS
from loraloom.serve.reference import document, markdown

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "http.md"


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return document()


def test_the_page_is_what_the_application_says(found: dict[str, Any]) -> None:
    made = "python -m loraloom.serve.reference > docs/reference/http.md"
    assert PAGE.read_text(encoding="utf-8") == markdown(found), f"want: {made}"


def test_every_field_of_every_body_is_on_the_page(found: dict[str, Any]) -> None:
    """Counted apart from how the page is made: by the document's own words."""
    page = markdown(found)
    schemas = found["components"]["schemas"]
    for path, calls in found["paths"].items():
        for method, call in calls.items():
            _, _, said = page.partition(f"### {method.upper()} {path}\n")
            said = re.split(r"^##", said, maxsplit=1, flags=re.MULTILINE)[0]
            for content in call.get("requestBody", {}).get("content", {}).values():
                schema = content["schema"]
                whole = schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
                for name in whole["properties"]:
                    assert f"`{name}`" in said, (path, name)
            for status in call["responses"]:
                assert status in said, (path, status)


def test_every_link_leads_to_a_value(found: dict[str, Any]) -> None:
    page = markdown(found)
    heads = {head.lower() for head in re.findall(r"^### (\w+)$", page, re.MULTILINE)}
    links = set(re.findall(r"\]\(#([a-z]+)\)", page))
    assert links <= heads
    assert len(links) > 10


def test_every_code_is_on_the_page(found: dict[str, Any]) -> None:
    for code, status in STATUS.items():
        assert re.search(rf"^\| {status} \|.*`{code}`", markdown(found), re.MULTILINE)


def test_null_is_told_where_it_is_not_the_same_as_nothing() -> None:
    call = {
        "tags": ["things"],
        "summary": "Make",
        "responses": {"200": {"description": "Successful Response"}},
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}},
        },
    }
    listed = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    fields = {
        "a": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 8}, {"type": "null"}]},
        "b": {"type": "array", "items": listed, "minItems": 1, "maxItems": 2},
        "c": {"type": "number", "exclusiveMinimum": 0, "default": 1.5, "description": "So ``it``."},
    }
    schema = {"type": "object", "properties": fields, "required": ["b"]}
    page = markdown({"paths": {"/x": {"post": call}}, "components": {"schemas": {"Thing": schema}}})
    assert "| `b` | list (1 to 2) of text or null | required |" in page
    assert "| `a` | integer, 0 to 8 |  |" in page
    assert "| `c` | number, above 0 | `1.5` | So `it`. |" in page
    assert page.index("`b`") < page.index("`a`")
