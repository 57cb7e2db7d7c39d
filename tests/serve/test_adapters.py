"""Adapters over HTTP: published, looked at, replaced and withdrawn while requests run."""

from __future__ import annotations

import io
import json
import os
import socket
from dataclasses import replace
from threading import Thread
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from PIL import Image

from loraloom.serve.app import create_app
from loraloom.serve.shop import Shop
from loraloom.store.roots import Roots
from tests.store.full import full_after

from . import weights
from .conftest import SMALL, served, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from loraloom.serve.service import Service

LONG = {**SMALL, "steps": 80, "async": True}
"""A picture that takes a while."""

KEYS = "secret-secret-secret-user"
ADMINS = "secret-secret-secret-admin"


@pytest.fixture
def names(service: Service) -> Iterator[Callable[[str], str]]:
    """Names that are withdrawn after the test; the default mix is empty before and after."""
    used: list[str] = []
    service.defaults.set(())

    def named(name: str) -> str:
        used.append(name)
        return name

    yield named
    service.defaults.set(())
    for name in used:
        if name in service.catalog.names():
            service.catalog.withdraw(name)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def rooted(service: Service, root: Path) -> Iterator[httpx2.Client]:
    """A server that may read below ``root``."""
    own = service.shop
    shop = Shop(service.catalog, weights.names(), own.fetcher, own.stock, Roots([root]))
    with (
        served(create_app(replace(service, shop=shop))) as url,
        httpx2.Client(base_url=url, timeout=60) as client,
    ):
        yield client


def publish(http: httpx2.Client, name: str, data: bytes, **fields: Any) -> httpx2.Response:
    form = {"name": name, **fields}
    return http.post("/v1/adapters", data=form, files={"file": ("a.safetensors", data)})


def error(answer: httpx2.Response) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return found


def listed(http: httpx2.Client) -> dict[str, Any]:
    return {each["name"]: each for each in http.get("/v1/adapters").json()["data"]}


def drafts(service: Service) -> list[Path]:
    folder = service.shop.stock.folder / "drafts"
    return [*folder.iterdir()] if folder.is_dir() else []


def uploads(service: Service) -> set[str]:
    folder = service.shop.stock.folder
    return (
        {path.name for path in folder.iterdir() if path.name != "drafts"}
        if folder.is_dir()
        else set()
    )


def made(http: httpx2.Client, job: str) -> dict[str, Any]:
    """A job when it has ended."""
    until(lambda: http.get(f"/v1/jobs/{job}").json()["status"] not in {"queued", "running"}, 60)
    found: dict[str, Any] = http.get(f"/v1/jobs/{job}").json()
    return found


def running(http: httpx2.Client, **changes: Any) -> str:
    """The id of a job that is under way."""
    answer = http.post("/v1/images/generations", json={**LONG, **changes})
    assert answer.status_code == 202, answer.text
    job: str = answer.json()["id"]
    until(lambda: http.get(f"/v1/jobs/{job}").json()["status"] != "queued")
    assert http.get(f"/v1/jobs/{job}").json()["status"] == "running"
    return job


def test_what_comes_with_the_model_is_listed_and_shows_no_path(
    http: httpx2.Client, service: Service
) -> None:
    found = listed(http)
    assert {"neon", "sketch"} <= found.keys()
    assert found["neon"]["source"] == "bundled"
    assert found["neon"]["bundled"]
    assert found["neon"]["sites"] > 0
    text = http.get("/v1/adapters").text
    assert str(service.card.root) not in text
    assert http.get("/v1/adapters/neon").json()["sha256"] == found["neon"]["sha256"]


def test_an_upload_is_worn_by_its_name_right_away(
    http: httpx2.Client, names: Callable[[str], str]
) -> None:
    answer = publish(http, names("style"), weights.adapter(1), strength="0.5", triggers="a, b c")
    assert answer.status_code == 201, answer.text
    adapter = answer.json()
    assert adapter["source"] == "upload"
    assert adapter["strength"] == 0.5
    assert adapter["triggers"] == ["a", "b c"]
    assert adapter["sites"] == weights.FEW
    assert adapter["components"] == ["transformer"]
    picture = http.post("/v1/images/generations", json={**SMALL, "loras": [{"name": "style"}]})
    (worn,) = picture.json()["loras"]
    assert (worn["name"], worn["sha256"], worn["scale"]) == ("style", adapter["sha256"], 0.5)
    again = publish(http, "style", weights.adapter(1))
    assert again.status_code == 200
    assert again.json()["sha256"] == adapter["sha256"]
    assert again.json()["strength"] == 0.5
    assert listed(http)["style"]["tier"] in {"device", "host"}


