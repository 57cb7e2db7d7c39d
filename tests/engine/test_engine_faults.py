"""What goes wrong in one job is that job's: the others are served, nothing is lost or stuck."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from loraloom.core.mix import Applied
from loraloom.engine import press
from loraloom.engine.archive import Archive, Page
from loraloom.engine.engine import Engine, Limits
from loraloom.engine.trouble import trouble_of
from loraloom.errors import (
    AdapterChangedError,
    AdapterFileError,
    BudgetError,
    InvalidRequestError,
    MediaError,
    StorageFullError,
)

from .served import Counts, Gate, ended, picture, serving, task, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from loraloom import Loom, Request
    from loraloom.engine.job import Job
    from loraloom.engine.run import Tick
    from loraloom.engine.ticket import Event, Ticket

CULPRIT = "the culprit"


@pytest.fixture
def clean(loom: Loom) -> Iterator[None]:
    """The model wears nothing after a test, and its weights are the same bits."""
    before = [value.clone() for value in loom.pipe.transformer.state_dict().values()]
    yield
    assert all(model.applied == Applied() for model in loom.models)
    after = loom.pipe.transformer.state_dict().values()
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.fixture
def meter() -> Counts:
    return Counts()


@pytest.fixture
def engine(loom: Loom, tmp_path: Path, meter: Counts) -> Iterator[Engine]:
    with serving(loom, tmp_path, meter=meter) as engine:
        yield engine


def failing(
    loom: Loom, monkeypatch: pytest.MonkeyPatch, error: Callable[[list[Job]], Exception | None]
) -> None:
    """Let a run fail in its second step, in the middle of what it wears, for some batches."""
    run = loom.run

    def fails(jobs: list[Job], *, policy: str, progress: Callable[[Tick], None]) -> object:
        def stepped(tick: Tick) -> None:
            wrong = error(jobs) if tick.done == 2 else None
            if wrong is not None:
                raise wrong
            progress(tick)

        return run(jobs, policy=policy, progress=stepped)  # type: ignore[arg-type]

    monkeypatch.setattr(loom, "run", fails)


def culprit(seed: int) -> Request:
    return replace(picture(seed, neon=0.5), prompt=CULPRIT)


def batch_of(engine: Engine, gate: Gate, *requests: Request) -> list[Ticket]:
    """Tickets that run as one batch."""
    engine.submit(task(owner="before"))
    assert gate.reached.wait(60)
    tickets = [engine.submit(task(request)) for request in requests]
    gate.opened.set()
    return tickets


def assert_same(path: Path, loom: Loom, request: Request) -> None:
    """A file shows what its request alone does, to a rounding."""
    (alone,) = loom.images([request])
    with Image.open(path) as image:
        one, other = (np.asarray(each).astype(int) for each in (image, alone.frames[0]))
    assert np.abs(one - other).max() <= 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "out_of_memory"),
        (ValueError("/srv/secret/file.py is to blame"), "internal_error"),
        (AdapterChangedError("adapter 'x': /srv/loras/x.safetensors is gone"), "lora_changed"),
        (InvalidRequestError("a prompt is a culprit"), "invalid_value"),
    ],
)
def test_of_a_batch_that_fails_the_culprit_alone_fails(
    error: Exception,
    code: str,
    loom: Loom,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    clean: None,
) -> None:
    failing(
        loom,
        monkeypatch,
        lambda jobs: error if any(job.request.prompt == CULPRIT for job in jobs) else None,
    )
    gate = Gate(loom)
    monkeypatch.setattr(loom, "run", gate.hold(loom.run))
    meter = Counts()
    with serving(loom, tmp_path, meter=meter) as engine:
        asked = [picture(1, neon=0.2), picture(2), culprit(3), picture(4, sketch=0.4)]
        tickets = batch_of(engine, gate, *asked)
        last = [ended(engine, each) for each in tickets]
        assert [each.state for each in last] == ["completed", "completed", "failed", "completed"]
        trouble = last[2].outcome.trouble
        assert trouble is not None
        assert trouble.code == code
        assert "/srv" not in trouble.message
        assert last[2].outcome.outputs == ()
        assert meter.batches == [1, 4, 2, 2, 1, 1]
        assert not (tmp_path / "jobs" / last[2].id).exists()
        for request, each in zip(asked, last, strict=True):
            if each.state == "completed":
                assert_same(engine.file(each.id, 0), loom, request)


def test_a_batch_that_is_too_large_runs_in_halves_and_nobody_fails(
    loom: Loom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean: None, meter: Counts
) -> None:
    failing(
        loom, monkeypatch, lambda jobs: torch.OutOfMemoryError("full") if len(jobs) > 2 else None
    )
    with serving(loom, tmp_path, meter=meter) as engine:
        last = ended(engine, engine.submit(task(*(picture(seed, neon=0.5) for seed in range(7)))))
        assert last.state == "completed"
        assert [output.seed for output in last.outcome.outputs] == list(range(7))
    assert meter.batches == [7, 3, 1, 2, 4, 2, 2]


def test_of_a_ticket_whose_row_fails_no_row_is_left(
    loom: Loom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean: None
) -> None:
    failing(
        loom,
        monkeypatch,
        lambda jobs: MemoryError() if any(j.request.prompt == CULPRIT for j in jobs) else None,
    )
    with serving(loom, tmp_path, Limits(max_batch=2)) as engine:
        rows = (picture(1), picture(2), culprit(3), *(picture(seed) for seed in range(4, 9)))
        last = ended(engine, engine.submit(task(*rows)))
        assert last.state == "failed"
        assert ended(engine, engine.submit(task())).state == "completed"
        until(lambda: engine.status().waiting == engine.status().running == 0)
        until(lambda: len(list((tmp_path / "jobs").iterdir())) == 1)
        until(lambda: loom.adapters.users("neon") == 0)


def test_an_adapter_whose_file_changed_fails_the_job_that_wears_it(
    loom: Loom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file is replaced while its job waits, and it is not in memory any more."""
    shutil.copytree(loom.card.adapters["neon"], tmp_path / "mine")
    loom.adapters.publish("mine", tmp_path / "mine")
    gate = Gate(loom)
    monkeypatch.setattr(loom, "run", gate.hold(loom.run))
    changed = AdapterChangedError(f"adapter 'mine': {tmp_path}/mine has other bytes now")

    def held(keys: object) -> object:
        wanted = list(keys)  # type: ignore[call-overload]
        if any(key.name == "mine" for key in wanted):
            raise changed
        return original(wanted)

    original = loom.adapters.held
    monkeypatch.setattr(loom.adapters, "held", held)
    with serving(loom, tmp_path / "state") as engine:
        one, bad, other = batch_of(
            engine, gate, picture(1, neon=1.0), picture(2, mine=1.0), picture(3)
        )
        assert ended(engine, one).state == ended(engine, other).state == "completed"
        trouble = ended(engine, bad).outcome.trouble
        assert trouble is not None
        assert trouble.code == "lora_changed"
        assert str(tmp_path) not in trouble.message
    monkeypatch.undo()
    loom.adapters.withdraw("mine")


