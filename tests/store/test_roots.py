from __future__ import annotations

from pathlib import Path

import pytest

from loraloom.errors import AdapterFileError, LoraloomError, SourceError
from loraloom.store.roots import Roots


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Two folders that are allowed and one that is not, with links between them."""
    for name in ("one", "two", "outside"):
        (tmp_path / name / "style").mkdir(parents=True)
        (tmp_path / name / "style" / "adapter_model.safetensors").write_bytes(b"weights")
        (tmp_path / name / f"{name}.safetensors").write_bytes(b"weights")
    one, outside = tmp_path / "one", tmp_path / "outside"
    (one / "within.safetensors").symlink_to(tmp_path / "two" / "two.safetensors")
    (one / "leak.safetensors").symlink_to(outside / "outside.safetensors")
    (one / "leak").symlink_to(outside)
    (one / "dangling.safetensors").symlink_to(outside / "none.safetensors")
    (one / "loop.safetensors").symlink_to(one / "loop.safetensors")
    (one / "inner").mkdir()
    (one / "inner" / "a.safetensors").symlink_to(outside / "outside.safetensors")
    (one / "beside").mkdir()
    (one / "beside" / "a.safetensors").write_bytes(b"weights")
    (one / "beside" / "adapter_config.json").symlink_to(outside / "outside.safetensors")
    (tmp_path / "one-more").mkdir()
    (tmp_path / "one-more" / "a.safetensors").write_bytes(b"weights")
    return tmp_path


@pytest.fixture
def roots(disk: Path) -> Roots:
    return Roots([disk / "one", disk / "two"])


def refused(roots: Roots, text: str, kind: type[LoraloomError] = SourceError) -> str:
    """The message with which a path is refused; it tells no path but the caller's own."""
    with pytest.raises(kind) as caught:
        roots.inside(text)
    message = str(caught.value)
    assert str(roots.folders[0].parent) not in message.replace(text, "")
    return message


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("one.safetensors", "one/one.safetensors"),
        ("two.safetensors", "two/two.safetensors"),
        ("style", "one/style/adapter_model.safetensors"),
        ("style/../one.safetensors", "one/one.safetensors"),
        ("within.safetensors", "one/within.safetensors"),
        ("../two/two.safetensors", "two/two.safetensors"),
    ],
)
def test_what_lies_below_a_root_is_found_from_any_root(
    disk: Path, roots: Roots, text: str, got: str
) -> None:
    assert roots.inside(text) == disk / got


def test_absolute_paths_and_roots_behind_links_are_understood(disk: Path, roots: Roots) -> None:
    absolute = disk / "two" / "two.safetensors"
    assert roots.inside(str(absolute)) == absolute
    (disk / "alias").symlink_to(disk / "one")
    behind = Roots([disk / "alias"])
    for text in ("one.safetensors", str(disk / "alias" / "one.safetensors")):
        assert behind.inside(text) == disk / "one" / "one.safetensors"


def test_a_link_keeps_its_name_so_that_what_lies_beside_it_is_found(disk: Path) -> None:
    # as huggingface_hub's cache lays it out
    snapshot = disk / "one" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (disk / "one" / "blobs").mkdir()
    (disk / "one" / "blobs" / "1234").write_bytes(b"weights")
    (snapshot / "w.safetensors").symlink_to(Path("../../blobs/1234"))
    (snapshot / "adapter_config.json").write_text("{}")
    found = Roots([disk / "one"]).inside("snapshots/abc")
    assert found == snapshot / "w.safetensors"


@pytest.mark.parametrize(
    "text",
    [
        "../outside/outside.safetensors",
        "../one-more/a.safetensors",
        "leak.safetensors",
        "leak",
        "leak/outside.safetensors",
        "dangling.safetensors",
        "loop.safetensors",
        "inner",
        "inner/a.safetensors",
        "beside",
        "beside/a.safetensors",
        "/etc/passwd",
        "/nonexistent/file",
        "/",
        "..",
        "a\0b",
        "a" * 5000,
        "~/a.safetensors/../../../../../../etc/passwd",
    ],
)
def test_what_leads_out_of_the_roots_is_refused(roots: Roots, text: str) -> None:
    refused(roots, text)


def test_what_is_outside_is_refused_alike_whether_it_is_there_or_not(
    disk: Path, roots: Roots
) -> None:
    there, absent = (str(disk / "outside" / name) for name in ("outside.safetensors", "none"))
    assert refused(roots, there).replace(there, "") == refused(roots, absent).replace(absent, "")


def test_what_is_absent_and_what_is_ambiguous_is_said_in_the_callers_words(
    disk: Path, roots: Roots
) -> None:
    assert "there is no 'none.safetensors'" in refused(roots, "none.safetensors")
    (disk / "one" / "style" / "b.bin").write_bytes(b"x")
    (disk / "one" / "style" / "adapter_model.safetensors").unlink()
    message = refused(roots, "style", AdapterFileError)
    assert "adapter folder 'style' holds b.bin, a pickle" in message


def test_without_roots_no_path_is_read(disk: Path) -> None:
    with pytest.raises(SourceError, match="no folder is allowed"):
        Roots([]).inside(str(disk / "one" / "one.safetensors"))
