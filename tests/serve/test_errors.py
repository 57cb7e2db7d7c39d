"""Errors: every cause has a code and a status, and all answers have one shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from loraloom import errors
from loraloom.engine.ticket import Outcome, Ticket, Times, Trouble
from loraloom.serve.errors import CODES, STATUS, Refusal, code_of, type_of, unmade, without_paths

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2


def tree(kind: type[errors.LoraloomError]) -> Iterator[type[errors.LoraloomError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from tree(below)


EVERY = sorted(set(tree(errors.LoraloomError)), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", EVERY)
def test_every_error_has_a_code_and_the_code_a_status(kind: type[errors.LoraloomError]) -> None:
    assert code_of(kind) in STATUS
    if kind is not errors.LoraloomError:
        own = [each for each in kind.__mro__ if each in CODES]
        assert own[0] is not errors.LoraloomError, f"{kind.__name__} falls through the table"


def test_a_class_answers_as_the_nearest_one_above_it() -> None:
    assert code_of(errors.InvalidScheduleError) == "invalid_value"
    assert code_of(errors.AdapterValueError) == "lora_invalid"
    assert code_of(errors.AdapterCoverageError) == "lora_incompatible"
    assert code_of(errors.AdapterChangedError) == "lora_changed"


@pytest.mark.parametrize("code", STATUS)
def test_the_type_of_an_error_is_openais_for_its_status(code: str) -> None:
    wanted = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    status = STATUS[code]
    usual = "server_error" if status >= 500 else "invalid_request_error"
    assert type_of(status) == wanted.get(status, usual)


def test_a_full_queue_says_when_to_come_again() -> None:
    refusal = Refusal.of(errors.QueueFullError(256, 3.4))
    assert refusal.status_code == 429
    assert refusal.headers == {"Retry-After": "3"}
    assert Refusal.of(errors.QueueFullError(1, 0.01)).headers == {"Retry-After": "1"}


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("adapter file '/var/lib/a b/x.st' is absent", "adapter file 'x.st' is absent"),
        ("[Errno 2] No such file: '/srv/secret/c.json'", "[Errno 2] No such file: 'c.json'"),
        (
            "model 'm' lacks vae in /home/me/models/m; wants it",
            "model 'm' lacks vae in m; wants it",
        ),
        ("hub:a/b@1/c and https://host/a/b stay", "hub:a/b@1/c and https://host/a/b stay"),
    ],
)
def test_no_error_tells_where_a_file_lies(said: str, told: str) -> None:
    assert without_paths(said) == told
    assert Refusal.of(errors.AdapterFileError(said)).detail == told
    ticket = Ticket(
        "00",
        "images",
        "",
        "png",
        "failed",
        Times(0.0),
        outcome=Outcome((), Trouble("timeout", said)),
    )
    assert unmade(ticket).detail == told


def test_the_words_of_a_caller_are_repeated_as_they_are() -> None:
    said = "source '/mnt/loras/x' is under no allowed root"
    assert Refusal.of(errors.SourceError(said)).detail == said


def checked(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """The error of an answer, which has the one shape."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    body = answer.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert error["type"] == type_of(status)
    assert error["message"]
    return error


