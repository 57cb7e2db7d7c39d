"""Pictures over HTTP: what comes back, in which forms, and that it is what the library makes."""

from __future__ import annotations

import base64
import io
import json
import socket
import struct
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx2
import pytest
from PIL import ExifTags, Image, ImageChops, ImageOps, ImageStat

from loraloom.pipelines.media import read_provenance
from loraloom.serve import forms
from loraloom.serve.errors import Refusal

from .conftest import SMALL, until
from .test_errors import checked

if TYPE_CHECKING:
    from pathlib import Path

    from loraloom import Loom
    from loraloom.serve.service import Service

MAKE, EDIT = "/v1/images/generations", "/v1/images/edits"


def made(http: httpx2.Client, **changes: Any) -> dict[str, Any]:
    answer = http.post(MAKE, json={**SMALL, **changes})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def picture(entry: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(entry["b64_json"]))).convert("RGB")


def test_a_picture_is_the_one_that_the_library_makes(http: httpx2.Client, loom: Loom) -> None:
    from loraloom.core.request import Canvas, Lora, Request, Sampling

    got = made(http, loras=[{"name": "neon", "scale": 0.5}])
    (wanted,) = loom.images(
        [
            Request(
                SMALL["prompt"],
                SMALL["seed"],
                (Lora("neon", 0.5),),
                canvas=Canvas(64, 64, rate=16.0),
                sampling=Sampling(SMALL["steps"]),
            )
        ]
    )
    assert picture(got["data"][0]).tobytes() == wanted.frames[0].tobytes()


def test_an_answer_says_what_was_made_and_what_was_worn(http: httpx2.Client) -> None:
    got = made(http, model="mini", loras=[{"name": "neon", "scale": 0.5}])
    assert got["object"] == "images"
    assert (got["model"], got["size"], got["output_format"]) == ("mini", "64x64", "png")
    (one,) = got["data"]
    assert one["seed"] == SMALL["seed"]
    assert one["url"] is None
    (worn,) = one["loras"]
    assert worn == got["loras"][0]
    assert worn["name"] == "neon"
    assert worn["scale"] == 0.5
    assert len(worn["sha256"]) == 64
    assert worn["sites"] > 0
    assert worn["unmatched"] == 0
    assert float(worn["alpha"]) > 0
    assert int(worn["rank"]) > 0
    assert (worn["mode"], worn["by"], worn["target"]) == ("live", "request", None)
    assert got["usage"]["total_tokens"] == 0
    times = got["timings"]
    assert times["steps_s"] > 0
    assert times["total_s"] >= times["steps_s"]


def test_everything_that_a_request_says_of_an_adapter_reaches_the_picture(
    http: httpx2.Client,
) -> None:
    lora = {
        "name": "neon",
        "scale": 1.5,
        "target": "transformer",
        "schedule": [{"progress": 0.0, "factor": 0.0}, {"progress": 1.0, "factor": 1.0}],
        "scopes": [{"pattern": "*attn1*", "factor": 0.5}],
    }
    first = made(http, loras=[lora])
    version = first["loras"][0]["sha256"][:12]
    (worn,) = made(http, loras=[{**lora, "version": version}])["loras"]
    assert worn["schedule"] == lora["schedule"]
    assert worn["scopes"] == lora["scopes"]
    assert worn["target"] == "transformer"
    plain = made(http, loras=[{"name": "neon", "scale": 1.5}])
    assert plain["data"][0]["b64_json"] != first["data"][0]["b64_json"]


def test_an_adapter_has_its_own_strength_where_none_is_said(
    http: httpx2.Client, service: Service
) -> None:
    label = service.catalog.label("sketch")
    service.catalog.relabel("sketch", replace(label, strength=0.25, aliases=("pencil",)))
    try:
        for lora in ({"name": "sketch"}, {"name": "pencil"}, {"name": "sketch", "scale": None}):
            (worn,) = made(http, loras=[lora])["loras"]
            assert (worn["name"], worn["scale"]) == ("sketch", 0.25)
        twice = [{"name": "sketch"}, {"name": "pencil"}]
        answer = http.post(MAKE, json={**SMALL, "loras": twice})
        assert "2 times" in checked(answer, 400, "invalid_value")["message"]
        (worn,) = made(http, model="base:pencil", loras=[])["loras"]
        assert worn["scale"] == 0.25
    finally:
        service.catalog.relabel("sketch", label)


