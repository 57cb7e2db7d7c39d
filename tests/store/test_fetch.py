from __future__ import annotations

import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save

from loraloom.errors import (
    AdapterFileError,
    InvalidRequestError,
    LoraloomError,
    SourceError,
    SourceTooLargeError,
    SourceUnavailableError,
    StorageFullError,
)
from loraloom.store.fetch import Fetched, Fetcher
from loraloom.store.source import OnDisk, OnHub, parse

from .full import full_after
from .hub import TOKEN, Hub, Repository, running

if TYPE_CHECKING:
    from collections.abc import Iterator

WEIGHTS = save({"a.lora_A.weight": torch.arange(100_000, dtype=torch.float32)})
OTHER = save({"b.lora_A.weight": torch.ones(3, 3)})
CONFIG = b'{"r": 4, "lora_alpha": 8}'
COMMIT = "0123456789" * 4
STYLE = Repository(
    {"adapter_model.safetensors": WEIGHTS, "adapter_config.json": CONFIG, "README.md": b"hello"},
    commit=COMMIT,
    revisions=("main", "v1", "refs/pr/3"),
)
MANY = Repository(
    {
        "one.safetensors": WEIGHTS,
        "two.safetensors": OTHER,
        "deep/er/pytorch_lora_weights.safetensors": OTHER,
        "deep/er/adapter_config.json": CONFIG,
        "deep/old.bin": b"PK\x03\x04",
    }
)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    # the tests are offline otherwise: huggingface_hub reads this constant at every request
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # as large as what is lost where a connection breaks
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent")
    # a client of its own, which is closed again
    huggingface_hub.close_session()
    with running(
        style=STYLE,
        many=MANY,
        pickled=Repository({"pytorch_lora_weights.bin": b"PK\x03\x04", "README.md": b"hello"}),
        empty=Repository({"README.md": b"hello"}),
        secret=Repository({"s.safetensors": OTHER}, access="private"),
        gated=Repository({"s.safetensors": OTHER}, access="gated"),
    ) as running_hub:
        yield running_hub
        huggingface_hub.close_session()


@pytest.fixture
def fetcher(hub: Hub, tmp_path: Path) -> Fetcher:
    return Fetcher(tmp_path / "hub", hub=hub.url)


def refused(fetcher: Fetcher, text: str, kind: type[LoraloomError]) -> str:
    """The message with which a source is refused; it tells nothing of this machine."""
    with pytest.raises(kind) as caught:
        fetcher.fetch(parse(text))
    assert type(caught.value) is kind
    message = str(caught.value)
    assert str(fetcher.folder) not in message
    assert TOKEN not in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("neon/style", OnHub("neon/style")),
        ("neon/style@v1", OnHub("neon/style", None, "v1")),
        ("neon/style:w.safetensors", OnHub("neon/style", "w.safetensors")),
        (
            "neon/style:a/w.safetensors@refs/pr/3",
            OnHub("neon/style", "a/w.safetensors", "refs/pr/3"),
        ),
        ("https://huggingface.co/neon/style", OnHub("neon/style")),
        ("https://huggingface.co/neon/style/", OnHub("neon/style")),
        ("https://huggingface.co/neon/style/tree/main", OnHub("neon/style", None, "main")),
        ("https://hf.co/neon/style/tree/main/sub", OnHub("neon/style", "sub", "main")),
        (
            "https://huggingface.co/neon/style/resolve/refs%2Fpr%2F3/a/w%20x.safetensors?download=true",
            OnHub("neon/style", "a/w x.safetensors", "refs/pr/3"),
        ),
        (
            "https://huggingface.co/neon/style/blob/v1/w.safetensors#L1",
            OnHub("neon/style", "w.safetensors", "v1"),
        ),
        ("/srv/a.safetensors", OnDisk(Path("/srv/a.safetensors"))),
        ("./neon/style", OnDisk(Path("neon/style"))),
        ("../style", OnDisk(Path("../style"))),
        ("styles/neon.safetensors", OnDisk(Path("styles/neon.safetensors"))),
        ("neon", OnDisk(Path("neon"))),
        ("a/b/c", OnDisk(Path("a/b/c"))),
    ],
)
def test_a_source_is_what_its_spelling_says(text: str, source: OnDisk | OnHub) -> None:
    assert parse(text) == source


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a\0b",
        "http://huggingface.co/neon/style",
        "https://example.com/neon/style/resolve/main/w.safetensors",
        "https://huggingface.co.example.com/neon/style",
        "https://user@huggingface.co/neon/style",
        "https://huggingface.co:99/neon/style",
        "https://[huggingface.co/neon/style",
        "file:///etc/passwd",
        "https://huggingface.co/neon",
        "https://huggingface.co/datasets/neon/style/resolve/main/w.safetensors",
        "https://huggingface.co/neon/style/resolve",
        "https://huggingface.co/neon/style/resolve/main/../../x.safetensors",
        "https://huggingface.co/neon/style/resolve/main/%2e%2e/x.safetensors",
        "https://huggingface.co/neon%2Fx/style/resolve/main/x.safetensors",
        "https://huggingface.co/../style",
        "neon/style:../x.safetensors",
        "neon/style:/x.safetensors",
        "neon/style:a\\b.safetensors",
        "neon/style:",
        "neon/style@",
        "neon/style@../main",
        "neon/style@a b",
    ],
)
def test_what_is_spelled_as_no_source_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="want the path of a file or folder, a hub id"):
        parse(text)


