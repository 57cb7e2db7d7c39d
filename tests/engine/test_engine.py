"""The engine on the embedded model: what is asked for is made, told, kept and measured."""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from loraloom import Canvas, Condition, Request
from loraloom.engine.archive import Archive, Page
from loraloom.engine.engine import Engine, Limits
from loraloom.engine.ticket import MOVES, Encoding, Event, Step, Task
from loraloom.engine.warm import small, warm_up
from loraloom.errors import (
    AdapterChangedError,
    InvalidRequestError,
    LoraloomError,
    NotReadyError,
    QueueFullError,
    ResultGoneError,
    UnknownAdapterError,
    UnknownTicketError,
)
from loraloom.pipelines import media

from .served import WIDE, Counts, Gate, ended, picture, serving, task, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loraloom import Loom


@pytest.fixture
def meter() -> Counts:
    return Counts()


@pytest.fixture
def engine(loom: Loom, tmp_path: Path, meter: Counts) -> Iterator[Engine]:
    with serving(loom, tmp_path, meter=meter) as engine:
        yield engine


@pytest.fixture
def gate(loom: Loom, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(loom)
    monkeypatch.setattr(loom, "run", gate.hold(loom.run))
    yield gate
    gate.opened.set()


def test_a_task_becomes_files_that_are_what_the_model_makes(engine: Engine, loom: Loom) -> None:
    requests = [picture(1), picture(2, neon=0.8), picture(3, neon=0.2, sketch=0.7)]
    last = ended(engine, engine.submit(task(*requests)))
    assert last.state == "completed"
    assert [output.seed for output in last.outcome.outputs] == [1, 2, 3]
    for index, request in enumerate(requests):
        path = engine.file(last.id, index)
        made = media.read_provenance(path)
        assert made.asked.seed == request.seed
        assert made.worn == last.outcome.outputs[index].worn
        assert [worn.name for worn in made.worn] == [lora.name for lora in request.loras]
        assert all(worn.digest == loom.adapters.get(worn.name).key.digest for worn in made.worn)
        (alone,) = loom.images([request])
        with Image.open(path) as image:
            one, other = np.asarray(image).astype(int), np.asarray(alone.frames[0]).astype(int)
        assert np.abs(one - other).max() <= 1


@pytest.mark.parametrize(
    ("encoding", "says"),
    [
        (Encoding("jpeg"), "JPEG"),
        (Encoding("jpeg", 30), "JPEG"),
        (Encoding("webp"), "WEBP"),
        (Encoding("webp", 30), "WEBP"),
    ],
)
def test_results_have_the_format_that_is_asked_for(
    encoding: Encoding, says: str, engine: Engine
) -> None:
    last = ended(engine, engine.submit(replace(task(), encoding=encoding)))
    with Image.open(engine.file(last.id, 0)) as image:
        assert image.format == says
    assert last.outcome.outputs[0].nbytes == engine.file(last.id, 0).stat().st_size


def test_a_video_with_its_first_image_becomes_an_mp4(engine: Engine, loom: Loom) -> None:
    shown = Condition(Image.new("RGB", (64, 64), "red"))
    asked = replace(picture(4, neon=0.5), canvas=Canvas(64, 64, 9, 16.0), conditions=(shown,))
    last = ended(engine, engine.submit(Task("video", "me", (asked,), Encoding("mp4"))))
    assert last.state == "completed", last
    path = engine.file(last.id, 0)
    assert len(media.load_frames(path, 99)[0]) == 9
    assert media.read_provenance(path).asked.images[0].digest == media.digest_of_image(shown.image)
    assert [each.name for each in path.parent.iterdir()] == ["0.mp4"]


def test_tickets_that_are_alike_run_together_whatever_they_wear(
    engine: Engine, meter: Counts, gate: Gate
) -> None:
    first = engine.submit(task(picture(0)))
    assert gate.reached.wait(60)
    others = [engine.submit(task(picture(i, neon=i / 9), owner=str(i))) for i in range(1, 6)]
    wide = engine.submit(task(picture(9, canvas=WIDE), owner="wide"))
    assert engine.status().waiting == 6
    assert engine.status().running == 1
    gate.opened.set()
    assert all(ended(engine, each).state == "completed" for each in (first, *others, wide))
    assert sorted(meter.batches) == [1, 1, 5]


def test_a_ticket_of_more_rows_than_run_together_runs_in_several_batches(
    loom: Loom, tmp_path: Path, meter: Counts
) -> None:
    with serving(loom, tmp_path, Limits(max_batch=2), meter=meter) as engine:
        steps: list[Step] = []

        def hear(event: Event) -> None:
            if event.ticket.step:
                steps.append(event.ticket.step)

        ticket = engine.submit(task(*(picture(seed) for seed in range(5))))
        engine.watch(ticket.id, hear)
        last = ended(engine, ticket)
    assert [output.seed for output in last.outcome.outputs] == [0, 1, 2, 3, 4]
    assert meter.batches == [2, 2, 1]
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert steps[-1] == Step(2, 2, "base")


def test_who_asks_for_little_does_not_wait_for_all_of_who_asks_for_much(
    loom: Loom, tmp_path: Path, gate: Gate
) -> None:
    with serving(loom, tmp_path, Limits(max_batch=2)) as engine:
        order: list[str] = []

        def hear(event: Event) -> None:
            if event.ticket.ended:
                order.append(event.ticket.owner)

        greedy = engine.submit(task(*(picture(seed, steps=2) for seed in range(8)), owner="greedy"))
        assert gate.reached.wait(60)
        modest = engine.submit(task(picture(9, canvas=WIDE), owner="modest"))
        for each in (greedy, modest):
            engine.watch(each.id, hear)
        assert engine.position(modest.id) is not None
        gate.opened.set()
        assert ended(engine, greedy).state == "completed"
        until(lambda: len(order) == 2)
        assert order == ["modest", "greedy"]


def test_events_come_in_order_from_the_first_to_the_last(engine: Engine, gate: Gate) -> None:
    ticket = engine.submit(task(picture(1, steps=4)))
    heard: list[Event] = []
    engine.watch(ticket.id, heard.append)
    gate.opened.set()
    last = ended(engine, ticket)
    until(lambda: heard[-1].ticket.ended)
    assert [event.number for event in heard] == list(range(1, len(heard) + 1))
    states = [event.ticket.state for event in heard]
    assert states == ["queued", *["running"] * (len(heard) - 2), "completed"]
    assert [event.ticket.step.done for event in heard if event.ticket.step] == [1, 2, 3, 4]
    assert heard[-1].ticket == last == engine.ticket(ticket.id)
    assert last.note == {"say": "so"}


@pytest.mark.parametrize("after", [0, 2, 4, 99])
def test_who_comes_back_hears_what_was_missed_and_nothing_twice(after: int, engine: Engine) -> None:
    ticket = engine.submit(task())
    heard: list[int] = []
    engine.watch(ticket.id, lambda event: heard.append(event.number))
    ended(engine, ticket)
    again: list[Event] = []
    engine.watch(ticket.id, again.append, after=after)
    last = heard[-1]
    if after < last:
        until(lambda: bool(again) and again[-1].ticket.ended)
    time.sleep(0.05)
    assert [event.number for event in again] == ([last] if after < last else [])


def test_who_watches_from_the_middle_hears_the_rest(engine: Engine, gate: Gate) -> None:
    ticket = engine.submit(task())
    assert gate.reached.wait(60)
    heard: list[int] = []
    engine.watch(ticket.id, lambda event: heard.append(event.number), after=1)
    gate.opened.set()
    ended(engine, ticket)
    until(lambda: len(heard) == 4)
    assert heard == [2, 3, 4, 5]


def test_who_is_slow_misses_steps_but_not_the_last_state_and_holds_up_nobody(
    engine: Engine,
) -> None:
    ticket = engine.submit(task(picture(1, steps=12)))
    heard: list[Event] = []
    go_on = threading.Event()

    def slow(event: Event) -> None:
        heard.append(event)
        assert go_on.wait(60)

    engine.watch(ticket.id, slow)
    until(lambda: engine.ticket(ticket.id).ended)
    go_on.set()
    until(lambda: heard[-1].ticket.ended)
    numbers = [event.number for event in heard]
    assert numbers == sorted(set(numbers))
    assert len(heard) <= 5


def test_who_stops_to_watch_hears_no_more(engine: Engine, gate: Gate) -> None:
    ticket = engine.submit(task())
    heard: list[Event] = []
    end = engine.watch(ticket.id, heard.append)
    assert gate.reached.wait(60)
    until(lambda: len(heard) == 2)
    end()
    gate.opened.set()
    ended(engine, ticket)
    assert len(heard) == 2


def test_a_cancelled_ticket_ends_at_once_and_the_others_of_its_batch_go_on(
    engine: Engine, gate: Gate, meter: Counts
) -> None:
    blocker = engine.submit(task(picture(0, canvas=WIDE)))
    assert gate.reached.wait(60)
    one, other, third = (engine.submit(task(picture(seed))) for seed in (1, 2, 3))
    gate.reached.clear()
    gate.opened.set()
    ended(engine, blocker)
    gate.opened.clear()
    assert gate.reached.wait(60)
    assert engine.cancel(one.id).state == "cancelled"
    assert engine.ticket(one.id).outcome.trouble is not None
    assert engine.cancel(one.id).state == "cancelled"
    gate.opened.set()
    assert ended(engine, other).state == ended(engine, third).state == "completed"
    assert ended(engine, one).state == "cancelled"
    assert sum(meter.batches) == 4


def test_a_run_that_nobody_waits_for_ends_after_its_step(engine: Engine, gate: Gate) -> None:
    ticket = engine.submit(task(picture(0, steps=50)))
    assert gate.reached.wait(60)
    engine.cancel(ticket.id)
    gate.opened.set()
    before = time.monotonic()
    assert ended(engine, engine.submit(task())).state == "completed"
    assert time.monotonic() - before < 3
    assert not any(model.applied.live for model in engine.loom.models)


def test_a_ticket_that_waits_is_cancelled_without_a_run(
    engine: Engine, gate: Gate, meter: Counts
) -> None:
    engine.submit(task())
    assert gate.reached.wait(60)
    waits = engine.submit(task(picture(1, neon=1.0), picture(2)))
    assert engine.position(waits.id) == 0
    assert engine.cancel(waits.id).state == "cancelled"
    assert engine.position(waits.id) is None
    assert engine.status().waiting == 0
    assert engine.loom.adapters.users("neon") == 0
    gate.opened.set()
    assert ended(engine, engine.submit(task())).state == "completed"
    assert sum(meter.batches) == 2


@pytest.mark.parametrize("waits", [False, True])
def test_what_takes_longer_than_it_may_fails_wherever_it_is(
    waits: bool, engine: Engine, gate: Gate
) -> None:
    if waits:
        engine.submit(task(owner="other"))
        assert gate.reached.wait(60)
    late = engine.submit(task(picture(1, steps=20), timeout=0.3))
    last = ended(engine, late)
    assert last.state == "failed"
    assert last.outcome.trouble is not None
    assert last.outcome.trouble.code == "timeout"
    assert last.times.ended is not None
    assert 0.3 <= last.times.ended - last.times.created < 2
    gate.opened.set()
    assert ended(engine, engine.submit(task())).state == "completed"


def test_nobody_may_take_longer_than_the_limit(loom: Loom, tmp_path: Path, gate: Gate) -> None:
    with serving(loom, tmp_path, Limits(timeout=0.3)) as engine:
        last = ended(engine, engine.submit(task(timeout=500.0)))
        assert last.outcome.trouble is not None
        assert last.outcome.trouble.message == "the job was not done within 0.3 seconds"
        gate.opened.set()


def test_a_full_queue_says_so_but_lets_in_who_has_nothing_there(
    loom: Loom, tmp_path: Path, gate: Gate
) -> None:
    with serving(loom, tmp_path, Limits(max_queue=2)) as engine:
        engine.submit(task())
        assert gate.reached.wait(60)
        for _ in range(2):
            engine.submit(task())
        with pytest.raises(QueueFullError, match="2 jobs are waiting") as caught:
            engine.submit(task(picture(1, neon=1.0)))
        assert 1 <= caught.value.retry_after <= 60
        other = engine.submit(task(owner="other"))
        with pytest.raises(QueueFullError):
            engine.submit(task(owner="other"))
        assert len(engine.tickets(Page())) == 4
        assert engine.loom.adapters.users("neon") == 0
        gate.opened.set()
        assert ended(engine, other).state == "completed"


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        (task(picture(1, neom=1.0)), UnknownAdapterError, "did you mean 'neon'"),
        (task(replace(picture(), prompt=" ")), InvalidRequestError, "a prompt is empty"),
        (task(*[picture()] * 65), InvalidRequestError, "65 results are asked for at once"),
        (replace(task(), requests=()), InvalidRequestError, "0 results are asked for at once"),
        (task(picture(canvas=Canvas(64, 64, 9))), InvalidRequestError, "a picture wants 1"),
        (replace(task(), kind="video"), InvalidRequestError, "frames is 1, a video wants several"),
        (task(picture(steps=99)), InvalidRequestError, "64x64 in 99 steps are 405504 pixels"),
    ],
)
def test_what_the_model_cannot_do_is_refused_and_nothing_is_queued(
    asked: Task, error: type[LoraloomError], says: str, loom: Loom, tmp_path: Path
) -> None:
    with serving(loom, tmp_path, Limits(work=64 * 64 * 20)) as engine:
        with pytest.raises(error, match=says):
            engine.submit(asked)
        assert engine.tickets(Page()) == []
        assert engine.status().waiting == 0
        assert ended(engine, engine.submit(task())).state == "completed"


