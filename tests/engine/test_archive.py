"""Tickets and results on disk: whole, found again, run again, and gone when they are to be."""

from __future__ import annotations

import errno
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from loraloom.core.lora import LIVE, Lora
from loraloom.core.mix import Scope
from loraloom.core.provenance import Asked, Provenance, Versions, Worn
from loraloom.core.request import Canvas, Condition, Reference, Request
from loraloom.core.schedule import Curve
from loraloom.core.stage import Guidance, Guides, Sigmas, Stage
from loraloom.engine.archive import Archive, Kept, Page
from loraloom.engine.keeper import Retention, too_much
from loraloom.engine.record import read_task, read_ticket, write_task, write_ticket
from loraloom.engine.ticket import (
    Encoding,
    Event,
    Outcome,
    Output,
    Spent,
    Task,
    Ticket,
    Times,
    Trouble,
)
from loraloom.errors import MediaError, RecordError, ResultGoneError, SettingsError
from loraloom.errors import UnknownTicketError as Unknown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loraloom.engine.ticket import Kind, State


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    opened = Archive(tmp_path)
    yield opened
    opened.close()


def image(color: str) -> Image.Image:
    return Image.linear_gradient("L").resize((32, 24)).convert("RGB").rotate(len(color) * 9)


def request(**changes: object) -> Request:
    asked = Request(
        prompt='a "red" star, ☃\n',
        seed=2**62 + 1,
        negative_prompt="",
        canvas=Canvas(64, 48, 9, 16.0),
        stages=(
            Stage("base", Sigmas(4), 0.5, guidance=Guidance(Guides(cfg=3.5)), wears=(Lora("d"),)),
            Stage("refine", Sigmas(given=(0.9, 0.4)), solver="res2s"),
        ),
        audio=False,
        loras=(
            Lora("neon", -0.5, Curve.window(0.0, 0.5), (Scope("*.attn1.*", 0.25),), LIVE),
            Lora("sketch", stages=(0.5, 1.0), target="transformer", version="ab" * 32),
        ),
    )
    return replace(asked, **changes)  # type: ignore[arg-type]


def task(*requests: Request, owner: str = "me", kind: Kind = "images") -> Task:
    note = {"prompt": "☃", "loras": [{"name": "neon"}], "n": None}
    return Task(kind, owner, requests or (request(),), Encoding("jpeg", 80), note, 30.0)


def ticket(name: str, asked: Task) -> Ticket:
    return Ticket(
        name, asked.kind, asked.owner, "jpeg", "queued", Times(100.0), note=dict(asked.note)
    )


def begun(archive: Archive, name: str, asked: Task | None = None) -> Ticket:
    asked = asked or task()
    first = ticket(name, asked)
    archive.add(Event(1, first), asked)
    return first


def done(archive: Archive, name: str, ended: float = 200.0, nbytes: int = 10) -> Ticket:
    """A ticket with one result of so many bytes."""
    path = archive.place(name, 0, "jpeg")
    path.write_bytes(b"x" * nbytes)
    worn = (Worn("neon", "ab" * 32, -0.5, 60, Curve.window(0, 1), stages=(0.5, 1.0)),)
    outcome = Outcome((Output(path.name, nbytes, 7, worn),), spent=Spent(1.0, 2.0, encode=0.5))
    last = replace(
        begun(archive, name), state="completed", times=Times(100.0, 150.0, ended), outcome=outcome
    )
    archive.save([Event(5, last)])
    return last


def test_a_ticket_survives_its_json(archive: Archive) -> None:
    last = done(archive, "a" * 32)
    assert read_ticket(write_ticket(last)) == last
    failed = replace(last, state="failed", outcome=Outcome(trouble=Trouble("timeout", "late")))
    assert read_ticket(write_ticket(failed)) == failed


def test_a_task_is_read_as_it_was_written_with_all_its_images(archive: Archive) -> None:
    first, last = image("red"), image("green")
    shown = request(
        conditions=(Condition(first, 0, 0.5, (last, first)), Condition(last, -1)),
        references=(Reference((first, last), 0.5, 2, 0.25),),
    )
    asked = task(shown, request(seed=1))
    begun(archive, "a", asked)
    again = archive.task("a")
    plain, wanted = (
        [replace(each, conditions=(), references=()) for each in of.requests]
        for of in (again, asked)
    )
    assert plain == wanted
    assert (again.kind, again.owner, again.encoding, again.note, again.timeout) == (
        asked.kind,
        asked.owner,
        asked.encoding,
        asked.note,
        asked.timeout,
    )
    for got, want in zip(again.requests[0].conditions, shown.conditions, strict=True):
        assert (got.frame, got.strength) == (want.frame, want.strength)
        pictures = zip((got.image, *got.following), (want.image, *want.following), strict=True)
        assert all(one.tobytes() == other.tobytes() for one, other in pictures)
    (glance,) = again.requests[0].references
    assert [each.tobytes() for each in glance.frames] == [first.tobytes(), last.tobytes()]
    assert (glance.strength, glance.downscale, glance.attention) == (0.5, 2, 0.25)