def test_the_frameworks_own_errors_have_the_shape_of_all_others(http: httpx2.Client) -> None:
    checked(http.get("/nothing/here"), 404, "not_found")
    answer = http.put("/v1/jobs")
    checked(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET"
    assert (
        checked(http.get("/v1/jobs", params={"limit": 0}), 400, "invalid_value")["param"] == "limit"
    )


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ("{", 400, "invalid_json", None),
        ("", 400, "invalid_json", None),
        ('{"prompt": "\\ud800"}', 400, "invalid_json", None),
        ("[]", 400, "invalid_value", None),
        ("{}", 400, "invalid_value", "prompt"),
        ('{"prompt": ""}', 400, "invalid_value", "prompt"),
        ('{"prompt": " "}', 400, "invalid_value", "prompt"),
        ('{"prompt": "a", "sed": 1}', 400, "unknown_field", "sed"),
        ('{"prompt": "a", "seed": false}', 400, "invalid_value", "seed"),
        ('{"prompt": "a", "seed": "1"}', 400, "invalid_value", "seed"),
        ('{"prompt": "a", "seed": 9223372036854775808}', 400, "invalid_value", "seed"),
        ('{"prompt": "a", "seed": 9223372036854775807, "n": 2}', 400, "invalid_value", "seed"),
        ('{"prompt": "a", "n": 64}', 400, "invalid_value", "n"),
        ('{"prompt": "a", "size": "100x128"}', 400, "invalid_value", "size"),
        ('{"prompt": "a", "size": "99968x99968"}', 400, "invalid_value", "size"),
        ('{"prompt": "a", "size": "big"}', 400, "invalid_value", "size"),
        ('{"prompt": "a", "pipeline": "two"}', 400, "invalid_value", "pipeline"),
        ('{"prompt": "a", "background": "transparent"}', 400, "invalid_value", "background"),
        ('{"prompt": "a", "output_compression": 5}', 400, "invalid_value", None),
        ('{"prompt": "a", "stream": true, "async": true}', 400, "invalid_value", None),
        ('{"prompt": "a", "mixes": [[]], "loras": []}', 400, "invalid_value", None),
        ('{"prompt": "a", "model": "gpt-image-1"}', 404, "model_not_found", "model"),
        ('{"prompt": "a", "model": "base:nothing"}', 404, "model_not_found", "model"),
        ('{"prompt": "a", "loras": [{"name": "neo"}]}', 404, "lora_not_found", "loras[0].name"),
        (
            '{"prompt": "a", "loras": [{"name": "neon", "version": "ffffffff"}]}',
            404,
            "lora_not_found",
            "loras[0].name",
        ),
        (
            '{"prompt": "a", "loras": [{"name": "../x"}]}',
            400,
            "invalid_value",
            "loras[0].name",
        ),
        (
            '{"prompt": "a", "loras": [{"name": "neon", "scale": NaN}]}',
            400,
            "invalid_value",
            "loras[0].scale",
        ),
        (
            '{"prompt": "a", "loras": [{"name": "neon"}, {"name": "neon"}]}',
            400,
            "invalid_value",
            "loras",
        ),
        (
            '{"prompt": "a", "model": "mini:neon", "loras": [{"name": "neon"}]}',
            400,
            "invalid_value",
            "loras",
        ),
        (
            '{"prompt": "a", "mixes": [[], [{"name": "neo"}]]}',
            404,
            "lora_not_found",
            "mixes[1][0].name",
        ),
        (
            '{"prompt": "a", "loras": [{"name": "neon", "schedule": [{"progress": 1, "factor": 1},'
            ' {"progress": 0, "factor": 1}]}]}',
            400,
            "invalid_value",
            "loras[0].schedule",
        ),
    ],
)
def test_a_body_that_cannot_be_is_refused_at_its_field(
    http: httpx2.Client, body: str, status: int, code: str, param: str | None
) -> None:
    answer = http.post("/v1/images/generations", content=body, headers=JSON)
    assert checked(answer, status, code)["param"] == param


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/videos", {"prompt": "a", "seconds": True}, "seconds"),
        ("/v1/videos", {"prompt": "a", "last_image": {"b64_json": 1}}, "last_image.b64_json"),
        ("/v1/videos", {"prompt": "a", "last_image": {"b64": "x"}}, "last_image.b64_json"),
        ("/v1/set_lora", {"lora_nickname": 5}, "lora_nickname"),
        ("/v1/set_lora", {"lora_nickname": ["a b"]}, "lora_nickname"),
        ("/v1/set_lora", {"lora_nickname": "a", "str": 1}, "str"),
        ("/v1/adapters", {"name": "..", "source": "x"}, "name"),
        ("/v1/adapters", {"name": ".hidden", "source": "x"}, "name"),
    ],
)
def test_a_field_of_several_types_is_named_as_the_caller_wrote_it(
    http: httpx2.Client, path: str, body: dict[str, Any], param: str
) -> None:
    assert http.post(path, json=body).json()["error"]["param"] == param


def test_a_mistyped_name_is_answered_with_the_nearest(http: httpx2.Client) -> None:
    answer = http.post("/v1/images/generations", json={"prompt": "a", "sed": 1})
    assert "did you mean 'seed'" in answer.json()["error"]["message"]
    answer = http.post("/v1/images/generations", json={"prompt": "a", "loras": [{"name": "sketc"}]})
    assert "did you mean 'sketch'" in answer.json()["error"]["message"]


def test_a_body_of_another_type_is_refused_with_the_header_to_send(http: httpx2.Client) -> None:
    answer = http.post("/v1/images/generations", data={"prompt": "a"})
    said = checked(answer, 415, "unsupported_media_type")["message"]
    assert "application/x-www-form-urlencoded" in said
    assert "Content-Type: application/json" in said
    checked(http.post("/v1/images/edits", json={"prompt": "a"}), 415, "unsupported_media_type")
    checked(http.post("/v1/videos", content=b"x"), 415, "unsupported_media_type")


def test_our_own_mistake_shows_no_stack_trace(service: Any) -> None:
    from fastapi.testclient import TestClient

    from loraloom.serve.app import create_app

    app = create_app(service)

    def broken() -> None:
        raise RuntimeError("a secret of the server")

    app.add_api_route("/v1/broken", broken)
    client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
    answer = client.get("/v1/broken")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    assert answer.json()["error"]["code"] == "internal_error"
    assert answer.headers["x-request-id"]
