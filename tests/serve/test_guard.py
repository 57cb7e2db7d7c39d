"""The guard: keys, hosts, origins, sizes, and what every answer says."""

from __future__ import annotations

import re
import socket
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from loraloom.errors import SettingsError
from loraloom.serve.guard import SMALL_BODY, Hosts
from loraloom.serve.keys import Keys
from loraloom.settings import Settings

from .conftest import SMALL
from .test_errors import checked

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import httpx2

ALICE, BOB, ROOT = "alice-0123456789abcdef", "bob-0123456789abcdef", "root-0123456789abcdef"


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_without_keys_nobody_needs_one_and_a_clients_own_is_ignored(http: httpx2.Client) -> None:
    assert http.get("/v1/jobs").status_code == 200
    assert http.get("/v1/jobs", headers=bearer("anything")).status_code == 200


def test_with_keys_every_call_needs_one_that_is_in_the_file(
    door: Any, keys: Callable[[str, str], Path]
) -> None:
    file = keys("keys", f"# people\nalice:{ALICE}\n\n{BOB}\n")
    with door(api_key_file=file) as client:
        answer = client.get("/v1/jobs")
        assert "there is no key" in checked(answer, 401, "invalid_api_key")["message"]
        assert answer.headers["www-authenticate"] == "Bearer"
        for wrong in (ALICE[:-1], ALICE + "x", f"alice:{ALICE}", "é", "# people"):
            sent = {"authorization": f"Bearer {wrong}".encode()}
            checked(client.get("/v1/jobs", headers=sent), 401, "invalid_api_key")
        basic = client.get("/v1/jobs", headers={"authorization": f"Basic {ALICE}"})
        checked(basic, 401, "invalid_api_key")
        for right in (ALICE, BOB):
            assert client.get("/v1/jobs", headers=bearer(right)).status_code == 200
        checked(client.post("/v1/images/generations", json=SMALL), 401, "invalid_api_key")
        assert client.get("/openapi.json").status_code == 200


def test_nobody_sees_the_jobs_of_others(door: Any, keys: Callable[[str, str], Path]) -> None:
    file = keys("keys", f"alice:{ALICE}\nbob:{BOB}\n")
    with door(api_key_file=file) as client:
        made = client.post("/v1/images/generations", json=SMALL, headers=bearer(ALICE))
        assert made.status_code == 200, made.text
        job = f"/v1/jobs/{made.json()['id']}"
        assert client.get(job, headers=bearer(ALICE)).status_code == 200
        checked(client.get(job, headers=bearer(BOB)), 404, "job_not_found")
        checked(client.get(f"{job}/events", headers=bearer(BOB)), 404, "job_not_found")
        checked(client.delete(job, headers=bearer(BOB)), 404, "job_not_found")
        assert client.get("/v1/jobs", headers=bearer(BOB)).json()["data"] == []
        after = client.get("/v1/jobs", params={"after": made.json()["id"]}, headers=bearer(BOB))
        checked(after, 404, "job_not_found")


def test_only_administrators_are_one_where_there_is_a_file_of_them(
    keys: Callable[[str, str], Path], tmp_path: Path
) -> None:
    users, admins = keys("keys", f"alice:{ALICE}\n"), keys("admins", f"root:{ROOT}\n")
    state = tmp_path / "state"

    def admin(settings: Settings, key: str | None) -> bool | None:
        caller = Keys.read(settings).caller(f"Bearer {key}" if key else None)
        return caller.admin if caller else None

    both = Settings(state=state, api_key_file=users, admin_key_file=admins)
    assert (admin(both, ALICE), admin(both, ROOT), admin(both, None)) == (False, True, None)
    one = Settings(state=state, api_key_file=users)
    assert (admin(one, ALICE), admin(one, ROOT)) == (True, None)
    other = Settings(state=state, admin_key_file=admins)
    assert (admin(other, None), admin(other, ROOT)) == (False, True)
    assert admin(Settings(state=state), None)


@pytest.mark.parametrize("text", ["", "# nothing\n", "short\n", "name:short\n", "a" * 20 + " b\n"])
def test_a_file_without_a_proper_key_is_refused(
    keys: Callable[[str, str], Path], tmp_path: Path, text: str
) -> None:
    with pytest.raises(SettingsError, match="key"):
        Keys.read(Settings(state=tmp_path, api_key_file=keys("keys", text)))
    with pytest.raises(SettingsError, match="cannot be read"):
        Keys.read(Settings(state=tmp_path, api_key_file=tmp_path / "absent"))


