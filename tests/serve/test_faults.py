"""What goes wrong around a server that runs as its own process: killed, a full disk, files gone."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import psutil
import pytest

from bench import styles
from bench.clients import GENERATE, OVER, Clients
from bench.load import jobs
from bench.processes import Command, Server, free_port, loraloom, serving, start
from loraloom.models.find import card

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Body = dict[str, Any]

PROMPT = "a large red star on a plain blue background"
QUICK: Body = {"prompt": PROMPT, "size": "64x64", "steps": 2, "seed": 1, "loras": []}
LONG: Body = QUICK | {"steps": 900}
DISK = "6m"

SMALL, LARGE = "style-00", ("style-02", "style-05", "style-01")
"""Adapters by their ranks: 4; 16, 16, 8."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of adapters that may be published by path."""
    folder = tmp_path_factory.mktemp("root")
    styles.make(card("mini"), folder, 6)
    return folder


@contextmanager
def clients_of(command: Command) -> Iterator[Clients]:
    with serving(command) as server, closing(Clients(server, 8)) as clients:
        yield clients


@pytest.fixture(scope="module")
def clients(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """Of a server that tests leave as they found it; its host has room for one large adapter."""
    folder = tmp_path_factory.mktemp("server")
    room = card("mini").adapters["neon"] / "adapter_model.safetensors"
    flags = ("--adapter-root", str(root), "--host-budget", str(room.stat().st_size), "--no-warmup")
    command = Command(loraloom(folder / "state", *flags), folder / "server.log", threads=1)
    with clients_of(command) as found:
        yield found


def picture(clients: Clients, **changes: Any) -> Body:
    said: Body = clients.call("POST", GENERATE, json=QUICK | changes).json()
    return said


def begun(clients: Clients, **changes: Any) -> str:
    wanted = QUICK | changes | {"async": True}
    job: str = clients.call("POST", GENERATE, 202, json=wanted).json()["id"]
    return job


def job_of(clients: Clients, job: str) -> Body:
    said: Body = clients.call("GET", f"/v1/jobs/{job}").json()
    return said


def until(clients: Clients, job: str, *states: str) -> Body:
    """The job as soon as it is in one of ``states``."""
    deadline = time.monotonic() + 60
    while (said := job_of(clients, job))["status"] not in states:
        assert time.monotonic() < deadline, f"never {states}: {said}"
        time.sleep(0.02)
    return said


def trouble(clients: Clients, job: str) -> str:
    """The code of what a job fails with."""
    said = until(clients, job, *OVER)
    assert said["status"] == "failed", said
    code: str = said["error"]["code"]
    return code


def publish(clients: Clients, path: Path, name: str) -> None:
    said = {"name": name, "source": str(path)}
    answer = clients.http.post("/v1/adapters", json=said)
    assert answer.status_code in {200, 201}, answer.text


def test_killed_in_the_middle_everything_is_reported_and_can_be_run_again(
    root: Path, tmp_path: Path
) -> None:
    words = loraloom(tmp_path / "state", "--adapter-root", str(root), "--no-warmup")
    command, port = Command(words, tmp_path / "server.log", threads=1), free_port()
    server = start(command, port)
    try:
        with closing(Clients(server, 2)) as clients:
            publish(clients, root / f"{SMALL}.safetensors", "kept")
            wears = [{"name": "kept", "scale": 0.5}]
            before = picture(clients, loras=wears)
            running = begun(clients, steps=900)
            waiting = begun(clients, loras=wears)
            until(clients, running, "running")
            server.kill()
            server = start(command, port)
            assert {each["id"]: each["status"] for each in jobs(clients)} == {
                before["id"]: "completed",
                running: "interrupted",
                waiting: "interrupted",
            }
            assert job_of(clients, running)["error"]["code"] == "interrupted"
            clients.call("POST", f"/v1/jobs/{waiting}/resume")
            url = until(clients, waiting, "completed")["results"][0]["url"]
            again = clients.call("GET", url).content
            assert again == clients.call("GET", f"/v1/results/{before['id']}/0").content
            assert picture(clients, loras=wears)["data"] == before["data"]
    finally:
        server.kill()


@contextmanager
def small_disk(root: Path, state: Path) -> Iterator[tuple[Clients, Path]]:
    """A server whose state folder is a disk of its own, and that folder as we can reach it."""
    words = loraloom(state, "--adapter-root", str(root), "--no-warmup")
    mount = f'mount -t tmpfs -o size={DISK} none "$0" && exec "$@"'
    inside = ("unshare", "-rm", "sh", "-c", mount, str(state), *words)
    with clients_of(Command(inside, state.with_suffix(".log"), threads=1)) as clients:
        seen = Path(f"/proc/{clients.server.process.pid}/root{state}")
        yield clients, seen


def can_mount(folder: Path) -> bool:
    if shutil.which("unshare") is None:
        return False
    tried = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(folder)]
    return subprocess.run(tried, check=False, capture_output=True).returncode == 0