BAD = {
    "empty": (b"", "lora_invalid", 400),
    "pickle": (b"\x80\x04\x95" + bytes(32), "lora_invalid", 400),
    "zip": (b"PK\x03\x04" + bytes(64), "lora_invalid", 400),
    "truncated": (weights.adapter(1)[:-7], "lora_invalid", 400),
    "nan": (weights.with_nan(1), "lora_invalid", 400),
    "zeros": (weights.of_zeros(), "lora_invalid", 400),
    "alien": (weights.of_another_model(), "lora_incompatible", 409),
    "strangers": (weights.with_strangers(1), "lora_incompatible", 409),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_adapter_disturbs_nobody_and_the_answer_says_why(
    http: httpx2.Client, service: Service, names: Callable[[str], str], name: str
) -> None:
    good = publish(http, names("good"), weights.adapter(3)).json()
    before = listed(http)
    files = uploads(service)
    data, code, status = BAD[name]
    for taken in ("good", "bad"):
        answer = publish(http, taken, data)
        assert answer.status_code == status, answer.text
        found = error(answer)
        assert found["code"] == code
        assert str(service.settings.state) not in answer.text
        assert "uploads" not in found["message"]
    assert listed(http) == before
    assert uploads(service) == files
    assert drafts(service) == []
    picture = http.post("/v1/images/generations", json={**SMALL, "loras": [{"name": "good"}]})
    assert picture.json()["loras"][0]["sha256"] == good["sha256"]


def test_a_refusal_tells_counts_keys_and_layers_that_are_near(http: httpx2.Client) -> None:
    found = error(publish(http, "strange", weights.with_strangers(1)))
    assert "8 of 10 keys used" in found["message"]
    assert "attn_1.to_q" in found["message"]
    assert "transformer.transformer_blocks.0.attn1.to_q" in found["message"]
    pickle = error(publish(http, "strange", b"PK\x03\x04" + bytes(64)))
    assert "convert" in pickle["message"]


@pytest.mark.parametrize("name", BAD)
def test_an_inspection_says_what_fits_and_keeps_nothing(
    http: httpx2.Client, service: Service, name: str
) -> None:
    before, files = listed(http), uploads(service)
    data, code, status = BAD[name]
    answer = http.post("/v1/adapters/inspect", files={"file": ("a.safetensors", data)})
    if name in {"nan", "zeros", "alien", "strangers"}:
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert not found["fits"]
        assert found["reason"]
        assert found["used"] == found["keys"] - found["problem_count"]
    else:
        assert answer.status_code == status
        assert error(answer)["code"] == code
    assert str(service.settings.state) not in answer.text
    assert listed(http) == before
    assert uploads(service) == files
    assert drafts(service) == []


def test_an_inspection_lists_problems_with_near_layers_and_what_is_changed(
    http: httpx2.Client,
) -> None:
    files = {"file": ("a.safetensors", weights.with_strangers(1))}
    found = http.post("/v1/adapters/inspect", files=files).json()
    assert found["problem_count"] == 2
    assert {each["key"].rpartition(".lora")[0] for each in found["problems"]} == {
        "transformer.transformer_blocks.0.attn_1.to_q"
    }
    near = found["problems"][0]["near"]
    assert "transformer.transformer_blocks.0.attn1.to_q" in near
    assert found["by_component"] == {"transformer": weights.FEW}
    assert found["layers"][0].keys() == {"site", "rank", "alpha", "scale"}
    assert found["rank"] == "2"
    partly = http.post("/v1/adapters/inspect", data={"allow_partial": "true"}, files=files).json()
    assert partly["fits"]
    assert partly["reason"] is None
    good = {"file": ("a.safetensors", weights.adapter(1))}
    assert http.post("/v1/adapters/inspect", files=good).json()["fits"]


def test_a_configuration_and_a_fit_come_as_fields_of_a_form(
    http: httpx2.Client, names: Callable[[str], str]
) -> None:
    config = json.dumps({"r": 2, "lora_alpha": 8, "peft_type": "LORA"}).encode()
    answer = http.post(
        "/v1/adapters",
        data={"name": names("configured")},
        files={"file": ("a.safetensors", weights.adapter(1)), "config": ("c.json", config)},
    )
    assert answer.json()["alpha"] == "8"
    plain = weights.adapter(1, component="connectors")
    alone = publish(http, names("for-connectors"), plain, component="connectors", alpha="4")
    assert alone.status_code == 201, alone.text
    assert alone.json()["components"] == ["connectors"]
    assert alone.json()["alpha"] == "4"
    wrong = publish(http, "none", plain, component="unet")
    assert (wrong.status_code, error(wrong)["code"]) == (409, "lora_incompatible")


FORMS: dict[str, tuple[dict[str, Any], int, str, str | None]] = {
    "no name": ({"files": {"file": ("a", b"x")}}, 400, "invalid_value", "name"),
    "no file": (
        {"data": {"name": "a"}, "files": {"config": ("c", b"{}")}},
        400,
        "invalid_value",
        "source",
    ),
    "file and source": (
        {"data": {"name": "a", "source": "b"}, "files": {"file": ("a", b"x")}},
        400,
        "invalid_value",
        "source",
    ),
    "unknown field": (
        {"data": {"name": "a", "scale": "1"}, "files": {"file": ("a", b"x")}},
        400,
        "unknown_field",
        "scale",
    ),
    "unknown file": (
        {"data": {"name": "a"}, "files": {"weights": ("a", b"x")}},
        400,
        "unknown_field",
        "weights",
    ),
    "a path for a name": (
        {"data": {"name": "a/b"}, "files": {"file": ("a", b"x")}},
        400,
        "invalid_value",
        "name",
    ),
    "strength is no number": (
        {"data": {"name": "a", "strength": "much"}, "files": {"file": ("a", b"x")}},
        400,
        "invalid_value",
        "strength",
    ),
    "strength is NaN": (
        {"json": {"name": "a", "source": "b", "strength": "NaN"}},
        400,
        "invalid_value",
        "strength",
    ),
    "no multipart": ({"content": weights.adapter(1)}, 415, "unsupported_media_type", None),
    "no JSON": (
        {"content": b"{", "headers": {"content-type": "application/json"}},
        400,
        "invalid_json",
        None,
    ),
    "no boundary": (
        {"content": b"--x", "headers": {"content-type": "multipart/form-data"}},
        400,
        "invalid_value",
        None,
    ),
    "no form": (
        {"content": b"hello", "headers": {"content-type": "multipart/form-data; boundary=x"}},
        400,
        "invalid_value",
        None,
    ),
    "picture is none": (
        {
            "data": {"name": "a"},
            "files": {"file": ("a", weights.adapter(1)), "picture": ("p.png", b"no picture")},
        },
        400,
        "invalid_value",
        "picture",
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_wrong_body_is_refused_and_leaves_nothing(
    http: httpx2.Client, service: Service, name: str
) -> None:
    before, files = listed(http), uploads(service)
    request, status, code, param = FORMS[name]
    answer = http.post("/v1/adapters", **request)
    assert answer.status_code == status, answer.text
    assert error(answer)["code"] == code
    assert error(answer)["param"] == param
    assert listed(http) == before
    assert uploads(service) == files
    assert drafts(service) == []


def test_an_upload_that_is_cut_off_leaves_nothing(server: str, service: Service) -> None:
    address = httpx2.URL(server)
    head = (
        b"POST /v1/adapters HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: multipart/form-data; boundary=XX\r\nContent-Length: 50000000\r\n\r\n"
        b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.safetensors"\r\n\r\n'
    )
    with socket.create_connection((address.host, address.port)) as connection:
        connection.sendall(head + os.urandom(3_000_000))
        until(lambda: any(path.rglob("*") for path in drafts(service)))
        until(lambda: any(f.stat().st_size for p in drafts(service) for f in p.iterdir()))
    until(lambda: not drafts(service))


def test_a_form_whose_last_boundary_is_missing_is_refused(
    http: httpx2.Client, service: Service
) -> None:
    body = (
        b'--XX\r\nContent-Disposition: form-data; name="name"\r\n\r\ncut\r\n'
        b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        + weights.adapter(1)
    )
    answer = http.post(
        "/v1/adapters",
        content=body,
        headers={"content-type": "multipart/form-data; boundary=XX"},
    )
    assert answer.status_code == 400
    assert "cut off" in error(answer)["message"]
    assert "cut" not in listed(http)
    assert drafts(service) == []


def test_an_upload_beyond_the_limit_is_refused(
    door: Callable[..., AbstractContextManager[httpx2.Client]],
) -> None:
    with door(max_upload=10_000) as client:
        answer = publish(client, "large", weights.adapter(1, rank=16))
        assert answer.status_code == 413
        assert error(answer)["code"] == "payload_too_large"


def test_a_full_disk_is_said_to_be_full_and_leaves_nothing(
    http: httpx2.Client, service: Service
) -> None:
    before, files = listed(http), uploads(service)
    with full_after(5_000):
        answer = publish(http, "large", weights.adapter(1, rank=16))
    assert (answer.status_code, error(answer)["code"]) == (507, "storage_full"), answer.text
    assert (listed(http), uploads(service), drafts(service)) == (before, files, [])


def test_requests_under_way_keep_the_version_that_they_began_with(
    http: httpx2.Client, service: Service, names: Callable[[str], str]
) -> None:
    old = publish(http, names("style"), weights.adapter(1)).json()["sha256"]
    wears = {"loras": [{"name": "style"}]}
    first = running(http, **wears)
    other = {**SMALL, "async": True, "size": "96x64", **wears}  # which does not ride along
    waits = http.post("/v1/images/generations", json=other).json()["id"]
    new = publish(http, "style", weights.adapter(2)).json()["sha256"]
    assert new != old
    later = http.post("/v1/images/generations", json={**SMALL, "async": True, **wears}).json()["id"]
    assert http.get("/v1/adapters/style").json()["sha256"] == new
    worn = {
        job: made(http, job)["results"][0]["loras"][0]["sha256"] for job in (first, waits, later)
    }
    assert worn == {first: old, waits: old, later: new}
    until(lambda: service.catalog.users("style") == 0)
    assert [e.key.digest for e in service.catalog.everything() if e.name == "style"] == [new]
    assert len(uploads(service)) == 1


def test_withdrawing_lets_requests_under_way_finish_and_refuses_later_ones(
    http: httpx2.Client, service: Service, names: Callable[[str], str]
) -> None:
    digest = publish(http, names("style"), weights.adapter(1)).json()["sha256"]
    wears = {"loras": [{"name": "style"}]}
    job = running(http, **wears)
    gone = http.delete("/v1/adapters/style")
    assert gone.status_code == 200
    assert gone.json() == {
        "name": "style",
        "object": "adapter.deleted",
        "deleted": True,
        "in_use": 1,
        "left_default_mix": False,
    }
    refused = http.post("/v1/images/generations", json={**SMALL, **wears})
    assert (refused.status_code, error(refused)["code"]) == (404, "lora_not_found")
    assert http.get("/v1/adapters/style").status_code == 404
    assert made(http, job)["results"][0]["loras"][0]["sha256"] == digest
    until(lambda: not uploads(service))
    assert http.delete("/v1/adapters/style").status_code == 404


def test_many_clients_that_publish_one_name_leave_one_of_them_whole(
    http: httpx2.Client, service: Service, names: Callable[[str], str]
) -> None:
    ends: list[tuple[int, str]] = []
    name = names("contested")

    def send(seed: int) -> None:
        answer = publish(http, name, weights.adapter(seed))
        ends.append((answer.status_code, answer.json()["sha256"]))

    threads = [Thread(target=send, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(status for status, _ in ends) == [200] * 7 + [201]
    last = listed(http)[name]["sha256"]
    assert last in {digest for _, digest in ends}
    picture = http.post("/v1/images/generations", json={**SMALL, "loras": [{"name": name}]})
    assert picture.json()["loras"][0]["sha256"] == last
    assert len(uploads(service)) == 1


def test_a_name_that_must_be_free_is_not_replaced(
    http: httpx2.Client, names: Callable[[str], str]
) -> None:
    first = publish(http, names("style"), weights.adapter(1)).json()["sha256"]
    answer = publish(http, "style", weights.adapter(2), replace="false")
    assert answer.status_code == 400
    assert "style" in error(answer)["message"]
    assert listed(http)["style"]["sha256"] == first


def test_what_an_adapter_is_offered_as_can_be_changed(
    http: httpx2.Client, names: Callable[[str], str]
) -> None:
    publish(http, names("style"), weights.adapter(1), triggers='["one"]')
    publish(http, names("other"), weights.adapter(2))
    changed = http.patch("/v1/adapters/style", json={"strength": -0.5, "aliases": ["nick"]}).json()
    assert (changed["strength"], changed["aliases"]) == (-0.5, ["nick"])
    assert changed["triggers"] == ["one"]
    assert http.get("/v1/adapters/nick").json()["name"] == "style"
    picture = http.post("/v1/images/generations", json={**SMALL, "loras": [{"name": "nick"}]})
    (worn,) = picture.json()["loras"]
    assert (worn["name"], worn["scale"]) == ("style", -0.5)
    taken = http.patch("/v1/adapters/other", json={"aliases": ["nick"]})
    assert (taken.status_code, error(taken)["code"]) == (400, "invalid_value")
    assert http.patch("/v1/adapters/style", json={"aliases": []}).json()["aliases"] == []
    assert http.get("/v1/adapters/nick").status_code == 404
    assert http.patch("/v1/adapters/nobody", json={}).status_code == 404
    assert http.patch("/v1/adapters/style", json={"strenght": 1}).status_code == 400


def test_a_pin_is_set_and_taken_off(http: httpx2.Client, names: Callable[[str], str]) -> None:
    publish(http, names("style"), weights.adapter(1))
    assert http.post("/v1/adapters/style/pin").json()["pinned"]
    assert listed(http)["style"]["pinned"]
    assert not http.post("/v1/adapters/style/pin", json={"pinned": False}).json()["pinned"]
    assert http.post("/v1/adapters/nobody/pin").status_code == 404


def test_a_picture_is_drawn_anew_and_small(
    http: httpx2.Client, service: Service, names: Callable[[str], str]
) -> None:
    large = io.BytesIO()
    Image.new("RGB", (900, 600), "red").save(large, "PNG")
    files = {
        "file": ("a.safetensors", weights.adapter(1)),
        "picture": ("../../x.png", large.getvalue()),
    }
    name = names("pictured")
    first = http.post("/v1/adapters", data={"name": name}, files=files).json()["picture"]
    answer = http.get(first)
    assert answer.headers["content-type"] == "image/webp"
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.size == (512, 341)
    second = http.post("/v1/adapters", data={"name": name}, files=files).json()["picture"]
    assert second != first
    assert publish(http, name, weights.adapter(2)).json()["picture"] == second
    assert len([*(service.settings.state / "pictures").iterdir()]) == 1
    http.delete(f"/v1/adapters/{name}")
    assert not [*(service.settings.state / "pictures").iterdir()]
    missing = http.get("/v1/adapters/neon/picture")
    assert (missing.status_code, error(missing)["code"]) == (404, "not_found")


def test_a_path_under_a_root_is_published_and_called_by_its_name(
    rooted: httpx2.Client, root: Path, names: Callable[[str], str]
) -> None:
    (root / "styles").mkdir(exist_ok=True)
    (root / "styles" / "one.safetensors").write_bytes(weights.adapter(5))
    for source in ("styles/one.safetensors", str(root / "styles" / "one.safetensors")):
        answer = rooted.post("/v1/adapters", json={"name": names("one"), "source": source})
        assert answer.status_code in {200, 201}, answer.text
        assert answer.json()["source"] == "file:one.safetensors"
        assert str(root) not in answer.text


def test_what_lies_elsewhere_is_refused_and_not_told(
    rooted: httpx2.Client, http: httpx2.Client, root: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "out.safetensors"
    outside.write_bytes(weights.adapter(5))
    (root / "link.safetensors").symlink_to(outside)
    answers = [
        rooted.post("/v1/adapters", json={"name": "x", "source": source})
        for source in (
            str(outside),
            "link.safetensors",
            "../out.safetensors",
            "/etc/passwd",
            "/no/such/file",
        )
    ]
    assert {answer.status_code for answer in answers} == {403}
    assert {error(answer)["code"] for answer in answers} == {"source_refused"}
    there, absent = (error(answers[i])["message"] for i in (3, 4))
    assert there.replace("/etc/passwd", "") == absent.replace("/no/such/file", "")
    assert error(http.post("/v1/adapters", json={"name": "x", "source": "/etc/passwd"}))
    hub = http.post("/v1/adapters", json={"name": "x", "source": "owner/name"})
    assert (hub.status_code, error(hub)["code"]) == (403, "source_refused")
    link = http.post("/v1/adapters", json={"name": "x", "source": "http://169.254.169.254/"})
    assert link.status_code == 400


def test_who_is_no_administrator_may_look_and_not_change(
    door: Callable[..., AbstractContextManager[httpx2.Client]],
    keys: Callable[[str, str], Path],
) -> None:
    user, admin = keys("user", KEYS), keys("admin", ADMINS)
    with door(api_key_file=user, admin_key_file=admin) as client:
        client.headers["authorization"] = f"Bearer {KEYS}"
        assert client.get("/v1/adapters").status_code == 200
        upload = {"file": ("a.safetensors", weights.adapter(1))}
        assert client.post("/v1/adapters/inspect", files=upload).status_code == 200
        refused = [
            publish(client, "style", weights.adapter(1)),
            client.post("/v1/adapters/inspect", json={"source": "a"}),
            client.patch("/v1/adapters/neon", json={"strength": 2}),
            client.post("/v1/adapters/neon/pin"),
            client.delete("/v1/adapters/neon"),
            client.put("/v1/default-mix", json={"loras": []}),
            client.post("/v1/set_lora", json={"lora_nickname": "neon"}),
            client.post("/v1/merge_lora_weights"),
            client.post("/v1/unmerge_lora_weights"),
            client.post("/v1/load_lora_adapter", json={"lora_name": "a", "lora_path": "b"}),
            client.post("/v1/unload_lora_adapter", json={"lora_name": "neon"}),
        ]
        assert [(each.status_code, error(each)["code"]) for each in refused] == [
            (403, "forbidden")
        ] * len(refused)
        assert client.get("/v1/adapters/neon").json()["strength"] != 2
        client.headers["authorization"] = "Bearer nobody-nobody-nobody"
        assert client.get("/v1/adapters").status_code == 401


def test_the_default_mix_is_worn_by_requests_that_name_nothing(
    http: httpx2.Client, names: Callable[[str], str]
) -> None:
    publish(http, names("style"), weights.adapter(1), strength="0.5")
    mix = {"loras": [{"name": "style"}, {"name": "neon", "scale": 0.25, "target": "transformer"}]}
    answer = http.put("/v1/default-mix", json=mix)
    assert answer.status_code == 200, answer.text
    said = [(each["name"], each["scale"]) for each in answer.json()["loras"]]
    assert said == [("style", 0.5), ("neon", 0.25)]
    assert http.get("/v1/default-mix").json() == answer.json()
    worn = http.post("/v1/images/generations", json=SMALL).json()["loras"]
    assert {(each["name"], each["scale"]) for each in worn} == set(said)
    bare = http.post("/v1/images/generations", json={**SMALL, "loras": []}).json()
    assert bare["loras"] == []
    gone = http.delete("/v1/adapters/style").json()
    assert gone["left_default_mix"]
    assert [each["name"] for each in http.get("/v1/default-mix").json()["loras"]] == ["neon"]
    assert http.post("/v1/images/generations", json=SMALL).status_code == 200


@pytest.mark.parametrize(
    ("loras", "status"),
    [
        ([{"name": "nobody"}], 404),
        ([{"name": "neon"}, {"name": "neon"}], 400),
        ([{"name": "neon", "version": "0000"}], 404),
        ([{"name": "neon", "stages": [1.0, 0.5]}], 400),
        ([{"name": "neon", "target": "unet"}], 409),
        ([{"name": "../neon"}], 400),
        ("neon", 400),
    ],
)
def test_a_default_mix_that_no_request_could_wear_is_refused(
    http: httpx2.Client, names: Callable[[str], str], loras: object, status: int
) -> None:
    http.put("/v1/default-mix", json={"loras": [{"name": "sketch", "scale": 0.1}]})
    before = http.get("/v1/default-mix").json()
    assert http.put("/v1/default-mix", json={"loras": loras}).status_code == status
    assert http.get("/v1/default-mix").json() == before
