"""The log: one line a request with where its time went, and nothing that is nobody's business."""

from __future__ import annotations

import json
import logging
import re
import sys
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from loraloom.serve.app import create_app
from loraloom.serve.logs import Lines, Logged, Records, event

from .conftest import CLIP, SMALL, served, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loraloom.serve.service import Service

TIMES = {"queue", "load", "switch", "steps", "decode", "encode"}


@pytest.fixture
def http(service: Service) -> Iterator[httpx2.Client]:
    app = Logged(create_app(service), service.engine)
    with served(app) as url, httpx2.Client(base_url=url, timeout=60) as client:  # type: ignore[arg-type]
        yield client


class Noting(logging.Handler):
    """Keeps what is logged, as JSON has it."""

    def __init__(self, found: list[dict[str, Any]]) -> None:
        super().__init__()
        self.found = found
        self.setFormatter(Records())

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(json.loads(self.format(record)))


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[list[dict[str, Any]]]:
    """What is logged from now on, filled as it comes."""
    caplog.set_level(logging.DEBUG, "loraloom")
    handler = Noting([])
    logging.getLogger("loraloom").addHandler(handler)
    yield handler.found
    logging.getLogger("loraloom").removeHandler(handler)


def one(logged: list[dict[str, Any]], **values: Any) -> dict[str, Any]:
    """The only event with these values, once it is there."""

    def found() -> list[dict[str, Any]]:
        return [each for each in logged if values.items() <= each.items()]

    until(lambda: bool(found()))
    (only,) = found()
    return only


def test_a_request_is_one_line_with_where_its_time_went(
    http: httpx2.Client, logged: list[dict[str, Any]]
) -> None:
    answer = http.post("/v1/images/generations", json=SMALL | {"loras": [{"name": "neon"}]})
    line = one(logged, event="request", path="/v1/images/generations")
    assert line["method"] == "POST"
    assert line["status"] == 200
    assert line["job"] == answer.json()["id"]
    assert line["request"] == answer.headers["x-request-id"]
    assert (line["kind"], line["state"], line["results"]) == ("images", "completed", 1)
    timings = answer.json()["timings"]
    assert line.keys() >= TIMES
    assert {name: line[name] for name in TIMES} == {
        name: pytest.approx(timings[f"{name}_s"], abs=1e-5) for name in TIMES
    }
    assert line["steps"] > 0
    assert sum(line[name] for name in TIMES) <= line["seconds"]


def test_a_job_that_goes_on_has_a_line_when_it_ends(
    http: httpx2.Client, logged: list[dict[str, Any]]
) -> None:
    video = http.post("/v1/videos", json=CLIP).json()
    job = video["id"].removeprefix("video_")
    request = one(logged, event="request", path="/v1/videos")
    assert request["job"] == job
    assert not TIMES & request.keys()
    ended = one(logged, event="job", job=job)
    assert (ended["kind"], ended["state"]) == ("video", "completed")
    assert ended.keys() >= TIMES


def test_what_is_refused_is_logged_and_why_a_job_failed_is(
    http: httpx2.Client, logged: list[dict[str, Any]]
) -> None:
    http.post("/v1/images/generations", json={"prompt": ""})
    assert one(logged, event="request", status=400)["seconds"] < 1
    http.get("/nowhere")
    assert one(logged, status=404)["path"] == "/nowhere"
    job = http.post("/v1/images/generations", json=SMALL | {"steps": 900, "async": True}).json()
    http.delete(f"/v1/jobs/{job['id']}")
    assert one(logged, event="job", job=job["id"])["state"] == "cancelled"


def test_no_prompt_no_key_and_no_signature_is_logged(
    http: httpx2.Client, logged: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    secret = "nobodys-business"
    http.post(
        "/v1/images/generations",
        json=SMALL | {"prompt": secret, "negative_prompt": secret},
        headers={"Authorization": f"Bearer {secret}"},
    )
    http.get(f"/v1/results/{'0' * 32}/0?expires=1&signature={secret}")
    assert one(logged, status=404)["path"] == f"/v1/results/{'0' * 32}/0"
    assert secret not in json.dumps(logged)
    assert secret not in caplog.text


def test_what_machines_ask_is_logged_for_the_curious_alone(
    http: httpx2.Client, logged: list[dict[str, Any]]
) -> None:
    for path in ("/health", "/ready", "/metrics"):
        http.get(path)
        assert one(logged, path=path)["level"] == "debug"


def record(**values: object) -> logging.LogRecord:
    made = logging.LogRecord("loraloom", logging.INFO, "", 0, "request", (), None)
    made.values = values
    return made


@pytest.mark.parametrize("path", ["/a\nlevel=error", "/a b", "/a=b", '/a"b', "/a\x1b[31m", ""])
def test_a_value_can_not_pass_for_another_line_or_value(path: str) -> None:
    line = Lines().format(record(path=path, status=404))
    assert "\n" not in line
    assert "\x1b" not in line
    found = re.fullmatch(r"[0-9T:.Z-]+ info request path=(\".*\") status=404", line)
    assert found
    assert json.loads(found[1]) == path
    assert json.loads(Records().format(record(path=path)))["path"] == path


def test_both_forms_show_times_in_utc_and_a_trace_where_there_is_one() -> None:
    made = record(seconds=0.12345678)
    made.created = 86400.25
    made.msecs = 250.0
    assert Lines().format(made) == "1970-01-02T00:00:00.250Z info request seconds=0.123457"
    try:
        int("x")
    except ValueError:
        made.exc_info = sys.exc_info()
    for formatter in (Records(), Lines()):
        said = formatter.format(made)
        assert "ValueError: invalid literal for int() with base 10: 'x'" in said


def test_an_event_below_the_level_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "loraloom")
    event("something", value=1)
    event("worse", logging.WARNING, value=2)
    assert [each.getMessage() for each in caplog.records] == ["worse"]