def test_a_deleted_ticket_is_unknown_and_its_files_are_gone(
    engine: Engine, gate: Gate, tmp_path: Path
) -> None:
    running = engine.submit(task())
    assert gate.reached.wait(60)
    engine.delete(running.id)
    gate.opened.set()
    last = ended(engine, engine.submit(task()))
    engine.delete(last.id)
    for each in (running, last):
        for ask in (engine.ticket, engine.cancel, engine.delete, engine.resume):
            with pytest.raises(UnknownTicketError):
                ask(each.id)
        with pytest.raises(UnknownTicketError):
            engine.file(each.id, 0)
        with pytest.raises(UnknownTicketError):
            engine.watch(each.id, print)
    until(lambda: not list((tmp_path / "jobs").iterdir()))


def test_tickets_are_listed_as_they_are_now(engine: Engine, gate: Gate) -> None:
    first = engine.submit(task(owner="a"))
    assert gate.reached.wait(60)
    second = engine.submit(task(owner="b"))
    assert [(each.id, each.state) for each in engine.tickets(Page())] == [
        (second.id, "queued"),
        (first.id, "running"),
    ]
    assert [each.id for each in engine.tickets(Page(owner="a", kind="images"))] == [first.id]
    gate.opened.set()
    ended(engine, second)


