"""The process of a server: its state folder, its address, its signals, and how it ends."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import socket
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import uvicorn
import uvloop

from loraloom.engine.warm import cold, warm_up
from loraloom.errors import LoraloomError, ModelError, SettingsError

from .guard import local
from .logs import Logged, configure, ended, event
from .models import model_id

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loraloom.engine.engine import Engine
    from loraloom.settings import Settings

    from .service import Service

AT_ONCE = 130
"""The exit code of a server that was told twice to stop, as a shell has it for Ctrl-C."""

LINGER = 5
"""Seconds that answers under way have to go out when everything else has stopped."""

LOOK = 0.05
"""Seconds between two looks at whether the model is ready."""


def run(settings: Settings) -> int:
    """Serve until a signal says to stop; the exit code.

    Raises:
        LoraloomError: a setting is wrong, the model cannot be loaded, or an adapter of ``--lora``
            cannot be worn.
    """
    began = time.perf_counter()
    configure(settings)
    with taken(settings.state), listening(settings.host, settings.port) as listener:
        # whoever connects from now on waits, while torch is imported
        from .app import create_app  # noqa: PLC0415
        from .build import opened  # noqa: PLC0415

        with opened(settings) as service:
            app = Logged(create_app(service), service.engine)
            # of the loops that there are the one with the least overhead
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(_serve(app, service, listener, began))


async def _serve(app: Any, service: Service, listener: socket.socket, began: float) -> int:
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=LINGER,
    )
    engine, server, stop = service.engine, Server(config), asyncio.Event()
    with told_to_stop(stop):
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        say(f"Listening at {address(listener)}")
        _warn(service.settings)
        engine.start(warm_up if service.settings.warmup else cold)
        ready = asyncio.create_task(_ready(service, began))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({ready, stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                ready.result()
                await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
            say("Stopping: what runs is finished, what waits is handed back; again to stop at once")
        finally:
            ready.cancel()
            stopping.cancel()
            await asyncio.to_thread(engine.stop, patience=service.settings.patience)
            server.should_exit = True
            await serving
    return 0


async def _ready(service: Service, began: float) -> None:
    """Say when the model is ready.

    Raises:
        ModelError: it never will be.
    """
    engine = service.engine
    while not engine.settled(0):
        await asyncio.sleep(LOOK)
    if engine.failure is not None:
        raise ModelError(engine.failure)
    seconds, model = time.perf_counter() - began, model_id(service.card)
    say(f"Ready after {seconds:.1f} s: {model}, {len(service.catalog.names())} adapters")
    event("ready", seconds=seconds, model=model)
    if service.settings.resume:
        await asyncio.to_thread(_resume, engine)


def _resume(engine: Engine) -> None:
    """Queue again what the last stop interrupted, as far as that can be."""
    for job in engine.interrupted():
        try:
            engine.resume(job)
            engine.watch(job, ended)
        except LoraloomError as error:
            event("not resumed", logging.WARNING, job=job, why=str(error))


class Server(uvicorn.Server):
    """Leaves signals to :func:`told_to_stop`."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def told_to_stop(stop: asyncio.Event) -> Iterator[None]:
    """While the block runs, SIGINT or SIGTERM sets ``stop``; the second ends the process at once.

    What is on disk is whole at any time, so that nothing is lost that way but what runs.
    """
    loop, told = asyncio.get_running_loop(), 0

    def heard(*_: object) -> None:
        nonlocal told
        told += 1
        if told > 1:
            os._exit(AT_ONCE)
        loop.call_soon_threadsafe(stop.set)

    before = {each: signal.signal(each, heard) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def taken(state: Path) -> Iterator[None]:
    """The state folder for this process alone, made for this user alone where it is not there.

    Raises:
        SettingsError: it cannot be written, or another server has it.
    """
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise SettingsError(
            f"the state folder '{state}' cannot be used: {error.strerror}"
        ) from error
    try:
        _lock(lock, state)
        yield
    finally:
        os.close(lock)


def _lock(lock: int, state: Path) -> None:
    """Note our process id in the file, which the system unlocks when the process ends."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(lock, 20).decode()
        raise SettingsError(
            f"the state folder '{state}' is in use by the server with process id {owner}; stop "
            "that one, or give another --state"
        ) from None
    os.truncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that connections can come to.

    Raises:
        SettingsError: it cannot be had; the message says why.
    """
    try:
        family, *_, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(where[:2], family=family, backlog=2048)
    except OSError as error:
        raise SettingsError(
            f"nothing can listen at {host}, port {port}: {error.strerror}; "
            "--host and --port say where, port 0 is any that is free"
        ) from error
    with listener:
        # asyncio sets it only on sockets made with the protocol's number, which this one is not;
        # without it the body of every answer waits 40 ms for the client to confirm the head
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield listener


def address(listener: socket.socket) -> str:
    """Where a browser finds the server."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _warn(settings: Settings) -> None:
    if settings.api_key_file is None and not local(settings.host):
        event(
            "everybody who reaches this address may use it; --api-key-file asks for keys",
            logging.WARNING,
            host=settings.host,
        )


def say(line: str) -> None:
    """A line for the person who started the server."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
