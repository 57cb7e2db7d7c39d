"""The description of the interface: whole, and kept, whatever is sent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from loraloom.serve.app import create_app
from loraloom.serve.build import build

from .conftest import served, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loraloom.settings import Settings

METHODS = {"get", "put", "post", "patch", "delete"}


@pytest.fixture(scope="module")
def document(http: httpx2.Client) -> dict[str, Any]:
    found: dict[str, Any] = http.get("/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert method in METHODS
            yield f"{method} {path}", operation


def test_every_route_is_described(document: dict[str, Any]) -> None:
    names = []
    for where, operation in operations(document):
        assert operation["summary"], where
        assert operation["description"], where
        assert operation["tags"], where
        assert len(operation["operationId"]) < 30, where
        names.append(operation["operationId"])
        assert any(status.startswith("2") for status in operation["responses"]), where
    assert len(names) == len(set(names))


def test_every_route_says_how_it_fails(document: dict[str, Any]) -> None:
    shape = {"$ref": "#/components/schemas/ErrorAnswer"}
    for where, operation in operations(document):
        if "/v1/" not in where:
            continue
        failures = {s: r for s, r in operation["responses"].items() if s[0] in "45"}
        assert {"400", "401", "403", "500"} <= set(failures), where
        for answer in failures.values():
            assert answer["content"]["application/json"]["schema"] == shape, where
            assert answer["description"], where
        assert "422" not in failures


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    known = document["components"]["schemas"]

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if "$ref" in value:
                assert value["$ref"].removeprefix("#/components/schemas/") in known
            for each in value.values():
                walk(each)
        elif isinstance(value, list):
            for each in value:
                walk(each)

    walk(document)


def test_unknown_fields_are_refused_by_every_body(document: dict[str, Any]) -> None:
    for where, operation in operations(document):
        if "requestBody" not in operation:
            continue
        for media in operation["requestBody"]["content"].values():
            schema = media["schema"]
            if "$ref" in schema:
                schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            assert schema["additionalProperties"] is False, where


@pytest.fixture(scope="module")
def restricted(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> Iterator[str]:
    """A server that makes only small things, so that thousands of tries end."""
    changes = {"state": tmp_path_factory.mktemp("restricted"), "max_work": 2 * 9 * 64 * 64}
    service = build(settings.model_copy(update=changes))
    service.engine.start()
    try:
        until(lambda: service.engine.ready, seconds=120)
        with served(create_app(service)) as url:
            yield url
    finally:
        service.engine.stop(patience=1)


HOOKS = """
import schemathesis

SMALL = {"size": "64x64", "steps": 2}

@schemathesis.hook
def map_body(context, body):
    if not isinstance(body, dict) or "prompt" not in body:
        return body
    timeout = body.get("timeout")
    if isinstance(timeout, (int, float)) and 0 < timeout < 60:
        body = {**body, "timeout": 60}
    short = "videos" in context.operation.path and "seconds" not in body
    return {**SMALL, **({"frames": 5} if short else {}), **body}
"""
"""What is asked for is small where nothing else is said: else next to nothing would be made.

Who gives a picture no time gets 504, which is right and no failure.
"""


def schemathesis(url: str, folder: Path, *options: str) -> None:
    """Run it with a fixed seed; its whole report where it finds something."""
    hooks = folder / "hooks.py"
    hooks.write_text(HOOKS, encoding="utf-8")
    command = Path(sys.executable).parent / "schemathesis"
    done = subprocess.run(
        [command, "run", f"{url}/openapi.json", "--seed", "20261121", "--no-color", *options],
        cwd=folder,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    made = httpx2.get(f"{url}/v1/jobs", params={"limit": 100}).json()["data"]
    assert {job["kind"] for job in made if job["status"] == "completed"}, "nothing was ever made"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nothing_that_is_sent_makes_the_server_fail(restricted: str, tmp_path: Path) -> None:
    schemathesis(restricted, tmp_path, "--checks", "not_a_server_error", "-n", "300")


CONFORMANCE = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_answer_is_one_that_is_documented(restricted: str, tmp_path: Path) -> None:
    schemathesis(restricted, tmp_path, "--checks", ",".join(CONFORMANCE), "-n", "30")