def test_results_expire_by_age(loom: Loom, tmp_path: Path, meter: Counts) -> None:
    limits = Limits(max_age=0.4, grace=0.0)
    with serving(loom, tmp_path, limits, meter=meter) as engine:
        last = ended(engine, engine.submit(task()))
        assert engine.file(last.id, 0).exists()
        until(lambda: engine.ticket(last.id).state == "expired")
        with pytest.raises(ResultGoneError):
            engine.file(last.id, 0)
        until(lambda: engine.tickets(Page()) == [])
        assert list((tmp_path / "jobs").iterdir()) == []
    assert meter.states == ["queued", "running", "completed", "expired"]


def test_results_expire_by_bytes_the_oldest_first(loom: Loom, tmp_path: Path) -> None:
    with serving(loom, tmp_path, Limits(max_bytes=15_000, grace=0.2)) as engine:
        made = [ended(engine, engine.submit(task(picture(seed)))) for seed in range(4)]
        assert all(each.outcome.outputs[0].nbytes > 4000 for each in made)
        engine._keeper._retention = replace(engine._keeper._retention, grace=0.0)
        engine._keeper.sweep()
        states = [engine.ticket(each.id).state for each in made]
        kept = [each for each in made if engine.ticket(each.id).state == "completed"]
        assert states == ["expired"] * (4 - len(kept)) + ["completed"] * len(kept)
        assert 0 < sum(each.outcome.outputs[0].nbytes for each in kept) <= 15_000


