"""Videos over HTTP: asked for, polled, downloaded in parts, listed, deleted."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image, ImageStat

from loraloom.pipelines.media import load_frames

from .conftest import CLIP, until
from .test_errors import checked
from .test_images import gif, png

if TYPE_CHECKING:
    from pathlib import Path

    import httpx2

VIDEOS = "/v1/videos"


def asked(http: httpx2.Client, **changes: Any) -> dict[str, Any]:
    answer = http.post(VIDEOS, json={**CLIP, **changes})
    assert answer.status_code == 200, answer.text
    video: dict[str, Any] = answer.json()
    return video


def done(http: httpx2.Client, video: dict[str, Any]) -> dict[str, Any]:
    place = f"{VIDEOS}/{video['id']}"
    until(lambda: http.get(place).json()["status"] in {"completed", "failed"})
    ended: dict[str, Any] = http.get(place).json()
    assert ended["status"] == "completed", ended["error"]
    return ended


def frames(http: httpx2.Client, video: dict[str, Any], tmp_path: Path) -> list[Image.Image]:
    file = tmp_path / "video.mp4"
    file.write_bytes(http.get(f"{VIDEOS}/{video['id']}/content").content)
    return load_frames(file, 100)[0]


def test_a_video_is_asked_for_polled_and_downloaded(http: httpx2.Client, tmp_path: Path) -> None:
    video = asked(http, model="base", loras=[{"name": "transition", "scale": 0.5}])
    assert video["id"].startswith("video_")
    assert (video["object"], video["model"]) == ("video", "base")
    assert (video["prompt"], video["seed"]) == (CLIP["prompt"], CLIP["seed"])
    assert (video["size"], video["seconds"]) == ("64x64", "0.5625")
    ended = done(http, video)
    assert ended["progress"] == 100
    assert ended["created_at"] <= ended["completed_at"] < ended["expires_at"]
    assert [worn["name"] for worn in ended["loras"]] == ["transition"]
    assert ended["timings"]["steps_s"] > 0
    answer = http.get(f"{VIDEOS}/{video['id']}/content")
    assert answer.headers["content-type"] == "video/mp4"
    assert len(frames(http, video, tmp_path)) == 9


def test_a_video_is_downloaded_in_parts(http: httpx2.Client) -> None:
    place = f"{VIDEOS}/{done(http, asked(http))['id']}/content"
    whole = http.get(place).content
    part = http.get(place, headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole)}"
    head = http.head(place)
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(whole)))
    known = http.get(place, headers={"if-none-match": head.headers["etag"]})
    assert (known.status_code, known.content) == (304, b"")
    beyond = http.get(place, headers={"range": f"bytes={len(whole)}-"})
    checked(beyond, 416, "range_not_satisfiable")


def test_a_thumbnail_is_the_first_frame(http: httpx2.Client) -> None:
    video = done(http, asked(http))
    place = f"{VIDEOS}/{video['id']}/content"
    answer = http.get(place, params={"variant": "thumbnail"})
    assert answer.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(answer.content)).size == (64, 64)
    checked(http.get(place, params={"variant": "spritesheet"}), 400, "invalid_value")


@pytest.mark.parametrize(
    ("length", "seconds"),
    [
        ({"seconds": "1"}, "1.0625"),
        ({"seconds": 0.4}, "0.3125"),
        ({"seconds": "0.01"}, "0.3125"),
        ({"seconds": 1, "fps": 8}, "1.125"),
        ({"frames": 5}, "0.3125"),
        ({}, "1.0625"),
    ],
)
def test_a_video_is_as_long_as_the_nearest_there_is(
    http: httpx2.Client, length: dict[str, Any], seconds: str
) -> None:
    body = {name: value for name, value in CLIP.items() if name != "frames"}
    video = http.post(VIDEOS, json={**body, **length}).json()
    assert video["seconds"] == seconds
    http.delete(f"{VIDEOS}/{video['id']}")


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"frames": 10}, "invalid_value", "frames"),
        ({"frames": 1}, "invalid_value", "frames"),
        ({"seconds": 1}, "invalid_value", None),
        ({"frames": None, "seconds": "x"}, "invalid_value", "seconds"),
        ({"frames": None, "seconds": "nan"}, "invalid_value", "seconds"),
        ({"frames": None, "seconds": -1}, "invalid_value", "seconds"),
        ({"frames": None, "seconds": 1e300}, "invalid_value", "seconds"),
        ({"frames": None, "seconds": 3600, "fps": 60}, "invalid_value", "seconds"),
        ({"fps": 0}, "invalid_value", "fps"),
        ({"audio": "yes"}, "invalid_value", "audio"),
        ({"input_reference": "https://x.example/a.png"}, "invalid_value", "input_reference"),
        ({"input_reference": "/etc/passwd"}, "invalid_value", "input_reference"),
        ({"input_reference": "data:image/png;base64,!"}, "invalid_value", "input_reference"),
        ({"last_image": {"b64_json": "aGVsbG8="}}, "invalid_value", "last_image"),
        (
            {"last_image": {"b64_json": base64.b64encode(gif()).decode()}},
            "invalid_value",
            "last_image",
        ),
        ({"last_image": {"url": "x"}}, "unknown_field", "last_image.url"),
    ],
)
def test_a_video_that_cannot_be_is_refused_at_its_field(
    http: httpx2.Client, changes: dict[str, Any], code: str, param: str | None
) -> None:
    answer = http.post(VIDEOS, json={**CLIP, **changes})
    if code == "unknown_field":
        assert answer.status_code == 400
        return
    assert checked(answer, 400, code)["param"] == param


def test_a_video_begins_and_ends_with_its_images(http: httpx2.Client, tmp_path: Path) -> None:
    red, blue = (png(Image.new("RGB", (96, 64), colour)) for colour in ("red", "blue"))
    text = base64.b64encode(red).decode()
    for first in ({"b64_json": text}, f"data:image/png;base64,{text}"):
        last = {"b64_json": base64.b64encode(blue).decode()}
        body = {"input_reference": first, "last_image": last, "frames": 9, "steps": 6}
        video = done(http, asked(http, **body))
        shown = frames(http, video, tmp_path)
        near_red, near_blue = (ImageStat.Stat(frame).mean for frame in (shown[0], shown[-1]))
        assert near_red[0] > near_red[2] + 150
        assert near_blue[2] > near_red[2] + 150
        job = http.get(f"/v1/jobs/{video['id']}").json()
        assert job["request"]["last_image"] == "(a picture)"


def test_a_form_makes_the_same_video_as_json(http: httpx2.Client, tmp_path: Path) -> None:
    red = png(Image.new("RGB", (64, 64), "red"))
    data = {name: str(value) for name, value in CLIP.items()}
    sent = http.post(VIDEOS, data=data, files={"input_reference": ("a.png", red, "image/png")})
    assert sent.status_code == 200, sent.text
    text = {"b64_json": base64.b64encode(red).decode()}
    one, other = sent.json(), asked(http, input_reference=text)
    shown = [frames(http, done(http, each), tmp_path) for each in (one, other)]
    assert [frame.tobytes() for frame in shown[0]] == [frame.tobytes() for frame in shown[1]]


def test_a_video_under_way_cannot_be_downloaded_and_one_deleted_is_gone(
    http: httpx2.Client,
) -> None:
    video = asked(http, steps=1000)
    place = f"{VIDEOS}/{video['id']}"
    assert http.get(place).json()["status"] in {"queued", "in_progress"}
    checked(http.get(f"{place}/content"), 409, "video_not_ready")
    deleted = http.delete(place).json()
    assert deleted == {"id": video["id"], "object": "video.deleted", "deleted": True}
    until(lambda: http.get(place).status_code == 404)
    checked(http.get(f"{place}/content"), 404, "job_not_found")
    checked(http.delete(place), 404, "job_not_found")


def test_a_video_that_was_cancelled_has_failed_and_says_so(http: httpx2.Client) -> None:
    video = asked(http, steps=1000)
    http.delete(f"/v1/jobs/{video['id']}")
    place = f"{VIDEOS}/{video['id']}"
    until(lambda: http.get(place).json()["status"] == "failed")
    ended = http.get(place).json()
    assert ended["error"]["code"] == "cancelled"
    assert ended["completed_at"] is None
    checked(http.get(f"{place}/content"), 409, "cancelled")


def test_videos_are_listed_page_by_page_in_both_orders(http: httpx2.Client) -> None:
    made = [asked(http, seed=seed)["id"] for seed in range(3)]
    newest = http.get(VIDEOS, params={"limit": 2}).json()
    assert [video["id"] for video in newest["data"]] == [made[2], made[1]]
    assert (newest["first_id"], newest["last_id"]) == (made[2], made[1])
    assert newest["has_more"]
    rest = http.get(VIDEOS, params={"limit": 100, "after": newest["last_id"]}).json()
    assert rest["data"][0]["id"] == made[0]
    assert not rest["has_more"]
    oldest = http.get(VIDEOS, params={"order": "asc", "after": made[0]}).json()
    assert [video["id"] for video in oldest["data"]] == made[1:]
    checked(http.get(VIDEOS, params={"after": "video_00"}), 404, "job_not_found")
    checked(http.get(VIDEOS, params={"order": "up"}), 400, "invalid_value")


def test_a_picture_is_no_video(http: httpx2.Client) -> None:
    from .conftest import SMALL

    made = http.post("/v1/images/generations", json=SMALL).json()
    checked(http.get(f"{VIDEOS}/video_{made['id']}"), 404, "job_not_found")
    listed = http.get(VIDEOS, params={"limit": 100}).json()["data"]
    assert f"video_{made['id']}" not in {video["id"] for video in listed}