def full(*_args: object, **_kwargs: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_fails_the_job_that_meets_it_and_the_next_is_served(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as during:
        during.setattr(Image.Image, "save", full)
        last = ended(engine, engine.submit(task(picture(1), picture(2))))
    assert last.state == "failed"
    assert last.outcome.trouble is not None
    assert last.outcome.trouble.code == "storage_full"
    until(lambda: list((tmp_path / "jobs").iterdir()) == [])
    assert ended(engine, engine.submit(task())).state == "completed"


def no_room() -> sqlite3.OperationalError:
    """What SQLite raises when its file may not grow any more, from SQLite itself."""
    database = sqlite3.connect(":memory:")
    try:
        database.execute("PRAGMA max_page_count = 1")
        database.execute("CREATE TABLE a (b)")
    except sqlite3.OperationalError as error:
        return error
    finally:
        database.close()
    raise AssertionError


def test_a_result_whose_row_cannot_be_written_is_none_and_the_next_is_served(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    archive, save = engine._archive, engine._archive.save

    def fails(events: list[Event]) -> None:
        if broken.is_set() and any(each.ticket.ended for each in events):
            raise no_room()
        save(events)

    broken = threading.Event()
    broken.set()
    monkeypatch.setattr(archive, "save", fails)
    last = ended(engine, engine.submit(task()))
    assert last.state == "failed"
    assert last.outcome.trouble is not None
    assert last.outcome.trouble.code == "storage_full"
    assert archive.find(last.id).ticket.state == "running"
    assert engine.tickets(Page())[0].state == "failed"
    broken.clear()
    assert ended(engine, engine.submit(task())).state == "completed"
    engine._keeper.sweep()
    assert archive.find(last.id).ticket == last


def test_a_task_that_cannot_be_kept_is_refused(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise no_room()

    with monkeypatch.context() as during:
        during.setattr(engine._archive, "add", fails)
        with pytest.raises(StorageFullError, match="no room left"):
            engine.submit(task(picture(1, neon=1.0)))
    assert engine.tickets(Page()) == []
    assert engine.loom.adapters.users("neon") == 0
    assert ended(engine, engine.submit(task())).state == "completed"


def test_an_encoder_that_fails_fails_its_job_and_not_the_thread(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as during:
        during.setattr(press, "provenance_of", broken)
        for _ in range(4):  # more than there are threads
            last = ended(engine, engine.submit(task()))
            assert last.outcome.trouble is not None
            assert last.outcome.trouble.code == "internal_error"
    assert ended(engine, engine.submit(task())).state == "completed"


def test_a_listener_that_raises_hurts_nobody(engine: Engine) -> None:
    heard: list[Event] = []

    def broken(event: Event) -> None:
        heard.append(event)
        raise RuntimeError("injected")

    ticket = engine.submit(task(picture(steps=4)))
    engine.watch(ticket.id, broken)
    assert ended(engine, ticket).state == "completed"
    assert ended(engine, engine.submit(task())).state == "completed"
    assert len(heard) == 1


def test_a_prefetch_that_fails_is_not_the_failure_of_what_runs(
    engine: Engine, loom: Loom, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_keys: object) -> None:
        raise torch.OutOfMemoryError("no room for what waits")

    monkeypatch.setattr(loom, "prefetch", broken)
    tickets = [engine.submit(task(picture(seed, neon=0.5), owner=str(seed))) for seed in range(3)]
    wide = [engine.submit(task(picture(seed, steps=3), owner=str(seed))) for seed in range(3)]
    assert all(ended(engine, each).state == "completed" for each in (*tickets, *wide))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MediaError("x cannot be written"), "internal_error"),
        (AdapterFileError("/srv/x is no adapter"), "lora_invalid"),
        (BudgetError("adapter 'x' wants 9 bytes, there are 8"), "out_of_memory"),
        (OSError(errno.EDQUOT, "over quota", "/srv/x"), "storage_full"),
        (OSError(errno.EIO, "broken", "/srv/x"), "internal_error"),
        (no_room(), "storage_full"),
        (sqlite3.OperationalError("locked"), "internal_error"),
    ],
)
def test_every_failure_has_a_code_and_no_file_name(error: Exception, code: str) -> None:
    trouble = trouble_of(error)
    assert trouble.code == code
    assert "/srv" not in trouble.message


def test_the_cause_of_a_full_disk_is_found_behind_other_errors() -> None:
    try:
        try:
            full()
        except OSError as error:
            raise MediaError("/srv/a.png cannot be written") from error
    except MediaError as error:
        assert trouble_of(error).code == "storage_full"


SERVER = """
import sys, threading
from pathlib import Path
import torch
torch.set_num_threads(1)
from loraloom import Loom
from loraloom.engine.archive import Archive
from loraloom.engine.engine import Engine
from tests.engine.served import picture, task

engine = Engine(Loom.load, Archive(Path(sys.argv[1])))
engine.start()
assert engine.settled(120), engine.failure
print("ready", flush=True)
def hear(event):
    if event.ticket.ended:
        print(event.ticket.state, event.ticket.id, flush=True)

for seed in range(200):
    ticket = engine.submit(task(picture(seed, neon=0.5 + seed % 3), picture(seed + 1000)))
    engine.watch(ticket.id, hear)
threading.Event().wait()
"""


@pytest.mark.slow
def test_a_server_that_is_killed_loses_no_finished_result_and_runs_the_rest_again(
    loom: Loom, tmp_path: Path
) -> None:
    told: dict[str, str] = {}
    draw = random.Random(7)
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert process.stdout
        with process.stdout:
            assert process.stdout.readline() == "ready\n"
            killer = threading.Timer(draw.uniform(0.5, 3.0), process.send_signal, [signal.SIGKILL])
            killer.start()
            for line in process.stdout:
                if line.endswith("\n"):
                    state, name = line.split()
                    told[name] = state
            killer.cancel()
        process.wait()
    assert "completed" in told.values()
    with serving(loom, tmp_path, Limits(max_queue=1000)) as engine:
        for name, state in told.items():
            assert engine.ticket(name).state == state
            for index in range(2):
                with Image.open(engine.file(name, index)) as image:
                    image.load()
        tickets = engine.tickets(Page(limit=10_000))
        assert {each.state for each in tickets} == {"completed", "interrupted"}
        for each in tickets:
            if each.state == "interrupted":
                assert each.outcome.trouble is not None
                assert each.outcome.trouble.code == "interrupted"
        again = [engine.resume(name) for name in engine.interrupted()[:3]]
        # all of them first: while one runs, the engine's thread alone may use the model
        lasts = [ended(engine, each) for each in again]
        assert {last.state for last in lasts} == {"completed"}
        for last in lasts:
            for index, request in enumerate(engine._archive.task(last.id).requests):
                assert_same(engine.file(last.id, index), loom, request)


def test_a_stop_in_the_middle_of_a_failing_archive_ends_all_the_same(
    loom: Loom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise no_room()

    archive = Archive(tmp_path)
    engine = Engine(lambda: loom, archive)
    engine.start()
    try:
        assert engine.settled(60)
        tickets = [engine.submit(task(picture(seed, steps=30))) for seed in range(3)]
        monkeypatch.setattr(archive, "save", fails)
        before = time.monotonic()
        engine.stop(patience=0.2)
        assert time.monotonic() - before < 10
        assert all(engine.ticket(each.id).ended for each in tickets)
    finally:
        engine.stop(patience=0.0)
        archive.close()