def test_strengths_by_stage_are_those_of_the_stages(http: httpx2.Client) -> None:
    body = {"pipeline": "two-stage", "loras": [{"name": "neon", "scale": 0.5, "stages": [0, 2]}]}
    by_name = {worn["name"]: worn for worn in made(http, **body)["loras"]}
    assert by_name["neon"]["stages"] == [0.0, 1.0]
    assert by_name["distilled"]["by"] == "stage"
    assert by_name["distilled"]["rank"]


def test_n_pictures_have_seeds_that_count_up_and_are_those_alone(http: httpx2.Client) -> None:
    both = made(http, n=2)["data"]
    assert [one["seed"] for one in both] == [7, 8]
    alone = made(http, seed=8)["data"][0]
    assert close(picture(both[1]), picture(alone))


def test_mixes_are_one_picture_each_of_one_seed(http: httpx2.Client) -> None:
    mixes = [[], [{"name": "neon"}], [{"name": "neon", "scale": 0.5}, {"name": "sketch"}]]
    got = made(http, mixes=mixes)
    assert [one["seed"] for one in got["data"]] == [7, 7, 7]
    worn = [{each["name"]: each["scale"] for each in one["loras"]} for one in got["data"]]
    assert worn == [{}, {"neon": 1.0}, {"neon": 0.5, "sketch": 1.0}]
    for mix, one in zip(mixes, got["data"], strict=True):
        assert close(picture(one), picture(made(http, loras=mix)["data"][0]))


def test_a_seed_is_chosen_and_told_where_none_is_given(http: httpx2.Client) -> None:
    body = {name: value for name, value in SMALL.items() if name != "seed"}
    first, second = (http.post(MAKE, json=body).json()["data"][0] for _ in range(2))
    assert first["seed"] != second["seed"]
    again = made(http, seed=first["seed"])["data"][0]
    assert again["b64_json"] == first["b64_json"]


def test_the_model_may_name_an_adapter(http: httpx2.Client) -> None:
    named = made(http, loras=[{"name": "neon"}])
    for model in ("mini:neon", "base:neon", "neon"):
        got = made(http, model=model)
        assert got["model"] == model
        assert got["data"][0]["b64_json"] == named["data"][0]["b64_json"]
    both = made(http, model="base:neon", loras=[{"name": "sketch", "scale": 0.3}])
    assert {worn["name"] for worn in both["loras"]} == {"neon", "sketch"}


def test_the_default_mix_is_worn_by_requests_that_say_nothing(
    http: httpx2.Client, service: Service
) -> None:
    from loraloom.core.lora import Lora

    service.defaults.set([Lora("neon", 0.5)])
    try:
        assert [worn["scale"] for worn in made(http)["loras"]] == [0.5]
        assert made(http, loras=[])["loras"] == []
        assert [worn["name"] for worn in made(http, loras=[{"name": "sketch"}])["loras"]] == [
            "sketch"
        ]
        assert [worn["scale"] for worn in made(http, model="base:neon")["loras"]] == [1.0]
    finally:
        service.defaults.set([])


