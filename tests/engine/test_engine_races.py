"""What two threads do to one job at the same moment leaves the engine whole."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from loraloom import Loom, Means
from loraloom.engine import press
from loraloom.engine.crier import Crier, Watcher
from loraloom.engine.engine import Limits
from loraloom.engine.ticket import Event, Ticket, Times
from loraloom.errors import (
    InvalidRequestError,
    MediaError,
    QueueFullError,
    UnknownAdapterError,
    UnknownTicketError,
)
from loraloom.models import find
from loraloom.store.catalog import Catalog
from loraloom.store.shelf import Shelf

from .served import WIDE, Gate, ended, picture, serving, task, until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from loraloom.core.mix import AdapterKey
    from loraloom.engine.engine import Engine
    from loraloom.engine.ticket import Task
    from loraloom.store.claim import Claim


@pytest.fixture
def engine(loom: Loom, tmp_path: Path) -> Iterator[Engine]:
    with serving(loom, tmp_path) as engine:
        yield engine


@pytest.fixture
def gate(loom: Loom, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(loom)
    monkeypatch.setattr(loom, "run", gate.hold(loom.run))
    yield gate
    gate.opened.set()


def test_a_job_that_is_deleted_while_its_run_fails_leaves_the_worker(
    engine: Engine, loom: Loom, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted, deleted = threading.Event(), threading.Event()
    found: list[str] = []

    def fails(*_: object, **__: object) -> None:
        assert submitted.wait(60)
        engine.delete(found[0])
        deleted.set()
        raise MemoryError

    with monkeypatch.context() as during:
        during.setattr(loom, "run", fails)
        found.append(engine.submit(task()).id)
        submitted.set()
        assert deleted.wait(60)
    assert ended(engine, engine.submit(task())).state == "completed"


def test_jobs_that_are_deleted_while_they_are_written_leave_the_press(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: dict[str, threading.Event] = {}

    def broken(_result: object, path: Path, *_: object) -> None:
        engine.delete(path.parent.name)
        known[path.parent.name].set()
        raise MediaError("its folder is gone")

    with monkeypatch.context() as during:
        during.setattr(press, "write", broken)
        for _ in range(press.THREADS + 1):
            known.clear()
            written = threading.Event()
            known[engine.submit(task(picture(steps=8))).id] = written
            assert written.wait(60)
    assert ended(engine, engine.submit(task())).state == "completed"


def test_a_job_that_is_deleted_when_its_turn_comes_leaves_the_worker(
    engine: Engine, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.submit(task())
    assert gate.reached.wait(60)
    gone = engine.submit(task(picture(1, canvas=WIDE)))
    begin = engine._desk.begin

    def late(rows: Iterable[object], meter: object) -> None:
        if gone.id in engine._desk._errands:
            engine.delete(gone.id)
        begin(rows, meter)  # type: ignore[arg-type]

    monkeypatch.setattr(engine._desk, "begin", late)
    gate.opened.set()
    assert ended(engine, engine.submit(task())).state == "completed"


def test_jobs_that_are_deleted_when_they_are_late_or_expire_leave_the_keeper(
    loom: Loom, tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(loom, tmp_path, Limits(timeout=0.5, max_age=0.5, grace=0.0)) as engine:
        board = engine._desk.board
        move, gone = board.move, []

        def deleted(ticket: str, state: str, *how: object) -> object:
            if state in ("failed", "expired") and ticket not in gone:
                gone.append(ticket)
                engine.delete(ticket)
            return move(ticket, state, *how)  # type: ignore[arg-type]

        gate.opened.set()
        expires = ended(engine, engine.submit(task()))
        gate.opened.clear()
        gate.reached.clear()
        monkeypatch.setattr(board, "move", deleted)
        late = engine.submit(task())
        until(lambda: {expires.id, late.id} <= set(gone))
        monkeypatch.setattr(board, "move", move)
        gate.opened.set()
        last = ended(engine, engine.submit(task()))
        until(lambda: last.id not in {each.ticket for each in engine._archive.kept()})


def test_a_stop_while_jobs_are_deleted_ends_all_the_same(
    loom: Loom, tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(loom, tmp_path) as engine:
        engine.submit(task())
        assert gate.reached.wait(60)
        waits = engine.submit(task())
        board = engine._desk.board
        state = board.state

        def deleted(ticket: str) -> object:
            if ticket == waits.id and ticket in engine._desk._errands:
                engine.delete(ticket)
            return state(ticket)

        monkeypatch.setattr(board, "state", deleted)
        threading.Timer(0.1, gate.opened.set).start()
        engine.stop(patience=20)
        with pytest.raises(UnknownTicketError):
            engine.ticket(waits.id)


def test_a_job_that_is_cancelled_before_it_waits_leaves_nothing_behind(
    engine: Engine, loom: Loom, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = engine._desk.put

    def late(errand: object, rows: object) -> None:
        engine.cancel(errand.id)  # type: ignore[attr-defined]
        put(errand, rows)  # type: ignore[arg-type]

    with monkeypatch.context() as during:
        during.setattr(engine._desk, "put", late)
        ticket = engine.submit(task(picture(1, neon=1.0)))
    assert ended(engine, ticket).state == "cancelled"
    until(lambda: engine.status().running == engine.status().waiting == 0)
    until(lambda: loom.adapters.users("neon") == 0)


def test_a_job_wears_the_new_version_of_what_is_replaced_when_it_is_admitted(
    engine: Engine, loom: Loom, monkeypatch: pytest.MonkeyPatch
) -> None:
    loom.adapters.add("turning", loom.card.adapters["neon"])
    claim = loom.adapters.claim

    def late(keys: Iterable[AdapterKey]) -> Claim:
        monkeypatch.setattr(loom.adapters, "claim", claim)
        loom.adapters.add("turning", loom.card.adapters["sketch"])
        return claim(keys)

    monkeypatch.setattr(loom.adapters, "claim", late)
    last = ended(engine, engine.submit(task(picture(1, turning=1.0))))
    assert last.outcome.outputs[0].worn[0].digest == loom.adapters.get("turning").key.digest
    until(lambda: loom.adapters.users("turning") == 0)
    monkeypatch.setattr(loom.adapters, "claim", late)
    monkeypatch.setattr(loom.adapters, "add", lambda name, _: loom.adapters.withdraw(name))
    with pytest.raises(UnknownAdapterError):
        engine.submit(task(picture(1, turning=1.0)))


def interrupted(loom: Loom, folder: Path, gate: Gate, *asked: Task) -> list[Ticket]:
    """Tickets that waited when an engine stopped."""
    with serving(loom, folder) as engine:
        engine.submit(task(picture(canvas=WIDE)))
        assert gate.reached.wait(60)
        tickets = [engine.submit(each) for each in asked]
        gate.opened.set()
        engine.stop(patience=20)
        return [engine.ticket(each.id) for each in tickets]


def test_all_that_was_interrupted_runs_again_however_many_may_wait(
    loom: Loom, tmp_path: Path, gate: Gate
) -> None:
    tickets = interrupted(loom, tmp_path, gate, *(task(picture(seed)) for seed in range(3)))
    gate.opened.clear()
    gate.reached.clear()
    with serving(loom, tmp_path, Limits(max_queue=1)) as engine:
        engine.submit(task(picture(canvas=WIDE)))
        assert gate.reached.wait(60)
        again = [engine.resume(each.id) for each in tickets]
        with pytest.raises(QueueFullError):
            engine.submit(task())
        gate.opened.set()
        assert {ended(engine, each).state for each in again} == {"completed"}


def test_what_was_interrupted_and_is_cancelled_does_not_run_again(
    loom: Loom, tmp_path: Path, gate: Gate
) -> None:
    (ticket,) = interrupted(loom, tmp_path, gate, task())
    with serving(loom, tmp_path) as engine:
        assert engine.interrupted() == [ticket.id]
        assert engine.cancel(ticket.id).state == "cancelled"
        assert engine.interrupted() == []
        with pytest.raises(InvalidRequestError, match="is cancelled"):
            engine.resume(ticket.id)


def test_a_version_that_was_replaced_outlives_a_process_whose_jobs_wear_it(
    tmp_path: Path,
) -> None:
    state, asked = tmp_path / "state", task(picture(1, mine=1.0))
    card = find.card("mini")
    with closing(Shelf(state / "adapters.sqlite")) as shelf:
        catalog = Catalog(find.name_table(card), shelf=shelf)
        old = catalog.publish("mine", card.adapters["neon"]).key
        with serving(Loom.load(means=Means(catalog=catalog)), state) as engine:
            waits = engine.submit(asked)
            engine.stop(patience=0.0)
            catalog.publish("mine", card.adapters["sketch"])
            catalog.close()
            assert engine.ticket(waits.id).state == "interrupted"
    with closing(Shelf(state / "adapters.sqlite")) as shelf:
        catalog = Catalog(find.name_table(card), shelf=shelf)
        with serving(Loom.load(means=Means(catalog=catalog)), state) as engine:
            last = ended(engine, engine.resume(waits.id))
            assert last.outcome.outputs[0].worn[0].digest == old.digest
            until(lambda: catalog.users("mine") == 0)
            catalog.close()
    with closing(Shelf(state / "adapters.sqlite")) as shelf:
        catalog = Catalog(find.name_table(card), shelf=shelf)
        with serving(Loom.load(means=Means(catalog=catalog)), state):
            assert old not in {each.key for each in catalog.everything()}
        catalog.close()


def test_what_is_told_while_the_crier_ends_is_told_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crier, heard = Crier(), list[Event]()
    crier.start()
    due = crier._due

    class Late:
        """The crier ends before what is told has come to it."""

        get, get_nowait = due.get, due.get_nowait

        def put(self, watcher: Watcher | None) -> None:
            if watcher is not None and not heard:
                due.put(None)
                assert crier._thread
                crier._thread.join(10)
            due.put(watcher)

    monkeypatch.setattr(crier, "_due", Late())
    ticket = Ticket("a", "images", "me", "png", "queued", Times(0.0))
    for number in (1, 2):
        crier.tell(Watcher(heard.append), [Event(number, ticket)])
    assert [event.number for event in heard] == [1, 2]
    crier.close(0.0)