@pytest.mark.parametrize("revision", [None, "main", "v1", "refs/pr/3", COMMIT])
def test_what_is_fetched_is_whole_and_says_its_commit(
    fetcher: Fetcher, revision: str | None
) -> None:
    fetched = fetcher.fetch(OnHub("neon/style", None, revision))
    source = f"hub:neon/style@{COMMIT}/adapter_model.safetensors"
    assert fetched == Fetched(fetched.path, source, len(WEIGHTS))
    assert fetched.path.read_bytes() == WEIGHTS
    assert fetched.path.with_name("adapter_config.json").read_bytes() == CONFIG
    assert not fetched.path.is_symlink()
    assert sorted(path.name for path in fetched.path.parent.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_a_file_is_fetched_once_and_of_a_known_commit_nobody_is_asked(
    hub: Hub, fetcher: Fetcher
) -> None:
    first = fetcher.fetch(parse("neon/style"))
    assert fetcher.fetch(parse("neon/style")) == first
    assert len(hub.bodies()) == 1
    before = len(hub.asked)
    assert fetcher.fetch(parse(f"neon/style:adapter_model.safetensors@{COMMIT}")) == first
    assert len(hub.asked) == before


def test_a_branch_that_moved_is_another_file(hub: Hub, fetcher: Fetcher) -> None:
    first = fetcher.fetch(parse("neon/style"))
    moved = {**STYLE.files, "adapter_model.safetensors": OTHER}
    hub.repositories["neon/style"] = replace(STYLE, files=moved, commit="b" * 40)
    second = fetcher.fetch(parse("neon/style"))
    assert (first.path.read_bytes(), second.path.read_bytes()) == (WEIGHTS, OTHER)
    assert "b" * 40 in second.source


@pytest.mark.parametrize(
    ("inside", "got"),
    [
        ("one.safetensors", "one.safetensors"),
        ("deep/er", "deep/er/pytorch_lora_weights.safetensors"),
        ("deep/er/pytorch_lora_weights.safetensors", "deep/er/pytorch_lora_weights.safetensors"),
    ],
)
def test_a_file_or_folder_inside_is_named(fetcher: Fetcher, inside: str, got: str) -> None:
    fetched = fetcher.fetch(OnHub("neon/many", inside))
    assert fetched.source.endswith(f"/{got}")
    assert fetched.path.read_bytes() == MANY.files[got]
    assert fetched.path.with_name("adapter_config.json").exists() == inside.startswith("deep")


@pytest.mark.parametrize("cuts", [[150_000], [10_000, 150_000, 300_000]])
def test_what_breaks_off_goes_on_where_it_was(hub: Hub, fetcher: Fetcher, cuts: list[int]) -> None:
    hub.breaks = list(cuts)
    assert fetcher.fetch(parse("neon/style")).path.read_bytes() == WEIGHTS
    assert [each.span for each in hub.bodies()] == [None, *(f"bytes={cut}-" for cut in cuts)]


def test_what_broke_off_is_no_file_and_the_next_call_goes_on(hub: Hub, fetcher: Fetcher) -> None:
    hub.breaks, hub.resets = [200_000], True
    said = refused(fetcher, "neon/style", SourceUnavailableError)
    assert "asking again goes on from there" in said
    assert not list(fetcher.folder.rglob("*.safetensors"))
    kept = sum(path.stat().st_size for path in fetcher.folder.rglob("partial/*"))
    assert 0 < kept <= 200_000
    # another process: nothing is remembered but what is on the disk
    again = Fetcher(fetcher.folder, hub=hub.url)
    assert again.fetch(parse("neon/style")).path.read_bytes() == WEIGHTS
    assert [each.span for each in hub.bodies()] == [None, f"bytes={kept}-"]


def test_bytes_that_are_not_what_the_hub_announced_are_refused_and_forgotten(
    hub: Hub, fetcher: Fetcher
) -> None:
    hub.spoilt = True
    assert "came with the digest" in refused(fetcher, "neon/style", SourceUnavailableError)
    hub.spoilt = False
    assert fetcher.fetch(parse("neon/style")).path.read_bytes() == WEIGHTS


def test_a_file_over_the_limit_is_refused_before_its_bytes_are_asked_for(
    hub: Hub, tmp_path: Path
) -> None:
    fetcher = Fetcher(tmp_path / "hub", hub=hub.url, most_bytes=len(WEIGHTS) - 1)
    said = refused(fetcher, "neon/style", SourceTooLargeError)
    assert f"has {len(WEIGHTS)} bytes, at most {len(WEIGHTS) - 1} are allowed" in said
    assert not hub.bodies()
    exact = Fetcher(tmp_path / "hub", hub=hub.url, most_bytes=len(WEIGHTS))
    assert exact.fetch(parse("neon/style")).nbytes == len(WEIGHTS)
    # what is here counts, too
    assert "at most" in refused(fetcher, "neon/style", SourceTooLargeError)


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("neon/none", SourceUnavailableError, "neon/none is not on the hub, or is private"),
        ("neon/secret", SourceUnavailableError, "HF_TOKEN may not read it"),
        ("neon/gated", SourceUnavailableError, "is gated: its terms must be accepted"),
        ("neon/style@v9", SourceUnavailableError, "neon/style@v9 is no revision"),
        ("neon/many", AdapterFileError, "holds 3 adapter files (deep/er/pytorch_lora_weights."),
        ("neon/many:three.safetensors", SourceUnavailableError, "has no 'three.safetensors'; it"),
        ("neon/many:deep/old.bin", AdapterFileError, "is a pickle; convert it once"),
        ("neon/many:deep/er/adapter_config.json", AdapterFileError, "is no .safetensors file"),
        ("neon/pickled", AdapterFileError, "loraloom adapters convert FILE.bin OUT.safetensors"),
        ("neon/empty", AdapterFileError, "holds README.md; want adapter_model.safetensors or"),
    ],
)
def test_what_cannot_be_fetched_is_refused_with_the_reason(
    hub: Hub, fetcher: Fetcher, text: str, kind: type[LoraloomError], said: str
) -> None:
    assert said in refused(fetcher, text, kind)
    assert not hub.bodies()