@pytest.mark.parametrize(("asked", "written"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_a_picture_comes_in_its_format_and_says_how_it_was_made(
    http: httpx2.Client, tmp_path: Path, asked: str, written: str
) -> None:
    got = made(http, output_format=asked, loras=[{"name": "neon"}])
    data = base64.b64decode(got["data"][0]["b64_json"])
    assert Image.open(io.BytesIO(data)).format == written
    file = tmp_path / f"picture.{asked}"
    file.write_bytes(data)
    provenance = read_provenance(file)
    assert provenance.asked.seed == SMALL["seed"]
    assert [worn.name for worn in provenance.worn] == ["neon"]


def test_compression_makes_a_smaller_file(http: httpx2.Client) -> None:
    sizes = [
        len(made(http, output_format="jpeg", output_compression=quality)["data"][0]["b64_json"])
        for quality in (0, 100)
    ]
    assert sizes[0] < sizes[1]


def test_a_link_leads_to_the_same_picture(http: httpx2.Client) -> None:
    (one,) = made(http, response_format="url", output_format="webp")["data"]
    assert one["b64_json"] is None
    answer = http.get(one["url"])
    assert answer.headers["content-type"] == "image/webp"
    again = made(http, output_format="webp")["data"][0]
    assert answer.content == base64.b64decode(again["b64_json"])


def test_later_is_a_job_at_once(http: httpx2.Client) -> None:
    answer = http.post(MAKE, json={**SMALL, "async": True})
    assert answer.status_code == 202
    job = answer.json()
    assert job["object"] == "job"
    place = answer.headers["location"]
    assert place == f"/v1/jobs/{job['id']}"
    until(lambda: http.get(place).json()["status"] == "completed")
    done = http.get(place).json()
    assert done["request"]["prompt"] == SMALL["prompt"]
    assert http.get(done["results"][0]["url"]).content.startswith(b"\x89PNG")


def events(answer: httpx2.Response) -> list[tuple[str, dict[str, Any]]]:
    """The events of a stream, by their names."""
    found = []
    for block in answer.text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        if lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


def test_a_stream_has_one_event_for_every_picture_and_no_other(http: httpx2.Client) -> None:
    answer = http.post(MAKE, json={**SMALL, "n": 2, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = events(answer)
    assert [name for name, _ in found] == ["image_generation.completed"] * 2
    pictures = made(http, n=2)["data"]
    assert [data["b64_json"] for _, data in found] == [one["b64_json"] for one in pictures]
    assert [data["type"] for _, data in found] == ["image_generation.completed"] * 2


def test_a_failure_in_a_stream_is_an_event_of_the_one_shape(http: httpx2.Client) -> None:
    body = {**SMALL, "steps": 1000, "size": "128x128", "timeout": 0.3, "stream": True}
    ((name, data),) = events(http.post(MAKE, json=body))
    assert name == data["type"] == "error"
    assert data["error"]["code"] == "timeout"
    assert data["error"]["type"] == "server_error"


def test_what_is_refused_before_a_stream_begins_is_an_ordinary_error(http: httpx2.Client) -> None:
    answer = http.post(MAKE, json={**SMALL, "stream": True, "loras": [{"name": "nothing"}]})
    checked(answer, 404, "lora_not_found")


def test_a_job_that_takes_too_long_answers_with_its_error(http: httpx2.Client) -> None:
    answer = http.post(MAKE, json={**SMALL, "steps": 1000, "size": "128x128", "timeout": 0.3})
    checked(answer, 504, "timeout")


def test_a_job_that_is_cancelled_answers_so(http: httpx2.Client, server: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool, httpx2.Client(base_url=server, timeout=60) as other:
        waiting = pool.submit(
            other.post, MAKE, json={**SMALL, "prompt": "to cancel", "steps": 1000}
        )
        until(lambda: job_of(http, "to cancel") is not None)
        http.delete(f"/v1/jobs/{job_of(http, 'to cancel')}")
        checked(waiting.result(), 409, "cancelled")


def job_of(http: httpx2.Client, prompt: str) -> str | None:
    jobs = http.get("/v1/jobs", params={"limit": 5}).json()["data"]
    return next((job["id"] for job in jobs if job["request"]["prompt"] == prompt), None)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_takes_its_job_along(
    http: httpx2.Client, server: str, stream: bool
) -> None:
    prompt = f"left alone {stream}"
    body = json.dumps({**SMALL, "prompt": prompt, "steps": 1000, "stream": stream}).encode()
    place = urlsplit(server)
    with socket.create_connection((place.hostname, place.port), timeout=10) as raw:
        raw.sendall(
            b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (MAKE.encode(), len(body), body)
        )
        until(lambda: job_of(http, prompt) is not None)
        job = job_of(http, prompt)
        until(lambda: http.get(f"/v1/jobs/{job}").json()["status"] == "running")
    until(lambda: http.get(f"/v1/jobs/{job}").json()["status"] == "cancelled")
    assert made(http)["data"], "the next one is served"


def test_a_client_that_goes_in_the_middle_of_an_upload_leaves_nothing(
    http: httpx2.Client, server: str
) -> None:
    before = http.get("/v1/jobs").json()["first_id"]
    place = urlsplit(server)
    with socket.create_connection((place.hostname, place.port), timeout=10) as raw:
        raw.sendall(
            b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n" % EDIT.encode()
        )
    assert made(http)["data"]
    jobs = http.get("/v1/jobs").json()["data"]
    assert jobs[1]["id"] == before


def png(image: Image.Image, **options: Any) -> bytes:
    held = io.BytesIO()
    image.save(held, "PNG", **options)
    return held.getvalue()


@pytest.fixture(scope="module")
def original(http: httpx2.Client) -> Image.Image:
    body = {**SMALL, "size": "128x128", "steps": 16}
    return picture(http.post(MAKE, json=body).json()["data"][0])


def edited(http: httpx2.Client, image: bytes, **fields: Any) -> httpx2.Response:
    data = {name: str(value) for name, value in {**SMALL, **fields}.items()}
    return http.post(EDIT, data=data, files={"image": ("a.png", image, "image/png")})


def far(one: Image.Image, other: Image.Image) -> float:
    """Mean difference of two pictures, 0 to 255."""
    mean = ImageStat.Stat(ImageChops.difference(one, other.resize(one.size))).mean
    return sum(mean) / 3


def close(one: Image.Image, other: Image.Image) -> bool:
    """Whether two pictures differ by rounding alone."""
    return max(ImageChops.difference(one, other).tobytes()) <= 1


def test_an_edit_is_the_nearer_to_its_picture_the_less_is_redrawn(
    http: httpx2.Client, original: Image.Image
) -> None:
    away = {"prompt": "a large blue star on a black background", "size": "128x128", "steps": 8}
    distances = []
    for strength in (0.1, 0.3, 0.6, 1.0):
        answer = edited(http, png(original), strength=strength, **away)
        assert answer.status_code == 200, answer.text
        distances.append(far(picture(answer.json()["data"][0]), original))
    assert distances == sorted(distances)
    assert distances[0] < distances[-1] / 3
    assert distances[-1] > 60


def test_an_edit_has_the_shape_of_its_picture_and_may_have_another(
    http: httpx2.Client,
) -> None:
    wide = png(Image.new("RGB", (300, 100), "red"))
    data = {"prompt": "a", "steps": "2", "output_format": "webp"}
    got = http.post(EDIT, data=data, files={"image": wide}).json()
    width, height = map(int, got["size"].split("x"))
    assert width / height == pytest.approx(3, rel=0.2)
    assert edited(http, wide, size="64x32").json()["size"] == "64x32"


def test_forms_take_what_json_takes(http: httpx2.Client, original: Image.Image) -> None:
    loras = json.dumps([{"name": "neon", "scale": 0.5}])
    got = edited(http, png(original), loras=loras, n=2, steps=2).json()
    assert [one["seed"] for one in got["data"]] == [7, 8]
    assert [worn["scale"] for worn in got["loras"]] == [0.5]
    mixes = json.dumps([[], [{"name": "sketch"}]])
    assert len(edited(http, png(original), mixes=mixes).json()["data"]) == 2
    ((name, data),) = events(edited(http, png(original), stream="true"))
    assert name == data["type"] == "image_edit.completed"


def bomb(width: int, height: int) -> bytes:
    """The header of a huge picture, and next to nothing behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def gif() -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (8, 8)).save(held, "GIF")
    return held.getvalue()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no picture"),
        (b"hello", "no picture"),
        (gif(), "no picture"),
        (b"%PDF-1.4", "no picture"),
        (png(Image.effect_noise((64, 64), 50))[:-300], "cannot be read to its end"),
        (bomb(8192, 8192), "want at most"),
        (bomb(60000, 60000), "no picture"),
        (bomb(1, 2**31 - 1), "no picture"),
    ],
)
def test_a_file_that_is_no_proper_picture_is_refused(
    http: httpx2.Client, data: bytes, said: str
) -> None:
    error = checked(edited(http, data), 400, "invalid_value")
    assert said in error["message"]
    assert error["param"] == "image"


def test_a_transparent_picture_lies_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert forms.picture(io.BytesIO(png(clear)), "image", 100).getpixel((0, 0)) == (255, 255, 255)


def test_a_picture_of_16_bits_keeps_its_greys() -> None:
    grey = Image.new("I;16", (4, 4), 30000)
    assert forms.picture(io.BytesIO(png(grey)), "image", 100).getpixel((0, 0)) == (116, 116, 116)


@pytest.mark.parametrize("turn", range(10))
def test_a_picture_stands_as_its_camera_says(turn: int) -> None:
    noise = Image.effect_noise((5, 3), 50)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(png(noise, exif=exif))))
    found = forms.picture(io.BytesIO(png(noise, exif=exif)), "image", 100)
    assert found.tobytes() == wanted.convert("RGB").tobytes()
    assert found.size == wanted.size


def test_notes_of_a_camera_that_are_damaged_do_no_harm() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.XResolution] = 72.0
    data = exif.tobytes()
    for place in range(6, len(data)):
        bad = data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]
        read = forms.picture(io.BytesIO(png(Image.new("RGB", (5, 3)), exif=bad)), "image", 100)
        assert sorted(read.size) == [3, 5]


def test_a_picture_of_indices_without_colours_is_refused() -> None:
    whole = png(Image.new("P", (4, 4)))
    start = whole.index(b"PLTE") - 4
    length = int.from_bytes(whole[start : start + 4], "big")
    bare = whole[:start] + whole[start + 12 + length :]
    with pytest.raises(Refusal, match="cannot be read"):
        forms.picture(io.BytesIO(bare), "image", 100)


def test_an_edit_wants_exactly_one_picture(http: httpx2.Client) -> None:
    one = png(Image.new("RGB", (64, 64)))
    error = checked(http.post(EDIT, data={"prompt": "a"}, files={"x": one}), 400, "unknown_field")
    assert error["param"] == "x"
    none = http.post(EDIT, files={"prompt": (None, "a")})
    assert checked(none, 400, "invalid_value")["param"] == "image"
    two = http.post(EDIT, data={"prompt": "a"}, files=[("image[]", one), ("image[]", one)])
    assert "2 times" in checked(two, 400, "invalid_value")["message"]
    mask = http.post(EDIT, data={"prompt": "a"}, files={"image": one, "mask": one})
    assert checked(mask, 400, "invalid_value")["param"] == "mask"


def test_a_list_that_lost_its_pairs_is_refused_with_the_remedy(http: httpx2.Client) -> None:
    one = png(Image.new("RGB", (64, 64)))
    answer = http.post(
        EDIT, data={"prompt": "a", "loras[][name]": ["a", "b"]}, files={"image": one}
    )
    error = checked(answer, 400, "invalid_value")
    assert error["param"] == "loras"
    assert "one field with JSON" in error["message"]
    twice = http.post(EDIT, data={"prompt": ["a", "b"]}, files={"image": one})
    assert "twice" in checked(twice, 400, "invalid_value")["message"]


@pytest.mark.parametrize("head", ["multipart/form-data", "multipart/form-data; boundary=x"])
def test_a_form_that_is_none_is_refused(http: httpx2.Client, head: str) -> None:
    answer = http.post(EDIT, content=b"abc", headers={"content-type": head})
    checked(answer, 400, "invalid_value")


def test_families_that_take_no_picture_say_so(service: Service) -> None:
    """The card refuses, so that no edit silently forgets what it was to draw over."""
    from loraloom.engine.job import completed
    from loraloom.errors import InvalidRequestError
    from loraloom.models.wan import WAN
    from loraloom.serve import requests
    from loraloom.serve.schemas import EditBody
    from loraloom.serve.wearing import Asking

    body = EditBody.model_validate({"prompt": "a", "strength": 0.5, "size": "64x64"})
    asking = Asking(service, "")
    task = requests.edits(body, Image.new("RGB", (64, 64)), asking)
    family = replace(service.card.family, abilities=WAN.abilities)
    card = replace(service.card, family=family)
    with pytest.raises(InvalidRequestError, match=r"to make another of.*cannot"):
        completed(task.requests[0], card)
