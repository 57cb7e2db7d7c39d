"""``loraloom.Client`` against a real server: what it asks for, gives back and raises."""

from __future__ import annotations

import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from PIL import Image

from loraloom import Client, Curve, Lora, Scope
from loraloom.client.wire import form
from loraloom.errors import ApiError, InvalidRequestError
from loraloom.models import find
from loraloom.pipelines.media import load_frames
from tests.cli.console import adapter_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SMALL: dict[str, Any] = {"size": "64x64", "steps": 2, "seed": 7}
STAR = "a large red star"


@pytest.fixture
def client(server: str) -> Iterator[Client]:
    with Client(server, timeout=60) as found:
        yield found


def worn(loras: tuple[dict[str, Any], ...]) -> dict[str, float]:
    return {each["name"]: each["scale"] for each in loras}


def test_a_picture_comes_with_its_seed_its_job_and_what_it_wears(
    client: Client, tmp_path: Path
) -> None:
    picture = client.image(STAR, ["neon:0.5", Lora("sketch", 0.25)], **SMALL)
    assert picture.image.size == (64, 64)
    assert picture.seed == 7
    assert worn(picture.loras) == {"neon": 0.5, "sketch": 0.25}
    assert client.job(picture.job)["status"] == "completed"
    assert picture.save(tmp_path / "a.png").read_bytes() == picture.bytes
    again = client.image(STAR, [{"name": "neon", "scale": 0.5}, "sketch:0.25"], **SMALL)
    assert again.bytes == picture.bytes


def test_one_batch_makes_several_pictures_by_seed_or_by_mix(client: Client) -> None:
    counted = client.images(STAR, [], n=2, **SMALL)
    assert [each.seed for each in counted] == [7, 8]
    mixed = client.images(STAR, mixes=[[], ["neon"], [Lora("neon", 0.5)]], **SMALL)
    assert [worn(each.loras) for each in mixed] == [{}, {"neon": 1.0}, {"neon": 0.5}]
    assert mixed[0].image.tobytes() == counted[0].image.tobytes()
    assert len({each.bytes for each in mixed}) == 3


def test_an_adapter_that_says_no_strength_has_its_default_one(client: Client) -> None:
    client.adapters.change("transition", strength=0.25)
    try:
        assert worn(client.image(STAR, ["transition"], **SMALL).loras) == {"transition": 0.25}
        assert worn(client.image(STAR, ["transition:1"], **SMALL).loras) == {"transition": 1.0}
    finally:
        client.adapters.change("transition", strength=1.0)


def test_all_that_a_lora_can_say_is_said(client: Client) -> None:
    lora = Lora(
        "neon",
        0.5,
        Curve.window(0.2, 0.8, 0.1),
        (Scope("*attn1*", 0.5),),
        target="transformer",
        version=client.adapters.get("neon")["sha256"][:8],
    )
    (said,) = client.image(STAR, [lora], **SMALL).loras
    assert said["scale"] == 0.5
    assert said["target"] == "transformer"
    assert said["scopes"] == [{"pattern": "*attn1*", "factor": 0.5}]
    assert [each["progress"] for each in said["schedule"]] == [k.progress for k in lora.curve.knots]
    stages = {"pipeline": "two-stage", "size": "128x128"}
    by_stage = client.image(STAR, [Lora("neon", 1.0, stages=(1.0, 0.5))], **SMALL | stages)
    (own,) = [each for each in by_stage.loras if each["name"] == "neon"]
    assert own["stages"] == [1.0, 0.5]


def test_an_edit_begins_with_the_file(client: Client, tmp_path: Path) -> None:
    path = client.image(STAR, [], **SMALL).save(tmp_path / "a.png")
    (same,) = client.edit(path, STAR, ["neon:0.5"], strength=0.1, **SMALL)
    (other,) = client.edit(path, STAR, ["neon:0.5"], strength=1.0, **SMALL)
    assert worn(same.loras) == {"neon": 0.5}
    assert difference(same.image, path) < difference(other.image, path)


def difference(image: Image.Image, path: Path) -> float:
    with Image.open(path) as shown:
        pairs = zip(image.convert("L").tobytes(), shown.convert("L").tobytes(), strict=True)
        return sum(abs(a - b) for a, b in pairs)


