"""The shelf: what was published is there after any end of the process, and nothing by halves."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loraloom.core.mix import AdapterKey
from loraloom.errors import SettingsError
from loraloom.store.catalog import Catalog
from loraloom.store.editions import Edition, Facts, Fit, Label, Stamp
from loraloom.store.shelf import Contents, Entry, Section, Shelf

from .adapters import NAMES, write

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
LABELS = st.builds(
    Label,
    st.floats(-9, 9),
    st.lists(TEXT).map(tuple),
    st.lists(TEXT).map(tuple),
    st.booleans(),
    st.none() | TEXT,
)
FACTS = Facts("peft", 1, 2, 3, 0, "4", "4 to 8", 5, ("transformer",), ("note",), {"a": "b\ud800"})
EDITIONS = st.builds(
    Edition,
    st.builds(AdapterKey, st.sampled_from("ab"), st.sampled_from(["0" * 64, "1" * 64])),
    st.sampled_from([Path("/x/y"), Path(os.fsdecode(b"/x/\xff\xfe"))]),
    TEXT,
    st.builds(Fit, st.none() | TEXT, st.none() | st.floats(-9, 9), st.booleans()),
    st.just(FACTS),
    st.floats(0, 2e9),
    st.builds(Stamp, TEXT, st.booleans()),
)
ACTS = st.one_of(
    st.tuples(st.just("publish"), EDITIONS, LABELS),
    st.tuples(st.just("withdraw"), st.sampled_from("ab"), st.booleans()),
    st.tuples(st.just("clear"), st.none(), st.none()),
)


def act(section: Section, what: str, on: object, more: object) -> None:
    if what == "publish":
        assert isinstance(on, Edition)
        assert isinstance(more, Label)
        section.publish(on, more)
    elif what == "withdraw" and more:
        section.forget(str(on))
    elif what == "withdraw":
        section.name(str(on), Entry(None, Label()))
    else:
        for key in section.contents.past():
            section.remove(key)


@given(st.lists(ACTS, max_size=12))
@settings(max_examples=60, deadline=None)
def test_what_is_known_is_what_the_disk_holds(acts: list[tuple[str, object, object]]) -> None:
    with closing(Shelf()) as shelf:
        section = shelf.section("model")
        for each in acts:
            act(section, *each)
        assert shelf.section("model").contents == section.contents
        assert shelf.section("other").contents == Contents({}, {})


def edition(number: int) -> Edition:
    key = AdapterKey("a", f"{number:064x}")
    return Edition(key, Path(f"/x/{number}"), "upload", Fit(), FACTS, float(number))


def test_a_change_that_fails_in_the_middle_changes_nothing() -> None:
    with closing(Shelf()) as shelf:
        section = shelf.section("model")
        section.publish(edition(1), Label(0.5))
        before = section.contents
        with shelf.writing() as sql:  # the last statement of a publication
            sql.execute(
                "CREATE TEMP TRIGGER fail BEFORE INSERT ON names "
                "BEGIN SELECT RAISE(ABORT, 'no'); END"
            )
        with pytest.raises(sqlite3.IntegrityError, match="no"):
            section.publish(edition(2), Label())
        with pytest.raises(sqlite3.IntegrityError, match="no"):
            section.name("a", Entry(None, Label()))
        assert section.contents == shelf.section("model").contents == before


def test_a_file_that_is_no_shelf_or_of_another_time_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database" * 99)
    with pytest.raises(SettingsError, match="file is not a database"):
        Shelf(tmp_path / "text")
    with closing(sqlite3.connect(tmp_path / "later")) as sql:
        sql.execute("PRAGMA user_version = 9")
    with pytest.raises(SettingsError, match="version 9, want 1"):
        Shelf(tmp_path / "later")
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError):
        Shelf(tmp_path / "file" / "shelf.sqlite")


PUBLISHER = """
import sys
from pathlib import Path
from loraloom.core.mix import AdapterKey
from loraloom.store.editions import Edition, Facts, Fit, Label
from loraloom.store.shelf import Shelf

facts = Facts("peft", 1, 2, 3, 0, "4", "4 to 8", 5)


def edition(number):
    key = AdapterKey("a", f"{number:064x}")
    return Edition(key, Path(f"/x/{number}"), "upload", Fit(), facts, float(number))

section = Shelf(sys.argv[1]).section("model")
for number in range(int(sys.argv[2]), 10**9):
    section.publish(edition(number), Label(number))
    for key in section.contents.past():
        section.remove(key)
    print(number, flush=True)
"""


def test_what_was_said_to_be_published_is_there_after_a_kill(tmp_path: Path) -> None:
    draw, last = random.Random(0), 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, str(tmp_path / "shelf"), str(last + 1)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        with process:
            assert process.stdout is not None
            for _ in range(draw.randint(1, 40)):
                last = int(process.stdout.readline())
            process.kill()
            said = process.stdout.read().split("\n")
        with suppress(IndexError):
            last = int(said[-2])
        with closing(Shelf(tmp_path / "shelf")) as shelf:
            contents = shelf.section("model").contents
            current = contents.current("a")
        assert current is not None
        assert current.published in {last, last + 1}
        assert current.key.digest == f"{int(current.published):064x}"
        assert contents.names["a"].label == Label(current.published)
        assert len(contents.editions) <= 2


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
import torch
from contextlib import closing
from loraloom.store.catalog import Catalog
from loraloom.store.shelf import Shelf
from tests.store.adapters import NAMES

state, new = Path(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)


def until(line):
    '''A tracer that kills the process before a line of the store is run.'''
    left = line

    def trace(frame, event, _arg):
        nonlocal left
        if "/loraloom/store/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


def story():
    catalog = Catalog(NAMES, shelf=Shelf(state / "adapters.sqlite"))
    catalog.publish("a", new, source="upload")
    catalog.withdraw("b")


killed, line = 0, 0
while True:
    line += int(sys.argv[3])
    shutil.rmtree(state, ignore_errors=True)
    shutil.copytree(sys.argv[4], state)
    pid = os.fork()
    if not pid:
        sys.settrace(until(line))
        story()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or status == 0
    with closing(Shelf(state / "adapters.sqlite")) as shelf:
        catalog = Catalog(NAMES, shelf=shelf)
        catalog.tidy()
        paths = {each.key.name: each.path for each in catalog.everything()}
        steps = [paths["a"] == new, "b" not in paths]
        assert steps in ([False, False], [True, False], [True, True]), (line, steps)
        for each in catalog.editions():
            with catalog.held([each.key]):
                pass
        files = sorted(path.parent.name for path in state.rglob("*.safetensors"))
        assert files == sorted({path.parent.name for path in paths.values()} | {new.parent.name})
    if status == 0:
        break
    killed += 1
print(killed)
"""


@pytest.mark.parametrize("stride", [61, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_line_the_catalogue_is_as_before_or_as_after(
    stride: int, tmp_path: Path
) -> None:
    state, base = tmp_path / "state", tmp_path / "base"
    paths = [
        write(state / "stock" / name / "adapter.safetensors", n) for n, name in enumerate("abc")
    ]
    with closing(Shelf(state / "adapters.sqlite")) as shelf:
        catalog = Catalog(NAMES, shelf=shelf)
        for name, path in zip("ab", paths, strict=False):
            catalog.publish(name, path, source="upload")
    state.rename(base)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, (state, paths[2], stride, base))],
        cwd=Path(__file__).parents[2],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert int(done.stdout) >= 300 // stride