def test_an_owner_without_a_name_is_known_by_a_digest_that_tells_nothing(
    keys: Callable[[str, str], Path], tmp_path: Path
) -> None:
    found = Keys.read(Settings(state=tmp_path, api_key_file=keys("keys", BOB)))
    caller = found.caller(f"bearer {BOB}")
    assert caller
    assert re.fullmatch(r"key-[0-9a-f]{8}", caller.owner)


def test_a_signed_link_opens_its_result_and_nothing_else(
    door: Any, keys: Callable[[str, str], Path]
) -> None:
    file = keys("keys", f"alice:{ALICE}\n")
    with door(api_key_file=file) as client:
        body = {**SMALL, "response_format": "url"}
        made = client.post("/v1/images/generations", json=body, headers=bearer(ALICE))
        url = made.json()["data"][0]["url"]
        assert client.get(url).status_code == 200
        path, query = urlsplit(url).path, urlsplit(url).query
        checked(client.get(path), 401, "invalid_api_key")
        checked(client.get(f"{path[:-1]}1?{query}"), 401, "invalid_api_key")
        checked(client.get(f"/v1/jobs?{query}"), 401, "invalid_api_key")
        later = re.sub(r"expires=\d+", "expires=99999999999", query)
        checked(client.get(f"{path}?{later}"), 401, "invalid_api_key")
        checked(client.get(f"{path}?{query[:-1]}"), 401, "invalid_api_key")
        checked(client.get(f"{path}?expires=é&signature=é"), 401, "invalid_api_key")


def test_a_signed_link_opens_also_for_whoever_has_another_key(
    door: Any, keys: Callable[[str, str], Path]
) -> None:
    file = keys("keys", f"alice:{ALICE}\nbob:{BOB}\n")
    with door(api_key_file=file) as client:
        body = {**SMALL, "response_format": "url"}
        made = client.post("/v1/images/generations", json=body, headers=bearer(ALICE))
        url = made.json()["data"][0]["url"]
        assert client.get(url, headers=bearer(BOB)).status_code == 200
        checked(client.get(urlsplit(url).path, headers=bearer(BOB)), 404, "job_not_found")


def test_a_link_runs_out(keys: Callable[[str, str], Path], tmp_path: Path) -> None:
    settings = Settings(state=tmp_path, api_key_file=keys("keys", ALICE))
    found = Keys.read(settings)
    path, query = found.signed("/v1/results/0/0").split("?")
    expires, signature = (part.split("=")[1] for part in query.split("&"))
    assert found.opens(path, expires, signature)
    assert Keys.read(settings).opens(path, expires, signature), "a restart keeps links alive"
    past = found.signature(path, 1)
    assert not found.opens(path, "1", past)
    assert (tmp_path / "links.key").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("host", "meant"),
    [
        ("127.0.0.1:8000", True),
        ("localhost:8000", True),
        ("LOCALHOST", True),
        ("[::1]:8000", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("", False),
        ("[", False),
    ],
)
def test_on_a_machine_that_serves_itself_only_its_own_names_are_meant(
    host: str, meant: bool
) -> None:
    assert Hosts.of(Settings(), keys=False).meant(host) == meant


def test_names_are_as_the_settings_say() -> None:
    allowed = Hosts.of(Settings(allowed_host=("Lora.Example",)), keys=True)
    assert allowed.meant("lora.example:443")
    assert allowed.meant("127.0.0.1:8000")
    assert not allowed.meant("evil.example")
    assert Hosts.of(Settings(host="0.0.0.0"), keys=False).meant("any.example")
    assert Hosts.of(Settings(), keys=True).meant("any.example")
    assert Hosts.of(Settings(allowed_host=("*",)), keys=False).meant("any.example")


def test_a_page_elsewhere_cannot_name_itself_as_this_server(http: httpx2.Client) -> None:
    answer = http.get("/v1/jobs", headers={"host": "evil.example"})
    assert "--allowed-host" in checked(answer, 403, "forbidden")["message"]


