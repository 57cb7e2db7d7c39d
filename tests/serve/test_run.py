"""The server as a process of its own: how it starts, tells what is wrong, and stops."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from loraloom.engine.archive import Archive
from loraloom.engine.engine import Engine
from loraloom.engine.warm import cold
from loraloom.errors import LoraloomError, SettingsError
from loraloom.serve.build import build, opened
from loraloom.serve.run import address, listening, taken
from loraloom.settings import Settings
from loraloom.store.editions import Label
from tests.cli.console import adapter_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loraloom.serve.service import Service

START = "from loraloom.cli import main; main()"
SMALL = {"prompt": "nobodys business", "size": "64x64", "steps": 2, "seed": 7}
LONG = SMALL | {"steps": 900, "async": True}


@dataclass(frozen=True, slots=True)
class Running:
    """A server, and what it says on stdout up to now."""

    process: subprocess.Popen[str]
    url: str

    def call(self, method: str, path: str, **content: Any) -> httpx2.Response:
        return httpx2.request(method, self.url + path, timeout=60, **content)

    def ready(self) -> None:
        end = time.monotonic() + 60
        while self.call("GET", "/ready").status_code != 200:
            assert time.monotonic() < end
            assert self.process.poll() is None, self.ended()
            time.sleep(0.05)

    def job(self, job: str, *states: str) -> dict[str, Any]:
        """The job, when it is in one of ``states``."""
        end = time.monotonic() + 60
        while (said := self.call("GET", f"/v1/jobs/{job}").json())["status"] not in states:
            assert time.monotonic() < end, said
            time.sleep(0.02)
        found: dict[str, Any] = said
        return found

    def ended(self, *signals: signal.Signals) -> tuple[int, str, str]:
        """The exit code after these signals, and what was said."""
        for each in signals:
            self.process.send_signal(each)
            time.sleep(0.3)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


def started(state: Path, *words: str) -> subprocess.Popen[str]:
    given = ("--state", str(state), "--port", "0", "--device", "cpu", "--no-warmup", *words)
    return subprocess.Popen(
        [sys.executable, "-c", START, "serve", *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: each for name, each in os.environ.items() if not name.startswith("LORALOOM_")}
        | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"},
    )


@contextmanager
def running(state: Path, *words: str) -> Iterator[Running]:
    with started(state, *words) as process:
        try:
            assert process.stdout
            said = process.stdout.readline()
            found = re.fullmatch(r"Listening at (http://127\.0\.0\.1:[1-9][0-9]*)\n", said)
            assert found, said + process.communicate()[1]
            yield Running(process, found[1])
        finally:
            process.kill()


def test_a_server_listens_serves_and_stops(tmp_path: Path) -> None:
    """From the first line to the last: adapters, the default mix, logs, a clean end."""
    own = adapter_file(tmp_path / "own.safetensors", 1)
    state = tmp_path / "state"
    words = ("--lora", f"own={own}:0.5", "--default-lora", "own", "--log-format", "json")
    with running(state, *words) as server:
        early = server.call("GET", "/ready")
        assert server.call("GET", "/health").status_code == 200
        server.ready()
        assert early.status_code == 503
        assert oct(state.stat().st_mode & 0o777) == "0o700"
        made = server.call("POST", "/v1/images/generations", json=SMALL)
        assert made.status_code == 200, made.text
        (worn,) = made.json()["loras"]
        assert (worn["name"], worn["scale"]) == ("own", 0.5)
        second = started(state)
        out, err = second.communicate(timeout=60)
        assert (second.returncode, out) == (2, "")
        assert f"in use by the server with process id {server.process.pid};" in err
        assert err.count("\n") == 1
        code, out, err = server.ended(signal.SIGINT)
    assert code == 0
    assert re.fullmatch(r"Ready after [0-9.]+ s: mini, 5 adapters\nStopping: .*\n", out)
    lines = [json.loads(line) for line in err.splitlines()]
    (line,) = [each for each in lines if each.get("path") == "/v1/images/generations"]
    assert (line["event"], line["status"], line["job"]) == ("request", 200, made.json()["id"])
    assert line["steps"] > 0
    assert "nobodys business" not in err
    assert str(own.parent) not in err


@pytest.mark.slow
def test_what_runs_is_finished_and_what_waits_is_handed_back(tmp_path: Path) -> None:
    with running(tmp_path, "--max-batch", "1") as server:
        server.ready()
        middle = SMALL | {"steps": 60, "async": True}
        first, second = (
            server.call("POST", "/v1/images/generations", json=middle | {"seed": seed}).json()["id"]
            for seed in (1, 2)
        )
        server.job(first, "running")
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        with pytest.raises(httpx2.HTTPError):
            while True:  # until it has gone, it says that it takes nothing
                assert server.call("GET", "/ready").status_code == 503
                refused = server.call("POST", "/v1/images/generations", json=SMALL)
                assert refused.json()["error"]["code"] == "not_ready"
        assert server.ended()[0] == 0
    with running(tmp_path, "--resume") as server:
        server.ready()
        assert server.job(first, "completed")["results"]
        assert server.job(second, "completed")["results"]
        code, _, err = server.ended(signal.SIGINT)
    assert code == 0
    assert f"job={second} kind=images state=completed" in err


def test_a_second_signal_ends_it_at_once_and_nothing_is_lost(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        server.ready()
        job = server.call("POST", "/v1/images/generations", json=LONG).json()["id"]
        server.job(job, "running")
        began = time.monotonic()
        code, _, _ = server.ended(signal.SIGINT, signal.SIGINT)
        assert code == 130
        assert time.monotonic() - began < 5
    (home,) = tmp_path.glob("mini-*")
    with closing(Archive(home)) as archive:
        engine = Engine(lambda: pytest.fail("loaded"), archive)
        assert engine.ticket(job).state == "interrupted"


def test_a_bad_adapter_ends_the_process_with_one_reason(tmp_path: Path) -> None:
    adapter_file(tmp_path / "odd.safetensors", 3, "transformer_blocks.77.attn1.to_q")
    process = started(tmp_path / "state", "--lora", f"odd={tmp_path}/odd.safetensors")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out.count("\n")) == (2, 1)
    assert err.splitlines()[-1].startswith("loraloom: error: ")
    assert "transformer_blocks.77.attn1.to_q" in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("model", "gpt", "model 'gpt' is no folder"),
        ("device", "cuda:99", "--device is 'cuda:99', which this machine does not have"),
        ("device", "tpu", "--device is 'tpu', want cpu, cuda, cuda:N or auto"),
        ("dtype", "float8", "dtype is 'float8', want one of"),
        ("pipeline", "two-stag", "'two-stag' is not known; did you mean 'two-stage'"),
        ("lora", ("own=none.safetensors",), "there is no 'none.safetensors'"),
        ("lora", ("neon:1,2",), "--lora 'neon' has more than one strength"),
        ("default_lora", ("neon=.",), "--default-lora 'neon' has a path"),
        ("default_lora", ("neon", "neon"), "names adapter 'neon' 2 times"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_anything_is_loaded(
    setting: str, value: object, says: str, tmp_path: Path
) -> None:
    settings = Settings(state=tmp_path, device="cpu").model_copy(update={setting: value})
    with pytest.raises(LoraloomError) as caught:
        build(settings)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"default_lora": ("neom",)}, "adapter 'neom' is not known; did you mean 'neon'"),
        ({"lora": ("neom:0.5",)}, "adapter 'neom' is not known; did you mean 'neon'"),
        ({"residency": "resident", "offload": "in turn"}, "no plan for residency 'resident'"),
    ],
)
def test_what_shows_while_the_model_is_loaded_is_why_it_never_is_ready(
    settings: dict[str, Any], says: str, tmp_path: Path
) -> None:
    engine = build(Settings(state=tmp_path, device="cpu", **settings)).engine
    engine.start(cold)
    assert engine.settled(60)
    assert not engine.ready
    assert says in (engine.failure or "")
    engine.stop(patience=1)


def test_what_the_start_says_stays_over_restarts_and_can_be_said_again(tmp_path: Path) -> None:
    own = adapter_file(tmp_path / "own.safetensors", 1)
    usual = Settings(state=tmp_path / "state", device="cpu")

    @contextmanager
    def started_with(**changes: Any) -> Iterator[Service]:
        with opened(usual.model_copy(update=changes)) as service:
            service.engine.start(cold)
            assert service.engine.settled(60)
            assert service.engine.ready, service.engine.failure
            yield service
            service.engine.stop(patience=1)

    said = {"lora": (f"own={own}:0.5", "neon:0.25"), "default_lora": ("own", "sketch:0.125")}
    mix = {"own": 0.5, "sketch": 0.125}
    with started_with(**said) as first:
        assert {lora.name: lora.strength for lora in first.defaults.mix} == mix
        assert first.catalog.label("neon").strength == 0.25
        first.catalog.relabel("own", replace(first.catalog.label("own"), triggers=("a star",)))
    with started_with(lora=(f"own={own}",)) as again:
        assert {lora.name: lora.strength for lora in again.defaults.mix} == mix
        assert again.catalog.label("own") == Label(0.5, ("a star",))


def test_an_address_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with (
            pytest.raises(
                SettingsError, match=f"nothing can listen at 127.0.0.1, port {port}: Addr"
            ),
            listening("127.0.0.1", port),
        ):
            pass
    for host in ("no.such.host.invalid", "192.0.2.1"):
        with pytest.raises(SettingsError, match="nothing can listen at"), listening(host, 0):
            pass


def test_an_address_is_shown_as_a_browser_takes_it() -> None:
    with listening("127.0.0.1", 0) as listener:
        assert address(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"
    if socket.has_ipv6:
        with listening("::1", 0) as listener:
            assert address(listener) == f"http://[::1]:{listener.getsockname()[1]}"


def test_a_state_folder_is_one_servers_until_it_ends(tmp_path: Path) -> None:
    state = tmp_path / "a" / "b"
    with taken(state):
        with (
            pytest.raises(
                SettingsError, match=f"in use by the server with process id {os.getpid()}"
            ),
            taken(state),
        ):
            pass
        assert (state / "lock").read_text() == str(os.getpid())
    with taken(state):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="cannot be used"), taken(tmp_path / "file"):
        pass