def test_where_the_time_went_is_told_and_measured(
    engine: Engine, meter: Counts, gate: Gate
) -> None:
    engine.submit(task(owner="other"))
    assert gate.reached.wait(60)
    ticket = engine.submit(task(picture(1, steps=3, neon=0.5)))
    time.sleep(0.2)
    gate.opened.set()
    last = ended(engine, ticket)
    spent, times = last.outcome.spent, last.times
    assert times.started is not None
    assert times.ended is not None
    assert spent.queue == pytest.approx(times.started - times.created, abs=0.1)
    assert spent.queue >= 0.2
    assert min(spent.steps, spent.decode, spent.encode, spent.switch) > 0
    whole = times.ended - times.started
    assert 0.5 * whole <= spent.load + spent.switch + spent.steps + spent.decode <= 1.05 * whole
    assert len(meter.seconds["stepped"]) == 5
    assert len(meter.seconds["queued"]) == len(meter.seconds["encoded"]) == 2
    assert len(meter.seconds["loaded"]) == 2
    assert meter.seconds["switched live"]
    assert sorted(meter.states) == ["completed"] * 2 + ["queued"] * 2 + ["running"] * 2


def test_a_version_that_is_replaced_while_a_ticket_waits_is_worn_all_the_same(
    engine: Engine, gate: Gate, loom: Loom
) -> None:
    loom.adapters.add("turning", loom.card.adapters["neon"])
    before = loom.adapters.get("turning").key
    engine.submit(task())
    assert gate.reached.wait(60)
    waits = engine.submit(task(picture(1, turning=1.0)))
    loom.adapters.add("turning", loom.card.adapters["sketch"])
    gate.opened.set()
    last = ended(engine, waits)
    assert last.outcome.outputs[0].worn[0].digest == before.digest
    until(lambda: loom.adapters.users("turning") == 0)
    loom.adapters.withdraw("turning")