def test_a_hub_that_does_not_answer_is_said_so(hub: Hub, fetcher: Fetcher, tmp_path: Path) -> None:
    hub.down = True
    assert "answers with status 503" in refused(fetcher, "neon/style", SourceUnavailableError)
    nobody = Fetcher(tmp_path / "hub", hub="http://127.0.0.1:9")
    assert "cannot be reached" in refused(nobody, "neon/style", SourceUnavailableError)


def test_a_token_reads_what_is_private_and_is_told_to_nobody_else(
    hub: Hub,
    fetcher: Fetcher,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    caplog.set_level(logging.DEBUG)
    hub.breaks = [10]
    assert fetcher.fetch(parse("neon/secret")).path.read_bytes() == OTHER
    assert {each.token for each in hub.bodies()} == {None}  # another host's
    assert {each.token for each in hub.asked if each not in hub.bodies()} == {f"Bearer {TOKEN}"}
    refused(fetcher, "neon/none", SourceUnavailableError)
    assert TOKEN not in caplog.text + "".join(capfd.readouterr())
    assert not any(
        TOKEN.encode() in p.read_bytes() for p in fetcher.folder.rglob("*") if p.is_file()
    )


@pytest.mark.parametrize("how", ["argument", "HF_HUB_OFFLINE"])
def test_offline_takes_what_was_fetched_and_says_what_was_not(
    hub: Hub, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    first = fetcher.fetch(parse("neon/style@v1"))
    if how == "HF_HUB_OFFLINE":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = len(hub.asked)
    offline = Fetcher(fetcher.folder, hub=hub.url, offline=how == "argument")
    for text in (
        "neon/style@v1",
        f"neon/style@{COMMIT}",
        "neon/style:adapter_model.safetensors@v1",
    ):
        assert offline.fetch(parse(text)) == first
    for text in ("neon/style", "neon/style@v2", "neon/many", f"neon/many@{'a' * 40}"):
        said = refused(offline, text, SourceUnavailableError)
        assert "was not fetched before, and Loraloom is offline" in said
        assert text in said
    said = refused(offline, "neon/style:other.safetensors@v1", SourceUnavailableError)
    assert "has no 'other.safetensors'" in said
    assert len(hub.asked) == before


def test_a_hub_that_is_not_allowed_is_not_asked(hub: Hub, tmp_path: Path) -> None:
    fetcher = Fetcher(tmp_path / "hub", hub=hub.url, allow_hub=False)
    assert "the hub is not allowed here" in refused(fetcher, "neon/style", SourceError)
    assert not hub.asked


def test_many_who_ask_at_once_fetch_once(hub: Hub, fetcher: Fetcher) -> None:
    fetched: list[Fetched] = []
    threads = [
        threading.Thread(target=lambda: fetched.append(fetcher.fetch(parse("neon/style"))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetched) == 8
    assert len(set(fetched)) == 1
    assert fetched[0].path.read_bytes() == WEIGHTS
    assert len(hub.bodies()) == 1


def test_a_file_of_this_machine_is_taken_where_it_is(tmp_path: Path) -> None:
    fetcher = Fetcher(tmp_path / "hub", offline=True, allow_hub=False, most_bytes=len(OTHER))
    folder = tmp_path / "neon"
    folder.mkdir()
    path = folder / "style.safetensors"
    path.write_bytes(OTHER)
    for each in (path, folder):
        assert fetcher.fetch(OnDisk(each)) == Fetched(path, "file:style.safetensors", len(OTHER))
    with pytest.raises(SourceError, match="is absent"):
        fetcher.fetch(OnDisk(tmp_path / "none.safetensors"))
    (folder / "two.safetensors").write_bytes(WEIGHTS)
    with pytest.raises(AdapterFileError, match="holds 2 adapter files"):
        fetcher.fetch(OnDisk(folder))
    with pytest.raises(SourceTooLargeError, match="has 400088 bytes"):
        fetcher.fetch(OnDisk(folder / "two.safetensors"))


def test_a_full_disk_is_said_and_what_came_is_kept_for_later(hub: Hub, fetcher: Fetcher) -> None:
    with full_after(100_000):
        said = refused(fetcher, "neon/style", StorageFullError)
    assert "the disk is full" in said
    assert not list(fetcher.folder.rglob("*.safetensors"))
    assert fetcher.fetch(parse("neon/style")).path.read_bytes() == WEIGHTS