def test_a_video_is_waited_for_with_its_progress_and_saved_whole(
    client: Client, tmp_path: Path
) -> None:
    first = client.image(STAR, [], **SMALL).save(tmp_path / "a.png")
    told: list[dict[str, Any]] = []
    asked = client.video(STAR, ["neon:0.5"], first=first, last=first, frames=9, **SMALL)
    assert asked.info["status"] in {"queued", "in_progress"}
    video = asked.wait(told.append)
    assert video.info["status"] == "completed"
    assert worn(tuple(video.info["loras"])) == {"neon": 0.5}
    assert told[-1]["status"] == "completed"
    steps = [each["step"]["done"] for each in told if each["step"]]
    assert steps == sorted(steps)
    frames, _ = load_frames(video.save(tmp_path / "a.mp4"), 99)
    assert len(frames) == 9
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "a.mp4"}
    assert client.video(STAR, frames=9, **SMALL).wait().save(tmp_path / "b.mp4").stat().st_size


def test_a_video_that_is_not_made_says_why(client: Client, tmp_path: Path) -> None:
    video = client.video(STAR, frames=9, **SMALL | {"steps": 900})
    with pytest.raises(ApiError, match="video") as caught:
        video.save(tmp_path / "a.mp4")
    assert caught.value.status == 409
    assert not list(tmp_path.iterdir())
    client.cancel(video.id)
    with pytest.raises(ApiError) as caught:
        video.wait()
    assert caught.value.code == "cancelled"


def test_a_job_can_be_left_alone_and_its_pictures_had_later(client: Client) -> None:
    job = client.submit(STAR, ["neon"], n=2, **SMALL)
    events = list(client.events(job["id"]))
    assert [event.number for event in events] == sorted({event.number for event in events})
    assert events[-1].job["status"] == "completed"
    before = events[-1].number - 1
    assert [event.number for event in client.events(job["id"], after=before)] == [before + 1]
    found = client.results(job["id"])
    now = client.images(STAR, ["neon"], n=2, **SMALL)
    assert [each.bytes for each in found] == [each.bytes for each in now]


def test_adapters_are_published_looked_at_and_withdrawn(client: Client, tmp_path: Path) -> None:
    path = adapter_file(tmp_path / "own.safetensors", 1)
    odd = adapter_file(tmp_path / "odd.safetensors", 3, "transformer_blocks.77.attn1.to_q")
    assert client.adapters.inspect(path)["fits"] is True
    looked = client.adapters.inspect(odd)
    assert looked["fits"] is False
    assert "transformer_blocks.77.attn1.to_q" in json.dumps(looked["problems"])
    with pytest.raises(ApiError) as caught:
        client.adapters.add("odd", odd)
    assert (caught.value.status, caught.value.code) == (409, "lora_incompatible")
    added = client.adapters.add("own", path, strength=0.5, triggers=["a star"], aliases=["mine"])
    assert (added["strength"], added["triggers"]) == (0.5, ["a star"])
    assert client.adapters.pin("own")["pinned"] is True
    assert client.adapters.pin("own", pinned=False)["pinned"] is False
    assert worn(client.image(STAR, ["mine"], **SMALL).loras) == {"own": 0.5}
    assert "own" in {each["name"] for each in client.adapters.list()}
    assert f"{client.models()[0]['id']}:own" in {each["id"] for each in client.models()}
    client.adapters.withdraw("own")
    with pytest.raises(ApiError, match="'own' is not known") as caught:
        client.adapters.get("own")
    assert caught.value.code == "lora_not_found"


def test_a_folder_is_uploaded_with_its_configuration(client: Client) -> None:
    folder = find.BUNDLED["mini"] / "adapters" / "sketch"
    assert (folder / "adapter_config.json").is_file()
    looked = client.adapters.inspect(folder)
    bundled = client.adapters.get("sketch")
    assert looked["fits"] is True
    assert looked["alpha"] == bundled["alpha"]