def fill(path: Path) -> None:
    """Write until there is no room."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def test_a_full_disk_fails_what_it_hits_and_nothing_after_it(root: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    if not can_mount(state):
        pytest.skip("no disk of its own can be mounted here")
    with small_disk(root, state) as (clients, seen):
        before = picture(clients)
        running = begun(clients, **{**LONG, "steps": 60})
        until(clients, running, "running")
        fill(seen / "filler")
        full = clients.http.post(GENERATE, json=QUICK | {"seed": 2})
        assert (full.status_code, full.json()["error"]["code"]) == (507, "storage_full")
        upload = {"file": (root / "style-02.safetensors").read_bytes()}
        refused = clients.http.post("/v1/adapters", data={"name": "new"}, files=upload)
        assert (refused.status_code, refused.json()["error"]["code"]) == (507, "storage_full")
        assert trouble(clients, running) == "storage_full"
        assert clients.call("GET", f"/v1/results/{before['id']}/0").content
        (seen / "filler").unlink()
        assert picture(clients)["data"] == before["data"]
        assert all(each["status"] in OVER for each in jobs(clients))
        clients.call("POST", "/v1/adapters", 201, data={"name": "new"}, files=upload)
        picture(clients, loras=[{"name": "new"}])


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_an_adapter_whose_file_changed_fails_alone_until_it_is_published_again(
    how: str, clients: Clients, root: Path
) -> None:
    path = root / f"{how}.safetensors"
    shutil.copy(root / f"{SMALL}.safetensors", path)
    publish(clients, path, how)
    if how == "deleted":
        path.unlink()
    else:
        shutil.copy(root / "style-01.safetensors", path)
    picture(clients, loras=[{"name": "neon"}])  # takes the room that it had in memory
    blocker = begun(clients, steps=100)
    other = begun(clients)
    wears = [{"name": how}]
    assert trouble(clients, begun(clients, loras=wears)) == "lora_changed"
    for job in (blocker, other):
        assert until(clients, job, *OVER)["status"] == "completed"
    shutil.copy(root / f"{SMALL}.safetensors", path)
    publish(clients, path, how)
    assert picture(clients, loras=wears)["loras"][0]["name"] == how


def test_what_cannot_fit_on_the_device_fails_alone_in_its_batch(root: Path, tmp_path: Path) -> None:
    sizes = {path.stem: path.stat().st_size for path in root.glob("style-*.safetensors")}
    budget = sizes[LARGE[0]] + sizes[SMALL] + 2**16
    assert budget < sum(sizes[name] for name in LARGE[:2])
    flags = ("--adapter-root", str(root), "--device-budget", str(budget), "--no-warmup")
    words = loraloom(tmp_path / "state", *flags)
    with clients_of(Command(words, tmp_path / "server.log", threads=1)) as clients:
        for name in (SMALL, *LARGE):
            publish(clients, root / f"{name}.safetensors", name)
        blocker = begun(clients, steps=60)
        fine = [begun(clients, loras=[{"name": name}], steps=3) for name in (SMALL, LARGE[0])]
        culprit = begun(clients, loras=[{"name": name} for name in LARGE], steps=3)
        fine += [begun(clients, steps=3), begun(clients, loras=[{"name": LARGE[2]}], steps=3)]
        assert trouble(clients, culprit) == "out_of_memory"
        for job in (blocker, *fine):
            assert until(clients, job, *OVER)["status"] == "completed"
    assert "again in halves" in (tmp_path / "server.log").read_text(), "they shared no batch"


def test_clients_that_leave_the_events_of_a_job_leave_nothing_behind(clients: Clients) -> None:
    job = begun(clients, steps=900)
    until(clients, job, "running")
    process = psutil.Process(clients.server.process.pid)

    def look_and_leave(times: int) -> None:
        for _ in range(times):
            with (
                httpx2.Client(base_url=clients.server.url) as one,
                one.stream("GET", f"/v1/jobs/{job}/events") as answer,
            ):
                next(answer.iter_lines())

    look_and_leave(3)
    before = process.num_fds(), process.num_threads()
    look_and_leave(40)
    _eventually(lambda: process.num_fds() <= before[0] + 3, "connections stay open")
    _eventually(lambda: process.num_threads() <= before[1] + 3, "threads stay")
    assert job_of(clients, job)["status"] == "running"
    clients.call("DELETE", f"/v1/jobs/{job}")
    assert until(clients, job, *OVER)["status"] == "cancelled"
    picture(clients)


def test_a_client_that_is_gone_in_the_middle_of_an_upload_leaves_no_bytes(
    clients: Clients, root: Path
) -> None:
    before = _drafts(clients)
    content = (root / f"{LARGE[0]}.safetensors").read_bytes()
    for path in ("/v1/adapters", "/v1/adapters/inspect"):
        with _uploading_half(clients.server, path, content):
            _eventually(lambda: _drafts(clients) != before, "nothing of an upload is written")
        _eventually(lambda: _drafts(clients) == before, "half an upload is kept")
    names = [each["name"] for each in clients.call("GET", "/v1/adapters").json()["data"]]
    assert "half" not in names
    picture(clients)


def _eventually(what: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)


@contextmanager
def _uploading_half(server: Server, path: str, content: bytes) -> Iterator[None]:
    """A client in the middle of an upload, which is gone after the block."""
    edge = "a-boundary"
    parts = (
        f'--{edge}\r\ncontent-disposition: form-data; name="name"\r\n\r\nhalf\r\n'
        f'--{edge}\r\ncontent-disposition: form-data; name="file"; filename="a.safetensors"\r\n'
        "content-type: application/octet-stream\r\n\r\n"
    ).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        f"content-type: multipart/form-data; boundary={edge}\r\n"
        f"content-length: {len(parts) + len(content)}\r\n\r\n"
    ).encode()
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head + parts + content[: len(content) // 2])
        yield


def _drafts(clients: Clients) -> set[Path]:
    """Files under the state folder besides those of databases, and temporary ones held open."""
    arguments = clients.server.process.args
    assert isinstance(arguments, list)
    state = Path(str(arguments[arguments.index("--state") + 1]))
    opened = {Path(each.path) for each in psutil.Process(clients.server.process.pid).open_files()}
    there = {path for path in state.rglob("*") if path.is_file()}
    return {path for path in there | opened if "sqlite" not in path.name}