def test_adapters_are_brought_to_the_device_while_a_job_waits(
    engine: Engine, gate: Gate, loom: Loom
) -> None:
    key = loom.adapters.get("sketch").key
    for model in loom.models:
        model.wardrobe.clear()
    first = engine.submit(task(picture(0, steps=3)))
    assert gate.reached.wait(60)
    waits = engine.submit(task(picture(1, canvas=WIDE, sketch=1.0)))
    until(lambda: key in loom.adapters.by_key)
    seen: list[bool] = []
    engine.watch(first.id, lambda _: seen.append(key in loom.on_device()))
    gate.opened.set()
    ended(engine, first)
    assert seen[-1]
    assert ended(engine, waits).state == "completed"


def test_an_engine_takes_nothing_before_it_is_ready(loom: Loom, tmp_path: Path) -> None:
    wait = threading.Event()

    def load() -> Loom:
        assert wait.wait(60)
        return loom

    archive = Archive(tmp_path)
    engine = Engine(load, archive)
    engine.start()
    try:
        assert not engine.settled(0.05)
        assert not engine.ready
        with pytest.raises(NotReadyError, match="being loaded"):
            engine.submit(task())
        wait.set()
        assert engine.settled(60)
        assert engine.ready
        assert engine.loom is loom
        assert ended(engine, engine.submit(task())).state == "completed"
    finally:
        engine.stop(patience=20)
        archive.close()
    with pytest.raises(NotReadyError, match="takes no more"):
        engine.submit(task())
    assert not engine.ready