def test_what_the_server_refuses_is_one_kind_of_error(client: Client) -> None:
    with pytest.raises(ApiError) as caught:
        client.image(STAR, ["neom"], **SMALL)
    error = caught.value
    assert (error.status, error.code) == (404, "lora_not_found")
    assert "did you mean 'neon'" in error.message
    assert str(error) == f"{error.message} (lora_not_found, 404)"
    with pytest.raises(ApiError) as caught:
        client.image(STAR, **SMALL | {"size": "65x64"})
    assert (caught.value.status, caught.value.param) == (400, "size")
    with pytest.raises(ApiError) as caught:
        client.adapters.add("own", source="/etc/passwd")
    assert caught.value.status in {400, 403}


def test_a_file_is_not_a_name(client: Client, tmp_path: Path) -> None:
    path = adapter_file(tmp_path / "own.safetensors", 1)
    with pytest.raises(InvalidRequestError, match="publish it first"):
        client.image(STAR, [f"own={path}"], **SMALL)


def test_a_server_that_is_not_there_is_told_from_one_that_refuses() -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(ApiError) as caught:
        client.models()
    assert (caught.value.status, caught.value.code) == (0, "unreachable")
    assert str(caught.value).startswith("http://127.0.0.1:9/v1/models cannot be reached: ")


def test_the_key_goes_with_every_call(
    door: Callable[..., Any], keys: Callable[[str, str], Path]
) -> None:
    path = keys("keys", "anna: a-key-of-sixteen-letters\n")
    with door(api_key_file=path) as http:
        url = str(http.base_url)
        with Client(url) as client, pytest.raises(ApiError) as caught:
            client.models()
        assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
        with Client(url, "a-key-of-sixteen-letters") as client:
            assert client.models()
            assert client.results(client.submit(STAR, **SMALL)["id"]) is not None


class Peer(BaseHTTPRequestHandler):
    """A server with no room for the first calls, whose streams break off after every event."""

    protocol_version = "HTTP/1.1"
    calls: ClassVar[list[str]] = []
    full: ClassVar[int] = 0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.calls.append(f"{self.path} {len(body)}")
        full = len(self.calls) <= self.full
        said = json.dumps({"error": {"code": "queue_full", "message": "full", "param": None}})
        self.send_response(429 if full else 200)
        if full:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said.encode())

    def do_GET(self) -> None:
        self.calls.append(self.path)
        number = int(self.path.partition("after=")[2]) + 1
        job = json.dumps({"status": "completed" if number == 12 else "running"})
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.full:  # what was promised does not come
            event = f": still there\n\nid: {number}\nevent: running\ndata: {job}\n\n".encode()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Tests are silent."""


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Peer, "calls", [])
    with ThreadingHTTPServer(("127.0.0.1", 0), Peer) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_call_comes_again_while_there_is_no_room_and_brings_its_file_again(
    peer: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Peer, "full", 3)
    path = adapter_file(tmp_path / "own.safetensors", 1)
    with Client(peer) as client:
        client.adapters.add("own", path)
    assert len(Peer.calls) == 4
    assert len(set(Peer.calls)) == 1
    assert int(Peer.calls[0].split()[1]) > path.stat().st_size


def test_a_call_does_not_come_again_for_ever(peer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Peer, "full", 99)
    with Client(peer) as client, pytest.raises(ApiError, match="full") as caught:
        client.image(STAR)
    assert (caught.value.status, len(Peer.calls)) == (429, 5)


def test_a_stream_that_breaks_off_goes_on_behind_the_last_event(
    peer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Peer, "full", 1)
    with Client(peer) as client:
        assert [event.number for event in client.events("x")] == list(range(1, 13))
    assert Peer.calls == [f"/v1/jobs/x/events?after={number}" for number in range(12)]


def test_a_stream_without_events_ends_in_an_error(peer: str) -> None:
    with Client(peer) as client, pytest.raises(ApiError) as caught:
        list(client.events("x"))
    assert (caught.value.code, len(Peer.calls)) == ("unreachable", 5)


def test_a_form_holds_texts_as_they_are_and_the_rest_as_json() -> None:
    fields = {"prompt": "{}", "n": 2, "loras": [{"name": "a"}], "audio": False, "scale": 0.5}
    assert form(fields) == {
        "prompt": "{}",
        "n": "2",
        "loras": '[{"name": "a"}]',
        "audio": "false",
        "scale": "0.5",
    }


def test_a_client_needs_no_torch() -> None:
    code = "import sys, loraloom; loraloom.Client(); print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"
