"""Jobs over HTTP: how far they are, their events, cancelling."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from loraloom.serve import watch
from loraloom.serve.app import create_app
from loraloom.serve.build import build

from .conftest import CLIP, SMALL, served, until
from .test_errors import checked
from .test_images import events

if TYPE_CHECKING:
    from pathlib import Path

    from loraloom.settings import Settings

MAKE = "/v1/images/generations"


def later(http: httpx2.Client, **changes: Any) -> str:
    """A job that was asked for and is not waited for."""
    answer = http.post(MAKE, json={**SMALL, "async": True, **changes})
    assert answer.status_code == 202, answer.text
    job: str = answer.json()["id"]
    return job


def state(http: httpx2.Client, job: str) -> str:
    status: str = http.get(f"/v1/jobs/{job}").json()["status"]
    return status


def numbered(answer: httpx2.Response) -> list[int]:
    lines = answer.text.splitlines()
    return [int(line.removeprefix("id: ")) for line in lines if line.startswith("id: ")]


def test_a_job_says_what_was_asked_how_far_it_is_and_what_came_out(http: httpx2.Client) -> None:
    job = later(http, n=2, loras=[{"name": "neon"}])
    until(lambda: state(http, job) == "completed")
    found = http.get(f"/v1/jobs/{job}").json()
    assert (found["object"], found["kind"], found["progress"]) == ("job", "images", 100)
    assert found["request"] == {
        **SMALL,
        "n": 2,
        "async": True,
        "loras": [{"name": "neon"}],
    }
    assert found["created_at"] <= found["started_at"] <= found["ended_at"]
    assert [result["seed"] for result in found["results"]] == [7, 8]
    assert found["results"][0]["loras"][0]["name"] == "neon"
    assert found["error"] is None
    assert found["position"] is None


def test_events_tell_every_change_and_end_with_the_job(http: httpx2.Client) -> None:
    job = later(http, steps=6)
    answer = http.get(f"/v1/jobs/{job}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    found = events(answer)
    names = [name for name, _ in found]
    assert names[-1] == "completed"
    assert names == sorted(names, key=["queued", "running", "completed"].index)
    steps = [data["step"]["done"] for _, data in found if data["step"]]
    assert steps == sorted(steps)
    assert steps[-1] == 6
    numbers = numbered(answer)
    assert numbers == sorted(set(numbers))
    assert found[-1][1] == http.get(f"/v1/jobs/{job}").json()


def test_a_stream_is_taken_up_again_where_it_broke_off(http: httpx2.Client) -> None:
    job = later(http, steps=6)
    seen: list[int] = []
    with http.stream("GET", f"/v1/jobs/{job}/events") as answer:
        for line in answer.iter_lines():
            if line.startswith("id: "):
                seen.append(int(line.removeprefix("id: ")))
            if len(seen) == 2:
                break
    rest = http.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": str(seen[-1])})
    numbers = numbered(rest)
    assert numbers[0] > seen[-1]
    assert events(rest)[-1][0] == "completed"
    same = http.get(f"/v1/jobs/{job}/events", params={"after": numbers[-1] - 1})
    assert numbered(same) == numbers[-1:]
    over = http.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": str(numbers[-1])})
    assert over.status_code == 204
    assert not over.content


@pytest.mark.parametrize("given", ["", "x", "é", "-1", "9" * 30])
def test_an_id_that_was_never_sent_does_no_harm(http: httpx2.Client, given: str) -> None:
    job = later(http)
    until(lambda: state(http, job) == "completed")
    sent = [(b"Last-Event-ID", given.encode())]
    answer = http.get(f"/v1/jobs/{job}/events", headers=sent)
    assert answer.status_code == (204 if given.startswith("9") else 200)


def test_a_client_that_stops_watching_leaves_the_job_alone(http: httpx2.Client) -> None:
    job = later(http, steps=60)
    with http.stream("GET", f"/v1/jobs/{job}/events") as answer:
        next(answer.iter_lines())
    until(lambda: state(http, job) == "completed")


def test_several_watch_one_job_and_see_the_same(http: httpx2.Client, server: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    job = later(http, steps=20)

    def watched() -> list[tuple[str, dict[str, Any]]]:
        return events(httpx2.get(f"{server}/v1/jobs/{job}/events", timeout=60))

    with ThreadPoolExecutor(4) as pool:
        seen = [each.result() for each in [pool.submit(watched) for _ in range(4)]]
    last = [json.dumps(each[-1]) for each in seen]
    assert len(set(last)) == 1


def test_silence_is_filled_with_comments(
    http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "PAUSE", 0.002)
    first = later(http, steps=30)
    job = later(http, prompt="another", size="128x128")
    answer = http.get(f"/v1/jobs/{job}/events")
    assert ": still there" in answer.text
    assert events(answer)[-1][0] == "completed"
    http.delete(f"/v1/jobs/{first}")


def test_a_job_is_cancelled_once_and_for_all(http: httpx2.Client) -> None:
    job = later(http, steps=1000)
    answer = http.delete(f"/v1/jobs/{job}")
    assert answer.status_code == 200
    until(lambda: state(http, job) == "cancelled")
    again = http.delete(f"/v1/jobs/{job}").json()
    assert again["status"] == "cancelled"
    assert again["error"]["code"] == "cancelled"
    assert again["results"] == []
    assert events(http.get(f"/v1/jobs/{job}/events"))[-1][0] == "cancelled"


def test_what_is_done_cannot_be_cancelled(http: httpx2.Client) -> None:
    job = later(http)
    until(lambda: state(http, job) == "completed")
    assert http.delete(f"/v1/jobs/{job}").json()["status"] == "completed"


def test_a_job_that_waits_knows_its_place(http: httpx2.Client) -> None:
    first = later(http, steps=1000)
    until(lambda: state(http, first) == "running")
    waiting = [later(http, size="32x64", seed=seed) for seed in range(2)]
    places = [http.get(f"/v1/jobs/{job}").json()["position"] for job in waiting]
    assert places == [0, 1]
    for job in (first, *waiting):
        http.delete(f"/v1/jobs/{job}")


def test_jobs_of_all_kinds_are_listed_the_newest_first(http: httpx2.Client) -> None:
    video = http.post("/v1/videos", json=CLIP).json()["id"]
    job = later(http)
    page = http.get("/v1/jobs", params={"limit": 2}).json()
    assert [(each["id"], each["kind"]) for each in page["data"]] == [
        (job, "images"),
        (video.removeprefix("video_"), "video"),
    ]
    assert page["has_more"]
    rest = http.get("/v1/jobs", params={"after": page["last_id"], "limit": 1}).json()
    assert rest["data"][0]["id"] not in {each["id"] for each in page["data"]}
    same = http.get(f"/v1/jobs/{video}").json()
    assert same["id"] == page["last_id"]


@pytest.mark.parametrize("name", ["00", "x" * 200, "..%2f..%2fetc", "%00", "video_"])
def test_a_job_that_there_is_not_is_not_found(http: httpx2.Client, name: str) -> None:
    for method, path in (
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/events"),
        ("POST", "/resume"),
    ):
        answer = http.request(method, f"/v1/jobs/{name}{path}")
        code = "not_found" if "%2f" in name else "job_not_found"
        checked(answer, 404, code)


def test_a_server_says_when_it_cannot_take_more(settings: Settings, tmp_path: Path) -> None:
    service = build(settings.model_copy(update={"state": tmp_path, "max_queue": 1}))
    with served(create_app(service)) as url, httpx2.Client(base_url=url, timeout=60) as client:
        early = client.post(MAKE, json=SMALL)
        checked(early, 503, "not_ready")
        service.engine.start(lambda _: None)
        try:
            until(lambda: service.engine.ready, seconds=120)
            running = later(client, steps=1000)
            until(lambda: state(client, running) == "running")
            waiting = later(client, seed=8, steps=1000)
            full = client.post(MAKE, json=SMALL)
            assert "1 jobs are waiting" in checked(full, 429, "queue_full")["message"]
            assert int(full.headers["retry-after"]) >= 1
            checked(client.post("/v1/videos", json=CLIP), 429, "queue_full")
            client.delete(f"/v1/jobs/{running}")
            until(lambda: state(client, waiting) == "running")
        finally:
            service.engine.stop(patience=0)
        assert state(client, waiting) == "interrupted"
        checked(client.post(MAKE, json=SMALL), 503, "not_ready")
        checked(client.post(f"/v1/jobs/{waiting}/resume"), 503, "not_ready")


def test_only_what_was_interrupted_is_run_again(http: httpx2.Client) -> None:
    job = later(http)
    until(lambda: state(http, job) == "completed")
    checked(http.post(f"/v1/jobs/{job}/resume"), 400, "invalid_value")