def test_a_warm_up_wears_an_adapter_and_is_small(
    loom: Loom, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Request] = []
    run = loom.run

    def seen(jobs: list[object], **how: object) -> object:
        asked.extend(job.request for job in jobs)  # type: ignore[attr-defined]
        return run(jobs, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(loom, "run", seen)
    warm_up(loom)
    assert [len(each.loras) for each in asked] == [0, 1]
    assert all(each.canvas == Canvas(64, 64) for each in asked)
    assert small(loom.card).sampling is not None


@pytest.mark.parametrize("where", ["load", "warm"])
def test_a_model_that_cannot_be_served_is_told_and_never_ready(
    where: str, loom: Loom, tmp_path: Path
) -> None:
    def fail(*_: object) -> Loom:
        raise MemoryError("no room for it")

    archive = Archive(tmp_path)
    engine = Engine(fail if where == "load" else lambda: loom, archive)
    engine.start(warm=fail)  # type: ignore[arg-type]
    try:
        assert engine.settled(60)
        assert not engine.ready
        assert engine.failure == "MemoryError: no room for it"
        with pytest.raises(NotReadyError, match="cannot be loaded"):
            engine.submit(task())
    finally:
        engine.stop(patience=20)
        archive.close()


def test_a_bad_adapter_does_not_spoil_the_warm_up(
    loom: Loom, monkeypatch: pytest.MonkeyPatch
) -> None:
    worn: list[str] = []
    run = loom.run

    def seen(jobs: list[object], **how: object) -> object:
        names = [lora.name for job in jobs for lora in job.request.loras]  # type: ignore[attr-defined]
        if names and not worn:
            worn.extend(names)
            raise AdapterChangedError("its file is gone")
        worn.extend(names)
        return run(jobs, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(loom, "run", seen)
    warm_up(loom)
    assert len(worn) == 2


def test_a_clean_stop_finishes_what_runs_and_hands_back_what_waits(
    loom: Loom, tmp_path: Path, gate: Gate
) -> None:
    with serving(loom, tmp_path, Limits(max_batch=1)) as engine:
        running = engine.submit(task(picture(1), picture(2)))
        assert gate.reached.wait(60)
        waits = engine.submit(task(picture(3, neon=0.5)))
        threading.Timer(0.2, gate.opened.set).start()
        engine.stop(patience=30)
        assert engine.ticket(running.id).state == "completed"
        last = engine.ticket(waits.id)
        assert last.state == "interrupted"
        assert last.outcome.trouble is not None
        assert last.outcome.trouble.code == "interrupted"
        heard: list[Event] = []
        engine.watch(waits.id, heard.append)
        assert [event.ticket.state for event in heard] == ["interrupted"]


def test_a_stop_without_patience_ends_after_a_step(loom: Loom, tmp_path: Path, gate: Gate) -> None:
    with serving(loom, tmp_path) as engine:
        running = engine.submit(task(picture(1, steps=60)))
        assert gate.reached.wait(60)
        threading.Timer(0.3, gate.opened.set).start()
        before = time.monotonic()
        engine.stop(patience=0.1)
        assert time.monotonic() - before < 5
        assert engine.ticket(running.id).state == "interrupted"


def test_a_second_stop_is_at_once(loom: Loom, tmp_path: Path, gate: Gate) -> None:
    with serving(loom, tmp_path) as engine:
        running = engine.submit(task(picture(1, steps=60)))
        assert gate.reached.wait(60)
        first = threading.Thread(target=lambda: engine.stop(patience=600))
        first.start()
        time.sleep(0.1)
        assert first.is_alive()
        before = time.monotonic()
        engine.stop(patience=600)
        first.join(5)
        assert not first.is_alive()
        assert time.monotonic() - before < 2, "the step under way is not waited for"
        assert engine.ticket(running.id).state == "interrupted"
        gate.opened.set()
        until(lambda: not engine._worker._thread.is_alive())  # type: ignore[union-attr]


def test_what_was_interrupted_runs_again_with_the_same_result(
    loom: Loom, tmp_path: Path, gate: Gate
) -> None:
    loom.adapters.add("steady", loom.card.adapters["neon"])
    shown = Condition(Image.linear_gradient("L").convert("RGB").resize((64, 64)), 0, 0.5)
    clip = replace(picture(5, steady=0.7), canvas=Canvas(64, 64, 5, 16.0), conditions=(shown,))
    asked = Task("video", "me", (clip,), Encoding("mp4"), {"say": "so"}, 60.0)
    with serving(loom, tmp_path) as engine:
        gate.opened.set()
        want = ended(engine, engine.submit(asked))
        whole = engine.file(want.id, 0).read_bytes()
        gate.opened.clear()
        gate.reached.clear()
        running = engine.submit(asked)
        assert gate.reached.wait(60)
        threading.Timer(0.2, gate.opened.set).start()
        engine.stop(patience=0.0)
        assert engine.ticket(running.id).state == "interrupted"
    gate.opened.set()
    with serving(loom, tmp_path) as engine:
        assert engine.interrupted() == [running.id]
        assert engine.file(want.id, 0).read_bytes() == whole
        again = engine.resume(running.id)
        assert (again.state, again.note, again.id) == ("queued", {"say": "so"}, running.id)
        last = ended(engine, again)
        assert last.state == "completed", last
        assert engine.file(last.id, 0).read_bytes() == whole
        assert last.outcome.outputs == want.outcome.outputs
        with pytest.raises(InvalidRequestError, match="is completed, want one that was interr"):
            engine.resume(running.id)
    loom.adapters.withdraw("steady")


def test_what_runs_again_wears_the_version_of_before(
    loom: Loom, tmp_path: Path, gate: Gate
) -> None:
    old = loom.adapters.add("fleeting", loom.card.adapters["neon"]).key
    with serving(loom, tmp_path) as engine:
        engine.submit(task())
        assert gate.reached.wait(60)
        waits = engine.submit(task(picture(1, fleeting=1.0)))
        gate.opened.set()
        engine.stop(patience=20)
    loom.adapters.add("fleeting", loom.card.adapters["sketch"])
    with serving(loom, tmp_path) as engine:
        last = ended(engine, engine.resume(waits.id))
        assert last.outcome.outputs[0].worn[0].digest == old.digest
    loom.adapters.withdraw("fleeting")


def test_what_wore_an_adapter_that_was_withdrawn_does_not_run_again(
    loom: Loom, tmp_path: Path, gate: Gate
) -> None:
    loom.adapters.add("fleeting", loom.card.adapters["neon"])
    with serving(loom, tmp_path) as engine:
        engine.submit(task())
        assert gate.reached.wait(60)
        waits = engine.submit(task(picture(1, fleeting=1.0)))
        gate.opened.set()
        engine.stop(patience=20)
    loom.adapters.withdraw("fleeting")
    with serving(loom, tmp_path) as engine:
        with pytest.raises(AdapterChangedError, match="wore a version of adapter 'fleeting'"):
            engine.resume(waits.id)
        assert engine.ticket(waits.id).state == "interrupted"


def test_numbers_of_events_go_on_after_a_restart(loom: Loom, tmp_path: Path, gate: Gate) -> None:
    """Steps are not kept on disk, and who heard of them must hear what comes after."""
    heard: list[int] = []
    with serving(loom, tmp_path / "first") as engine:
        running = engine.submit(task(picture(1, steps=20)))
        engine.watch(running.id, lambda event: heard.append(event.number))
        gate.opened.set()
        until(lambda: len(heard) > 5)
        shutil.copytree(tmp_path / "first", tmp_path / "second")  # as a kill would leave it
        engine.cancel(running.id)
    with serving(loom, tmp_path / "second") as engine:
        again: list[Event] = []
        engine.watch(running.id, again.append, after=max(heard))
        until(lambda: bool(again))
        assert again[-1].ticket.state == "interrupted"


def test_every_state_is_in_the_table_and_what_has_ended_stays_so() -> None:
    assert {after for moves in MOVES.values() for after in moves} | {"queued"} == set(MOVES)
    assert all(not MOVES[state] for state in ("failed", "cancelled", "expired"))


def test_an_unknown_page_is_an_error(engine: Engine) -> None:
    with pytest.raises(UnknownTicketError):
        engine.tickets(Page(after="nothing"))


def test_many_threads_submit_and_cancel_at_once(loom: Loom, tmp_path: Path) -> None:
    with serving(loom, tmp_path, Limits(max_queue=500)) as engine:
        names: list[str] = []

        def ask(owner: int) -> None:
            for index in range(6):
                ticket = engine.submit(task(picture(index, neon=index % 2), owner=str(owner)))
                names.append(ticket.id)
                if index % 3 == 2:
                    engine.cancel(ticket.id)

        threads = [threading.Thread(target=ask, args=(owner,)) for owner in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        states = [ended(engine, engine.ticket(name)).state for name in names]
        assert states.count("cancelled") <= 8
        assert states.count("completed") >= 16
        assert len(set(names)) == 24
        until(lambda: loom.adapters.users("neon") == 0)