def test_an_image_that_several_requests_show_is_written_once() -> None:
    shown = image("red")
    asked = task(*(request(conditions=(Condition(shown),), seed=seed) for seed in range(5)))
    assert len(write_task(asked).images) == 1


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"value": {}, "note": {}}', '{"value": 3}'])
def test_what_is_no_record_is_an_error(text: str) -> None:
    for read in (read_ticket, lambda words: read_task(words, lambda _: image("red"))):
        with pytest.raises(RecordError):
            read(text)


def test_what_is_saved_last_is_found_also_by_the_next_process(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    last = done(archive, "a")
    begun(archive, "b")
    archive.close()
    archive = Archive(tmp_path)
    assert archive.find("a") == Event(5, last)
    assert archive.find("b").number == 1
    assert archive.of("queued", "running") == ["b"]
    assert archive.file(last, 0).read_bytes() == b"x" * 10
    archive.close()


def test_what_is_not_there_is_unknown(archive: Archive) -> None:
    for ask in (archive.find, archive.task, lambda name: archive.page(Page(after=name))):
        with pytest.raises(Unknown, match="there is no job 'zz'"):
            ask("zz")


def test_pages_follow_each_other_by_kind_and_owner(archive: Archive) -> None:
    for index in range(12):
        owner, kind = ("me", "you")[index % 2], ("images", "video")[index % 3 == 0]
        begun(archive, f"t{index}", task(owner=owner, kind=kind))  # type: ignore[arg-type]

    def names(**wanted: object) -> list[str]:
        return [each.id for each in archive.page(Page(**wanted))]  # type: ignore[arg-type]

    assert names(limit=3) == ["t11", "t10", "t9"]
    assert names(limit=3, after="t9") == ["t8", "t7", "t6"]
    assert names(owner="me") == ["t10", "t8", "t6", "t4", "t2", "t0"]
    assert names(owner="me", kind="video", order="asc") == ["t0", "t6"]
    assert names(order="asc", after="t9") == ["t10", "t11"]
    assert names(after="t0") == []


def test_a_folder_is_for_one_process_at_a_time(tmp_path: Path, archive: Archive) -> None:
    with pytest.raises(SettingsError, match="is in use by another process"):
        Archive(tmp_path)
    assert archive.page(Page()) == []


@pytest.mark.parametrize("content", [b"nothing of SQLite's" * 99, None])
def test_a_folder_that_cannot_be_used_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    folder = tmp_path / "state"
    if content is None:
        folder.touch()
    else:
        folder.mkdir()
        (folder / "jobs.sqlite").write_bytes(content)
    with pytest.raises(SettingsError, match="state cannot be used"):
        Archive(folder)


def test_an_archive_of_another_version_is_left_alone(tmp_path: Path) -> None:
    Archive(tmp_path).close()
    with sqlite3.connect(tmp_path / "jobs.sqlite") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(SettingsError, match=r"is of version 99, this Loraloom knows 1"):
        Archive(tmp_path)


def test_files_that_no_row_speaks_of_are_swept_away(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    last = done(archive, "whole")
    (tmp_path / "jobs" / "whole" / ".ab12-1.jpg").write_bytes(b"half")
    begun(archive, "cut", task(request(conditions=(Condition(image("red")),))))
    archive.place("cut", 0, "jpeg").write_bytes(b"not told")
    archive.place("unknown", 0, "jpeg").write_bytes(b"of nobody")
    archive.close()
    archive = Archive(tmp_path)
    there = sorted(str(path.relative_to(tmp_path / "jobs")) for path in tmp_path.rglob("jobs/*/*"))
    assert there == ["cut/asked-0.png", "whole/0.jpg"]
    assert archive.file(last, 0)
    archive.close()


def test_a_result_is_whole_or_gone(archive: Archive) -> None:
    last = done(archive, "a")
    for index in (-1, 1):
        with pytest.raises(ResultGoneError):
            archive.file(last, index)
    archive.file(last, 0).write_bytes(b"x" * 9)
    with pytest.raises(ResultGoneError, match="job 'a' has no result 0, or not any more"):
        archive.file(last, 0)


def test_a_ticket_keeps_the_files_that_its_state_needs(tmp_path: Path, archive: Archive) -> None:
    home = tmp_path / "jobs" / "a"
    begun(archive, "a", task(request(conditions=(Condition(image("red")),))))
    archive.place("a", 0, "jpeg").write_bytes(b"x")
    archive.tidy("a", "running")
    assert len(list(home.iterdir())) == 2
    archive.tidy("a", "interrupted")
    assert [path.name for path in home.iterdir()] == ["asked-0.png"]
    archive.place("a", 0, "jpeg").write_bytes(b"x")
    archive.tidy("a", "completed")
    assert [path.name for path in home.iterdir()] == ["0.jpg"]
    archive.tidy("a", "expired")
    assert not home.exists()


@pytest.mark.parametrize("where", ["image", "row"])
def test_a_task_that_cannot_be_written_leaves_nothing(
    where: str, tmp_path: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = task(request(conditions=(Condition(image("red")),)))
    if where == "image":

        def full(*_args: object, **_kwargs: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Image.Image, "save", full)
        with pytest.raises(MediaError, match="No space left"):
            begun(archive, "a", asked)
    else:
        begun(archive, "a")
        with pytest.raises(sqlite3.IntegrityError):
            begun(archive, "a", asked)
        archive.forget(["a"])
    assert list((tmp_path / "jobs").iterdir()) == []
    assert archive.page(Page()) == []


def test_several_changes_are_kept_together_or_not_at_all(archive: Archive) -> None:
    first, second = begun(archive, "a"), begun(archive, "b")
    running = [replace(each, state="running") for each in (first, second)]
    broken = replace(running[1], note={"a": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        archive.save([Event(2, running[0]), Event(2, broken)])
    assert archive.find("a").ticket.state == "queued"
    archive.save([Event(2, each) for each in running])
    assert archive.of("running") == ["a", "b"]


def test_what_has_no_results_is_forgotten_and_nothing_else(archive: Archive) -> None:
    states: tuple[State, ...] = ("failed", "cancelled", "interrupted", "expired")
    for index, state in enumerate(states):
        last = replace(begun(archive, state), state=state, times=Times(1.0, 2.0, 10.0 + index))
        archive.save([Event(3, last)])
    done(archive, "completed", ended=1.0)
    begun(archive, "queued")
    assert archive.ended(before=12.0, most=99) == ["failed", "cancelled"]
    assert archive.ended(before=0.0, most=3) == ["failed", "cancelled", "interrupted"]
    archive.forget(archive.ended(before=99.0, most=99))
    assert [each.id for each in archive.page(Page())] == ["queued", "completed"]


def test_results_go_by_age_and_then_by_bytes_and_never_from_under_a_reader() -> None:
    kept = [
        Kept(name, ended, 10) for name, ended in zip("abcdef", range(100, 160, 10), strict=True)
    ]
    keep = Retention(age=50, nbytes=1000, grace=5)
    assert too_much(kept, keep, now=165) == ["a", "b"]
    assert too_much(kept, replace(keep, nbytes=20), now=165) == ["a", "b", "c", "d"]
    assert too_much(kept, replace(keep, nbytes=20), now=165, read={"c"}) == ["a", "b", "d", "e"]
    assert too_much(kept, replace(keep, nbytes=0), now=154) == ["a", "b", "c", "d", "e"]
    assert too_much(kept, keep, now=164, read={"a", "b"}) == ["a"], "who reads may end it"
    assert too_much([], keep, now=0) == []


MADE = Provenance(
    "mini",
    "0f" * 32,
    Asked("a star", "", 7, Canvas(64, 64), (Stage("base", Sigmas(2)),), audio=False),
    (),
    "live",
    Versions("0", "0", "0"),
)

WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
from PIL import Image
from tests.engine.test_archive import MADE, begun, task, request, Condition
from loraloom.engine.archive import Archive
from loraloom.engine.ticket import Event, Outcome, Output, Times
from loraloom.pipelines import media

archive = Archive(Path(sys.argv[1]))
noise = Image.effect_noise((160, 160), 60).convert("RGB")
for number in range(10_000):
    name = f"{sys.argv[2]}-{number}"
    first = begun(archive, name, task(request(conditions=(Condition(noise),))))
    archive.save([Event(2, replace(first, state="running"))])
    path = archive.place(name, 0, "png")
    media.save_image(noise, path, MADE)
    outcome = Outcome((Output(path.name, path.stat().st_size, 7, ()),))
    last = replace(first, state="completed", times=Times(1.0, 2.0, 3.0), outcome=outcome)
    archive.save([Event(3, last)])
    print(name, flush=True)
    archive.tidy(name, "completed")
"""


def test_a_process_that_is_killed_loses_nothing_that_it_told(tmp_path: Path) -> None:
    told: set[str] = set()
    draw = random.Random(1)
    for round_ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(round_)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert process.stdout
        with process.stdout:
            told.add(process.stdout.readline().strip())
            time.sleep(draw.uniform(0.0, 0.2))
            process.send_signal(signal.SIGKILL)
            told |= {line.strip() for line in process.stdout if line.endswith("\n")}
        process.wait()
        archive = Archive(tmp_path)
        try:
            check(archive, tmp_path, told)
        finally:
            archive.close()
    assert len(told) > 20


def check(archive: Archive, folder: Path, told: set[str]) -> None:
    tickets = {each.id: each for each in archive.page(Page(limit=10_000))}
    assert {name for name, each in tickets.items() if each.state == "completed"} >= told
    for name, each in tickets.items():
        names = sorted(path.name for path in (folder / "jobs").glob(f"{name}/*"))
        if each.state == "completed":
            with Image.open(archive.file(each, 0)) as picture:
                picture.load()
            assert names == ["0.png"]
        else:
            assert names == ["asked-0.png"]
            assert archive.task(name).requests[0].conditions
    assert {path.name for path in (folder / "jobs").iterdir()} == set(tickets)