def test_a_page_elsewhere_may_look_and_not_touch(http: httpx2.Client) -> None:
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "://"):
        answer = http.post("/v1/images/generations", json=SMALL, headers={"origin": origin})
        checked(answer, 403, "forbidden")
        assert "access-control-allow-origin" not in answer.headers
    own = str(http.base_url).rstrip("/")
    answer = http.post("/v1/images/generations", json=SMALL, headers={"origin": own})
    assert answer.status_code == 200
    assert http.get("/v1/jobs", headers={"origin": "http://evil.example"}).status_code == 200


def test_an_allowed_name_may_be_a_page_of_its_own(door: Any) -> None:
    with door(allowed_host=("lora.example",)) as client:
        sent = {"origin": "https://lora.example", "host": "127.0.0.1"}
        answer = client.post("/v1/images/generations", json=SMALL, headers=sent)
        assert answer.status_code == 200


@pytest.mark.parametrize("origin", ["http://[", "//[::1", "null", "http://]", "file://"])
def test_an_origin_that_is_no_address_is_no_page_of_ours(http: httpx2.Client, origin: str) -> None:
    answer = http.post("/v1/images/generations", json=SMALL, headers={"origin": origin})
    checked(answer, 403, "forbidden")


def said_to(http: httpx2.Client, *pieces: bytes) -> bytes:
    """What the server answers to bytes, until it closes the connection."""
    place = urlsplit(str(http.base_url))
    with socket.create_connection((place.hostname, place.port), timeout=10) as raw:
        for piece in pieces:
            raw.sendall(piece)
        return b"".join(iter(partial(raw.recv, 65536), b""))


def test_a_body_whose_end_two_headers_give_is_refused(http: httpx2.Client) -> None:
    said = said_to(
        http,
        b"POST /v1/images/generations HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        b"Content-Type: application/json\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n"
        b"\r\n0\r\n\r\nGET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    )
    assert said.startswith(b"HTTP/1.1 400")
    assert said.count(b"HTTP/1.1") == 1, "what is behind it is not taken for a request"


def test_who_sends_nothing_of_a_body_is_not_waited_for(
    http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loraloom.serve.guard.STALL", 0.2)
    for path in (b"/v1/images/generations", b"/v1/adapters"):
        said = said_to(
            http,
            b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b'Content-Length: 1000\r\n\r\n{"prompt":' % path,
        )
        assert said.startswith(b"HTTP/1.1 400")
    slow = {**SMALL, "steps": 64}
    assert http.post("/v1/images/generations", json=slow).status_code == 200, "jobs may take longer"


def test_a_body_is_refused_by_what_its_header_says(http: httpx2.Client) -> None:
    said = said_to(
        http,
        b"POST /v1/images/generations HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (SMALL_BODY + 1),
    )
    assert said.startswith(b"HTTP/1.1 413")
    assert b"payload_too_large" in said


def test_a_body_is_refused_while_it_comes_whatever_its_header_said(http: httpx2.Client) -> None:
    piece = b" " * 2**20

    def endless() -> Any:
        for _ in range(SMALL_BODY // len(piece) + 1):
            yield piece

    sent = {"content-type": "application/json"}
    answer = http.post("/v1/images/generations", content=endless(), headers=sent)
    checked(answer, 413, "payload_too_large")


def test_adapters_may_be_larger_than_pictures(door: Any) -> None:
    with door(max_upload=SMALL_BODY + 2**20) as client:
        data = b" " * (SMALL_BODY + 2**19)
        sent = {"content-type": "application/json"}
        answer = client.post("/v1/adapters/inspect", content=data, headers=sent)
        assert answer.status_code != 413
        answer = client.post("/v1/adapters/inspect", content=data + data, headers=sent)
        checked(answer, 413, "payload_too_large")


def test_every_answer_has_an_id_and_says_what_browsers_may_not(http: httpx2.Client) -> None:
    for answer in (http.get("/v1/jobs"), http.get("/nothing")):
        assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    given = http.get("/v1/jobs", headers={"x-request-id": "my-own_1.0"})
    assert given.headers["x-request-id"] == "my-own_1.0"
    odd = http.get("/v1/jobs", headers={"x-request-id": "a b\tc" + "x" * 100})
    assert re.fullmatch(r"[0-9a-f]{32}", odd.headers["x-request-id"])
