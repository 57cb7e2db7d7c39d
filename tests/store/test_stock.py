from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from io import BytesIO
from pathlib import Path

import pytest

from loraloom.errors import SourceError, SourceTooLargeError, StorageFullError
from loraloom.store.stock import Kept, Stock

from .full import full_after

WEIGHTS = os.urandom(300_000)
CONFIG = b'{"r": 4}'


def put(stock: Stock, body: bytes, config: bytes | None = None) -> Kept:
    with stock.draft() as draft:
        shutil.copyfileobj(BytesIO(body), draft, 10_000)
        return stock.keep(draft, config)


def files(folder: Path) -> list[str]:
    """What is in a folder, at any depth."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_what_is_kept_lies_whole_under_its_digest(tmp_path: Path) -> None:
    kept = put(Stock(tmp_path), WEIGHTS)
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    assert kept == Kept(tmp_path / digest / "adapter.safetensors", digest, len(WEIGHTS))
    assert kept.path.read_bytes() == WEIGHTS
    assert files(tmp_path) == [f"{digest}/adapter.safetensors"]


def test_equal_weights_with_another_configuration_are_another_adapter(tmp_path: Path) -> None:
    stock = Stock(tmp_path)
    kept = {put(stock, WEIGHTS, config) for config in (None, CONFIG, b'{"r": 8}', CONFIG)}
    assert len(kept) == 3
    beside = [each.path.with_name("adapter_config.json") for each in kept]
    assert {path.read_bytes() for path in beside if path.exists()} == {CONFIG, b'{"r": 8}'}


def test_nothing_of_a_draft_that_is_not_kept_remains(tmp_path: Path) -> None:
    stock = Stock(tmp_path)
    with stock.draft() as draft:
        draft.write(WEIGHTS)
    with pytest.raises(KeyError), stock.draft() as draft:
        draft.write(WEIGHTS)
        raise KeyError
    assert files(tmp_path) == []
    assert not list((tmp_path / "drafts").iterdir())


def test_what_is_over_the_limit_is_refused_at_the_chunk_that_passes_it(tmp_path: Path) -> None:
    stock = Stock(tmp_path, most_bytes=25_000)
    with stock.draft() as draft:
        draft.write(WEIGHTS[:10_000])
        draft.write(WEIGHTS[:15_000])
        with pytest.raises(SourceTooLargeError, match="more than 25000 bytes"):
            draft.write(b"x")
    assert put(stock, WEIGHTS[:25_000]).nbytes == 25_000
    with pytest.raises(SourceTooLargeError, match=r"adapter_config\.json has"):
        put(stock, b"x", b" " * 4_000_001)
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("config", [None, b" " * 150_000])
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, config: bytes | None) -> None:
    stock = Stock(tmp_path)
    body = WEIGHTS if config is None else WEIGHTS[:50_000]
    with full_after(100_000), pytest.raises(StorageFullError, match="the disk is full") as caught:
        put(stock, body, config)
    assert str(tmp_path) not in str(caught.value)
    assert files(tmp_path) == []
    assert put(stock, body, config).path.read_bytes() == body


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(SourceError, match="cannot be kept: Not a directory"):
        put(Stock(tmp_path / "file"), WEIGHTS)


def test_bytes_that_somebody_spoilt_are_whole_again_when_they_come_again(tmp_path: Path) -> None:
    stock = Stock(tmp_path)
    kept = put(stock, WEIGHTS, CONFIG)
    kept.path.write_bytes(b"spoilt")
    with kept.path.open("rb") as before:
        assert put(stock, WEIGHTS, CONFIG) == kept
        assert before.read() == b"spoilt"  # who reads the old file goes on doing so
    assert kept.path.read_bytes() == WEIGHTS


def test_what_is_removed_is_gone_and_may_come_again(tmp_path: Path) -> None:
    stock = Stock(tmp_path)
    kept, other = put(stock, WEIGHTS, CONFIG), put(stock, b"other")
    assert stock.holds(kept.path)
    assert not stock.holds(tmp_path / "x.safetensors")
    for _ in range(2):
        stock.remove(kept.path)
        assert not kept.path.parent.exists()
        assert other.path.read_bytes() == b"other"
    assert put(stock, WEIGHTS, CONFIG).path.read_bytes() == WEIGHTS
    stock.remove(kept.path)
    assert files(tmp_path) == [f"{other.digest}/adapter.safetensors"]


def test_many_uploads_of_one_file_at_once_are_one_file(tmp_path: Path) -> None:
    stock = Stock(tmp_path)
    kept: list[Kept] = []
    threads = [
        threading.Thread(target=lambda: kept.append(put(stock, WEIGHTS, CONFIG))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept) == 8
    assert len(set(kept)) == 1
    assert kept[0].path.read_bytes() == WEIGHTS
    assert len(files(tmp_path)) == 2


UPLOADS = """
import os, sys
from pathlib import Path
from loraloom.store.stock import Stock
stock = Stock(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    with stock.draft() as draft:
        draft.write(os.urandom(50_000))
        stock.keep(draft, b"{}")
"""


@pytest.mark.parametrize("moment", [0.0, 0.01, 0.03, 0.07])
def test_a_process_that_is_killed_leaves_whole_files_and_drafts_that_are_swept(
    tmp_path: Path, moment: float
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", UPLOADS, str(tmp_path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
    stock = Stock(tmp_path)
    stock.sweep()
    kept = [path for path in tmp_path.iterdir() if path.is_dir()]
    for folder in kept:
        assert sorted(path.name for path in folder.iterdir()) == [
            "adapter.safetensors",
            "adapter_config.json",
        ]
        body = (folder / "adapter.safetensors").read_bytes()
        assert len(body) == 50_000
        assert hashlib.sha256(body + b"\0adapter_config.json\0{}").hexdigest() == folder.name
    assert put(stock, WEIGHTS).path.exists()


def test_what_a_killed_process_had_not_published_goes_and_nothing_else(tmp_path: Path) -> None:
    stock = Stock(tmp_path)
    kept = []
    for number in range(3):
        with stock.draft() as draft:
            draft.write(bytes([number]))
            kept.append(stock.keep(draft).path)
    kept[1].parent.rename(tmp_path / f"gone-{kept[1].parent.name}")
    (tmp_path / "mine").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    stock.prune({kept[0]})
    assert {path.name for path in tmp_path.iterdir()} - {"drafts"} == {
        kept[0].parent.name,
        "mine",
        "notes.txt",
    }
