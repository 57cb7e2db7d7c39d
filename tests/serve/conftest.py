"""A real server on the embedded model, started once; and other doors to the same engine."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from threading import Thread
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import uvicorn

from loraloom.serve.app import create_app
from loraloom.serve.build import build
from loraloom.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from fastapi import FastAPI

    from loraloom.serve.service import Service

SMALL: dict[str, Any] = {
    "prompt": "a large red circle on a white background",
    "size": "64x64",
    "steps": 2,
    "seed": 7,
}
"""A picture that takes no time."""

CLIP: dict[str, Any] = {**SMALL, "frames": 9}
"""A video that takes little."""


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The address of ``app``, which answers until the block ends."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Those of the session's server."""
    return Settings(state=tmp_path_factory.mktemp("state"), port=0, device="cpu", warmup=False)


@pytest.fixture(scope="session")
def service(settings: Settings) -> Iterator[Service]:
    """What the session's server works with, its model loaded."""
    made = build(settings)
    made.engine.start()
    try:
        until(lambda: made.engine.ready or made.engine.failure is not None, seconds=120)
        assert made.engine.ready, made.engine.failure
        yield made
    finally:
        made.engine.stop(patience=1)


@pytest.fixture(scope="session")
def server(service: Service) -> Iterator[str]:
    """The address of the session's server."""
    with served(create_app(service)) as url:
        yield url


@pytest.fixture(scope="session")
def http(server: str) -> Iterator[httpx2.Client]:
    """A client of it."""
    with httpx2.Client(base_url=server, timeout=60) as client:
        yield client


@pytest.fixture
def door(service: Service) -> Callable[..., AbstractContextManager[httpx2.Client]]:
    """Another application on the same engine, with other settings."""

    @contextmanager
    def opened(**changes: Any) -> Iterator[httpx2.Client]:
        settings = service.settings.model_copy(update=changes)
        app = create_app(replace(service, settings=settings))
        with served(app) as url, httpx2.Client(base_url=url, timeout=60) as client:
            yield client

    return opened


@pytest.fixture
def keys(tmp_path: Path) -> Callable[[str, str], Path]:
    """Writes a file of keys."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something that another thread does."""
    end = monotonic() + seconds
    while not true():
        assert monotonic() < end, "it did not happen"
        sleep(0.01)
