"""Servers as processes of their own: started, waited for, killed, and what they take of memory."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

READY = 120.0
"""Seconds in which a server has to be ready."""
PATIENCE = 40.0
"""Seconds in which it has to stop cleanly."""


@dataclass(frozen=True, slots=True)
class Command:
    """How a server is started; it gets ``--port`` besides.

    Attributes:
        log: where what it says goes.
        threads: of torch.
    """

    words: tuple[str, ...]
    log: Path
    threads: int = 2


@dataclass(frozen=True, slots=True)
class Server:
    """A process that listens."""

    url: str
    process: subprocess.Popen[bytes]

    @property
    def nbytes(self) -> int:
        """What it has of memory: the resident set."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def kill(self) -> None:
        """At once, as ``kill -9``."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Cleanly, as Ctrl-C; gives the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE)


def loraloom(state: Path, *words: str) -> tuple[str, ...]:
    """``loraloom serve`` with a state folder of its own and further flags."""
    script = Path(sys.executable).with_name("loraloom")
    return (str(script), "serve", "mini", "--state", str(state), *words)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(command: Command, port: int) -> Server:
    """The server, ready.

    Raises:
        RuntimeError: it ended, or was not ready in time; with the end of its log.
    """
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(command.threads),
        "MKL_NUM_THREADS": str(command.threads),
        "HF_HUB_OFFLINE": "1",
    }
    with command.log.open("ab") as log:
        process = subprocess.Popen(
            [*command.words, "--port", str(port)],
            stdout=log,
            stderr=log,
            env=environment,
            cwd=Path(__file__).parent.parent,
        )
    server = Server(f"http://127.0.0.1:{port}", process)
    try:
        _wait(server, command)
    except BaseException:
        server.kill()
        raise
    return server


def _wait(server: Server, command: Command) -> None:
    began = time.monotonic()
    while time.monotonic() - began < READY:
        if server.process.poll() is not None:
            break
        try:
            if httpx2.get(f"{server.url}/ready").status_code == httpx2.codes.OK:
                return
        except httpx2.TransportError:
            pass  # it does not listen yet
        time.sleep(0.05)
    told = command.log.read_text(errors="replace")[-3000:]
    raise RuntimeError(f"{' '.join(command.words)} did not become ready:\n{told}")


@contextmanager
def serving(command: Command) -> Iterator[Server]:
    """A server for the length of a block, on a port that is free."""
    server = start(command, free_port())
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()
