"""The catalogue: publishing in one step, versions that last as long as they are used, budgets."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from loraloom.core.adapter import Adapter, LowRank
from loraloom.errors import (
    AdapterChangedError,
    AdapterCoverageError,
    AdapterFileError,
    BudgetError,
    InvalidRequestError,
    InvalidStrengthError,
    LoraloomError,
    StorageFullError,
    UnknownAdapterError,
)
from loraloom.formats.load import load
from loraloom.formats.names import NameTable
from loraloom.store.catalog import BUNDLED, Catalog
from loraloom.store.editions import Edition, Fit, Label
from loraloom.store.shelf import Shelf

from .adapters import NAMES, NBYTES, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from loraloom.core.mix import AdapterKey
    from loraloom.formats.reading import Reading


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def shelf(state: Path) -> Iterator[Shelf]:
    with closing(Shelf(state / "adapters.sqlite")) as shelf:
        yield shelf


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of adapters whose tensors are read, in order."""
    names: list[str] = []

    def counted(name: str, reading: Reading) -> Adapter:
        names.append(name)
        return load(name, reading)

    monkeypatch.setattr("loraloom.store.host.load", counted)
    return names


def said(catalog: Catalog) -> Mapping[str, tuple[str, Label]]:
    """What names mean and how they are offered."""
    return {e.key.name: (e.key.digest, catalog.label(e.key.name)) for e in catalog.editions()}


def held(catalog: Catalog, *keys: AdapterKey) -> list[str]:
    with catalog.held(keys) as adapters:
        return [adapters[key].key.digest for key in keys]


def test_a_published_file_is_known_whole_and_worn(tmp_path: Path) -> None:
    catalog = Catalog(NAMES)
    path = write(tmp_path / "neon.safetensors", 1)
    label = Label(0.7, ("glow",), ("lamp",), picture="neon.png")
    edition = catalog.publish("neon", path, label=label)
    assert catalog.edition("neon") is catalog.edition("lamp") is edition
    assert (edition.path, edition.source, edition.fit) == (path, "file:neon.safetensors", Fit())
    facts = edition.facts
    assert (facts.sites, facts.of, facts.keys, facts.unmatched) == (2, 3, 4, 0)
    assert (facts.rank, facts.nbytes, facts.components) == ("2", NBYTES, ("transformer",))
    assert catalog.label("lamp") == label
    assert catalog.names() == ["neon"]
    assert catalog.get("neon").nbytes == catalog.host.tier.nbytes == NBYTES
    assert catalog.get("neon").key == edition.key


def test_the_digest_says_which_version_is_meant(tmp_path: Path) -> None:
    catalog = Catalog(NAMES)
    first = catalog.publish("a", write(tmp_path / "1.safetensors", 1))
    with catalog.claim([first.key]):
        second = catalog.publish("a", write(tmp_path / "2.safetensors", 2))
        assert catalog.edition("a", first.key.digest[:9].upper()) is first
        assert catalog.edition("a", second.key.digest) is catalog.edition("a") is second
        with pytest.raises(UnknownAdapterError, match="'a@beef' is not known"):
            catalog.edition("a", "beef")
    with pytest.raises(UnknownAdapterError):
        catalog.edition("a", first.key.digest[:9])


def test_a_version_that_could_be_several_is_refused(tmp_path: Path) -> None:
    catalog = Catalog(NAMES)
    claims = []
    for seed in range(40):
        path = write(tmp_path / f"{seed}.safetensors", seed)
        claims.append(catalog.claim([catalog.publish("a", path).key]))
    current = catalog.edition("a").key.digest
    digests = [each.key.digest for each in catalog.everything()]
    twice = next(
        d[0] for d in digests if d[0] != current[0] and sum(o[0] == d[0] for o in digests) > 1
    )
    with pytest.raises(
        InvalidRequestError, match=f"version '{twice}' of adapter 'a' is the begin of"
    ):
        catalog.edition("a", twice)
    for claim in claims:
        claim.release()
    assert len(catalog.everything()) == 1


def test_who_holds_a_version_keeps_it_whatever_becomes_of_name_and_file(tmp_path: Path) -> None:
    catalog = Catalog(NAMES)
    path = write(tmp_path / "a.safetensors", 1)
    old = catalog.publish("a", path).key
    with catalog.held([old]) as adapters:
        bits = [t.clone() for u in adapters[old].sites("transformer").values() for t in u.tensors]
        write(path, 2)
        new = catalog.publish("a", path).key
        assert new != old
        assert catalog.by_key[old] is adapters[old]
        catalog.withdraw("a")
        path.unlink()
        after = [t for u in adapters[old].sites("transformer").values() for t in u.tensors]
        assert all(torch.equal(a, b) for a, b in zip(bits, after, strict=True))
        assert catalog.host.tier.nbytes == NBYTES
        del adapters
    assert list(catalog.by_key) == []
    assert catalog.host.tier.nbytes == 0


def test_a_claimed_version_is_there_until_the_last_claim_is_released(tmp_path: Path) -> None:
    catalog = Catalog(NAMES)
    old = catalog.publish("a", write(tmp_path / "1.safetensors", 1)).key
    claims = [catalog.claim([old]), catalog.claim([old])]
    catalog.publish("a", write(tmp_path / "2.safetensors", 2))
    claims[0].release()
    claims[0].release()
    assert catalog.users("a") == 1
    assert held(catalog, old) == [old.digest]
    claims[1].release()
    assert catalog.users("a") == 0
    with pytest.raises(UnknownAdapterError, match=str(old)):
        catalog.claim([old])


def test_withdrawing_waits_for_the_last_claim_and_then_removes_the_copy(
    shelf: Shelf, state: Path, tmp_path: Path
) -> None:
    catalog = Catalog(NAMES, shelf=shelf)
    mine = write(state / "mine.safetensors", 1)
    copy = write(state / "stock" / "abc" / "adapter.safetensors", 2)
    copy.with_name("adapter_config.json").write_text('{"r": 2, "lora_alpha": 4}')
    keys = [catalog.publish("mine", mine).key, catalog.publish("b", copy, source="upload").key]
    shared = catalog.publish("c", copy, source="upload").key
    claim = catalog.claim(keys)
    assert catalog.withdraw("mine")
    assert catalog.withdraw("b")
    assert not catalog.withdraw("c")
    assert catalog.names() == []
    for name in ("b", "mine"):
        with pytest.raises(UnknownAdapterError):
            catalog.edition(name)
    with pytest.raises(UnknownAdapterError):
        catalog.edition("b", keys[1].digest)
    catalog.host.tier.drop(keys[1])
    assert held(catalog, *keys) == [key.digest for key in keys]
    claim.release()
    assert mine.exists()
    assert not copy.parent.exists()
    assert copy.parent.parent.exists()
    assert catalog.everything() == []
    assert shared not in catalog.by_key


def test_only_the_file_goes_from_a_folder_that_others_use(shelf: Shelf, state: Path) -> None:
    catalog = Catalog(NAMES, shelf=shelf)
    folder = state / "hub" / "owner--name" / "c0ffee"
    one, two = (write(folder / f"{n}.safetensors", n) for n in (1, 2))
    for name, path in (("one", one), ("two", two)):
        catalog.publish(name, path, source=f"hub:owner/name@c0ffee/{path.name}")
    catalog.withdraw("one")
    assert (one.exists(), two.exists()) == (False, True)


def test_a_restart_finds_everything_and_reads_no_tensor(
    state: Path, tmp_path: Path, reads: list[str]
) -> None:
    bundled = {
        "own": write(tmp_path / "own.safetensors", 9),
        "off": write(tmp_path / "o.safetensors", 8),
    }
    paths = {name: write(tmp_path / f"{name}.safetensors", seed) for seed, name in enumerate("ab")}
    with closing(Shelf(state / "adapters.sqlite")) as shelf:
        catalog = Catalog(NAMES, bundled, shelf=shelf)
        catalog.publish("a", paths["a"], label=Label(0.5, ("x",), ("alias",), pinned=True))
        catalog.publish("b", paths["b"], source="hub:o/n@c/b")
        catalog.relabel("own", Label(2.0))
        catalog.withdraw("off")
        before = said(catalog), catalog.editions()
    assert reads == ["a", "b", "own", "off"]
    with closing(Shelf(state / "adapters.sqlite")) as shelf:
        catalog = Catalog(NAMES, bundled, shelf=shelf)
        assert catalog.names() == ["a", "b", "own"]
        assert (said(catalog), catalog.editions()) == before
        assert catalog.edition("alias").key.name == "a"
        catalog.publish("a", paths["a"])
        catalog.publish("again", paths["a"])
        assert reads == ["a", "b", "own", "off"]
        assert held(catalog, catalog.edition("b").key) == [before[0]["b"][0]]
        assert reads == ["a", "b", "own", "off", "b"]


@pytest.mark.parametrize("what", ["bytes", "inode", "time", "configuration"])
def test_a_file_that_may_have_changed_is_read_again(
    what: str, shelf: Shelf, tmp_path: Path, reads: list[str]
) -> None:
    path = write(tmp_path / "a" / "adapter_model.safetensors", 1)
    catalog = Catalog(NAMES, shelf=shelf)
    catalog.publish("a", path)
    stat = path.stat()
    if what == "bytes":
        write(path, 2, rank=3)
    elif what == "inode":
        shutil.copy2(path, tmp_path / "other")
        (tmp_path / "other").replace(path)
    elif what == "time":
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    else:
        path.with_name("adapter_config.json").write_text('{"r": 2, "lora_alpha": 4}')
    catalog.publish("a", path)
    assert reads == ["a", "a"]


def test_a_file_that_was_just_written_is_not_trusted_by_its_time(
    shelf: Shelf, tmp_path: Path, reads: list[str]
) -> None:
    path = write(tmp_path / "a.safetensors", 1, age=0)
    catalog = Catalog(NAMES, shelf=shelf)
    first = catalog.publish("a", path)
    stat = path.stat()
    path.write_bytes(write(tmp_path / "b.safetensors", 2).read_bytes())
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert catalog.publish("a", path).key != first.key
    assert reads == ["a", "a"]


def test_a_bundled_file_that_changed_is_a_new_version_and_what_replaced_it_stays(
    state: Path, tmp_path: Path
) -> None:
    bundled = {
        name: write(tmp_path / f"{name}.safetensors", seed) for seed, name in enumerate("ab")
    }
    mine = write(tmp_path / "mine.safetensors", 5)
    with closing(Shelf(state / "adapters.sqlite")) as shelf:
        catalog = Catalog(NAMES, bundled, shelf=shelf)
        old = catalog.edition("a")
        assert old.source == BUNDLED
        own = catalog.publish("b", mine)
    for seed, path in enumerate(bundled.values(), 10):
        write(path, seed)
    with closing(Shelf(state / "adapters.sqlite")) as shelf:
        catalog = Catalog(NAMES, bundled, shelf=shelf)
        assert catalog.edition("a").key != old.key
        assert catalog.edition("b") == own


def test_another_model_has_adapters_of_its_own(shelf: Shelf, tmp_path: Path) -> None:
    Catalog(NAMES, shelf=shelf).publish("a", write(tmp_path / "a.safetensors", 1))
    other = NameTable({"transformer": {"to_q": (8, 4)}}, "transformer")
    assert Catalog(other, shelf=shelf).names() == []
    assert Catalog(NAMES, shelf=shelf).names() == ["a"]


@pytest.mark.parametrize("gone", [True, False])
def test_a_file_that_is_gone_or_another_is_told_and_disturbs_nobody_else(
    gone: bool, tmp_path: Path
) -> None:
    catalog = Catalog(NAMES, budget=NBYTES)
    keys = {
        n: catalog.publish(n, write(tmp_path / f"{n}.safetensors", s)).key
        for s, n in enumerate("ab")
    }
    if gone:
        (tmp_path / "a.safetensors").unlink()
    else:
        write(tmp_path / "a.safetensors", 7)
    with pytest.raises(AdapterChangedError, match="adapter 'a' was published as") as caught:
        held(catalog, keys["a"])
    assert str(tmp_path) not in str(caught.value)
    assert held(catalog, keys["b"]) == [keys["b"].digest]
    write(tmp_path / "a.safetensors", 0)
    assert held(catalog, keys["a"]) == [keys["a"].digest]


def test_the_same_bytes_again_change_the_label_alone(tmp_path: Path) -> None:
    catalog = Catalog(NAMES)
    path = write(tmp_path / "a.safetensors", 1)
    first = catalog.publish("a", path, label=Label(0.5))
    adapter = catalog.get("a")
    copy = Path(shutil.copy2(path, tmp_path / "b.safetensors"))
    assert catalog.publish("a", copy, label=Label(0.8)) == first
    assert catalog.label("a") == Label(0.8)
    assert catalog.publish("a", path) == first
    assert catalog.label("a") == Label(0.8)
    assert catalog.get("a") is adapter
    path.unlink()
    again = catalog.publish("a", copy)
    assert again == replace(first, path=copy, source="file:b.safetensors", stamp=again.stamp)


def spoilt(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def strange(path: Path) -> None:
    """A layer that the model has not."""
    other = NameTable({"transformer": {"nowhere": (8, 4)}}, "transformer")
    for name, sites in other.components.items():
        from safetensors.torch import save_file

        for site in sites:
            keys = {f"{name}.{site}.lora_{k}.weight": torch.ones(2, 2) for k in "AB"}
            save_file(keys, path)


def not_finite(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_file({key: value * float("nan") for key, value in load_file(path).items()}, path)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [(spoilt, AdapterFileError), (strange, AdapterCoverageError), (not_finite, AdapterFileError)],
)
def test_what_cannot_be_worn_is_not_published(
    spoil: Callable[[Path], None], error: type[LoraloomError], shelf: Shelf, tmp_path: Path
) -> None:
    catalog = Catalog(NAMES, shelf=shelf, budget=10 * NBYTES)
    catalog.publish("a", write(tmp_path / "a.safetensors", 1), label=Label(0.5))
    before = said(catalog)
    bad = write(tmp_path / "bad.safetensors", 2)
    spoil(bad)
    for name in ("a", "new"):
        with pytest.raises(error):
            catalog.publish(name, bad, label=Label(0.9))
    assert said(catalog) == said(Catalog(NAMES, shelf=shelf)) == before
    assert catalog.host.tier.nbytes == NBYTES


def test_a_file_that_changes_while_it_is_published_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog(NAMES)
    path = write(tmp_path / "a.safetensors", 1)

    def late(name: str, reading: Reading) -> Adapter:
        adapter = load(name, reading)
        write(path, 2, age=30)
        return adapter

    monkeypatch.setattr("loraloom.store.host.load", late)
    with pytest.raises(AdapterFileError, match="was changed while it was read"):
        catalog.publish("a", path)
    assert catalog.names() == []
    assert catalog.host.tier.nbytes == 0


@pytest.mark.parametrize("how", ["full", "locked"])
def test_where_the_shelf_cannot_be_written_all_is_as_before(
    how: str, shelf: Shelf, state: Path, tmp_path: Path
) -> None:
    catalog = Catalog(NAMES, shelf=shelf)
    paths = [write(tmp_path / f"{seed}.safetensors", seed) for seed in (1, 2)]
    old = catalog.publish("a", paths[0], label=Label(0.5))
    before = said(catalog)
    wordy = Label(triggers=tuple(f"word {n}" * 50 for n in range(1000)))
    with closing(sqlite3.connect(state / "adapters.sqlite", isolation_level=None)) as other:
        with shelf.writing() as sql:
            sql.execute("PRAGMA busy_timeout = 50")
            (pages,) = sql.execute("PRAGMA page_count").fetchone()
            sql.execute(f"PRAGMA max_page_count = {pages}")
        if how == "locked":
            other.execute("BEGIN IMMEDIATE")
        error = {"full": StorageFullError, "locked": sqlite3.OperationalError}[how]
        for do in (
            lambda: catalog.publish("a", paths[1], label=wordy),
            lambda: catalog.publish("b", paths[1], label=wordy),
            lambda: catalog.relabel("a", wordy),
        ):
            with pytest.raises(error):
                do()
        assert said(catalog) == before
        assert list(catalog.by_key) == [old.key]
        assert catalog.host.tier.nbytes == NBYTES
    with shelf.writing() as sql:
        sql.execute("PRAGMA max_page_count = 1000000")
    assert said(Catalog(NAMES, shelf=shelf)) == before
    assert catalog.publish("a", paths[1], label=wordy).key != old.key


def test_what_could_not_be_removed_is_removed_later(
    shelf: Shelf, state: Path, tmp_path: Path
) -> None:
    catalog = Catalog(NAMES, shelf=shelf)
    keys = [
        catalog.publish(n, write(state / "stock" / n / "a.safetensors", s), source="upload").key
        for s, n in enumerate("abc")
    ]
    claim = catalog.claim(keys)
    catalog.withdraw("a")
    with closing(sqlite3.connect(state / "adapters.sqlite", isolation_level=None)) as other:
        with shelf.writing() as sql:
            sql.execute("PRAGMA busy_timeout = 50")
        other.execute("BEGIN IMMEDIATE")
        claim.release()
    assert len(catalog.everything()) == 3
    catalog.withdraw("b")
    assert {each.key.name for each in catalog.everything()} == {"c"}
    assert [path.name for path in (state / "stock").iterdir()] == ["c"]


def test_versions_of_a_process_before_stay_until_who_goes_on_with_them_has_claimed_them(
    state: Path,
) -> None:
    paths = [write(state / "stock" / str(seed) / "a.safetensors", seed) for seed in range(4)]
    with closing(Shelf(state / "adapters.sqlite")) as shelf:
        catalog = Catalog(NAMES, shelf=shelf)
        keys = []
        for path in paths[:3]:
            keys.append(catalog.publish("a", path, source="upload").key)
            catalog.claim(keys[-1:])
    with closing(Shelf(state / "adapters.sqlite")) as shelf:
        catalog = Catalog(NAMES, shelf=shelf)
        catalog.publish("a", paths[3], source="upload")
        claims = [catalog.claim([key]) for key in (keys[0], keys[1], keys[1])]
        claims[0].release()
        assert all(path.exists() for path in paths)
        catalog.tidy()
        assert [path.exists() for path in paths] == [False, True, False, True]
        claims[1].bequeath()
        claims[2].release()
        assert catalog.users("a") == 0
        catalog.tidy(keys[1:2])
        assert [path.exists() for path in paths] == [False, True, False, True]
        catalog.tidy()
        assert [each.path for each in catalog.everything()] == paths[3:]
    assert [path.exists() for path in paths] == [False, False, False, True]


def test_of_what_is_withdrawn_nothing_stays_for_who_comes_after(state: Path) -> None:
    path = write(state / "stock" / "abc" / "a.safetensors", 1)
    with closing(Shelf(state / "adapters.sqlite")) as shelf:
        catalog = Catalog(NAMES, shelf=shelf)
        catalog.claim([catalog.publish("a", path, source="upload").key]).bequeath()
        catalog.withdraw("a")
        assert not path.exists()


def test_a_copy_that_an_adapter_of_another_model_has_too_stays_for_it(
    shelf: Shelf, state: Path
) -> None:
    copy = write(state / "uploads" / "abc" / "adapter.safetensors", 1)
    same = NameTable({**NAMES.components, "other": {"to_q": (8, 8)}}, "transformer")
    one, other = Catalog(NAMES, shelf=shelf), Catalog(same, shelf=shelf)
    keys = [each.publish("a", copy, source="upload").key for each in (one, other)]
    one.withdraw("a")
    assert held(other, keys[1]) == [keys[1].digest]
    other.host.tier.drop(keys[1])
    assert held(other, keys[1]) == [keys[1].digest]
    other.withdraw("a")
    assert not copy.exists()


def test_names_and_aliases_mean_one_adapter_each(tmp_path: Path) -> None:
    catalog = Catalog(NAMES, {"own": write(tmp_path / "own.safetensors", 3)})
    path = write(tmp_path / "a.safetensors", 1)
    catalog.publish("a", path, label=Label(aliases=("x", "y")))
    catalog.publish("b", path)
    before = said(catalog)
    for aliases in (("a",), ("x",), ("own",), ("b",), ("z", "z"), ("",), ("\n",)):
        with pytest.raises(InvalidRequestError):
            catalog.relabel("b", Label(aliases=aliases))
        with pytest.raises(InvalidRequestError):
            catalog.publish("b", path, label=Label(aliases=aliases))
    for name in ("x", "", "a\x00b", "\udce4"):
        with pytest.raises(InvalidRequestError):
            catalog.publish(name, path)
    with pytest.raises(InvalidStrengthError):
        catalog.relabel("b", Label(float("nan")))
    assert said(catalog) == before
    catalog.relabel("x", Label(aliases=("y",)))
    catalog.relabel("b", Label(aliases=("x",)))
    assert catalog.edition("x").key.name == "b"
    catalog.withdraw("y")
    with pytest.raises(UnknownAdapterError):
        catalog.edition("y")
    catalog.publish("y", path)
    assert catalog.names() == ["b", "own", "y"]


def test_a_withdrawn_bundled_adapter_stays_away_until_it_is_published(
    shelf: Shelf, tmp_path: Path
) -> None:
    bundled = {"own": write(tmp_path / "own.safetensors", 3)}
    catalog = Catalog(NAMES, bundled, shelf=shelf)
    catalog.relabel("own", Label(0.5))
    catalog.withdraw("own")
    for each in (catalog, Catalog(NAMES, bundled, shelf=shelf)):
        assert each.names() == []
        assert each.editions() == []
        with pytest.raises(UnknownAdapterError):
            each.edition("own")
    catalog.publish("own", bundled["own"])
    assert catalog.label("own") == Label()


def test_a_bundled_file_that_is_broken_is_told_to_who_asks_for_it(tmp_path: Path) -> None:
    good, bad = (write(tmp_path / f"{n}.safetensors", n) for n in (1, 2))
    spoilt(bad)
    catalog = Catalog(NAMES, {"good": good, "bad": bad})
    assert [each.key.name for each in catalog.editions()] == ["good"]
    with pytest.raises(AdapterFileError, match="truncated"):
        catalog.get("bad")


def test_what_is_on_the_host_never_exceeds_its_budget(tmp_path: Path, reads: list[str]) -> None:
    catalog = Catalog(NAMES, budget=2 * NBYTES)
    keys = [catalog.publish(n, write(tmp_path / n, s)).key for s, n in enumerate("abcd")]
    assert catalog.host.tier.nbytes == 2 * NBYTES
    assert sorted(catalog.by_key) == sorted(keys[2:])
    with pytest.raises(BudgetError):
        held(catalog, *keys)
    with pytest.raises(BudgetError, match="adapters on the host take"):
        catalog.publish("large", write(tmp_path / "large", 9, rank=5))
    with catalog.held(keys[:2]):
        assert catalog.host.tier.nbytes == 2 * NBYTES
    assert catalog.names() == list("abcd")


def test_what_is_pinned_stays_through_new_versions_and_restarts(
    shelf: Shelf, tmp_path: Path, reads: list[str]
) -> None:
    for round_ in range(2):
        catalog = Catalog(NAMES, shelf=shelf, budget=2 * NBYTES)
        if not round_:
            catalog.publish("a", write(tmp_path / "a", 0), label=Label(pinned=True))
            catalog.publish("a", write(tmp_path / "a", 1))
        keys = [catalog.publish(n, write(tmp_path / n, s)).key for s, n in enumerate("bcd", 2)]
        catalog.get("a")
        for key in keys:
            held(catalog, key)
        assert catalog.edition("a").key in catalog.by_key
        with pytest.raises(BudgetError, match="of pinned ones"):
            held(catalog, *keys[:2])
    with pytest.raises(BudgetError):
        catalog.publish("large", write(tmp_path / "large", 9, rank=3))
    catalog.relabel("a", Label())
    assert len(held(catalog, *keys[:2])) == 2


def test_an_adapter_that_has_no_file_stays_in_memory(tmp_path: Path, shelf: Shelf) -> None:
    update = LowRank(torch.ones(2, 4), torch.ones(8, 2), 0.5)
    adapter = Adapter.make("made", {"transformer": {"to_q": update}})
    catalog = Catalog(NAMES, budget=2 * NBYTES)
    assert catalog.put(adapter).facts.alpha == "1"
    for seed in range(4):
        catalog.publish(f"n{seed}", write(tmp_path / "n", seed))
    assert catalog.get("made") is adapter
    catalog.withdraw("made")
    assert "made" not in catalog.names()
    with pytest.raises(InvalidRequestError, match="has no file"):
        Catalog(NAMES, shelf=shelf).put(adapter)


def test_what_is_fetched_ahead_is_there_and_its_errors_come_when_it_is_held(tmp_path: Path) -> None:
    catalog = Catalog(NAMES, budget=2 * NBYTES)
    keys = [catalog.publish(n, write(tmp_path / n, s)).key for s, n in enumerate("abcd")]
    with closing(catalog), catalog.claim(keys[3:]):
        (tmp_path / "b").unlink()
        catalog.prefetch([keys[1], keys[0]])
        catalog.prefetch([replace(keys[0], name="nobody")])
        catalog.host._aside.submit(lambda: None).result(60)
        assert sorted(catalog.by_key) == sorted([keys[0], keys[3]])  # what is claimed stays
        with pytest.raises(AdapterChangedError):
            held(catalog, keys[1])


def test_what_is_removed_while_it_is_fetched_ahead_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog(NAMES)
    path = write(tmp_path / "a", 1)
    key = catalog.publish("a", path).key
    catalog.host.tier.drop(key)

    def late(name: str, reading: Reading) -> Adapter:
        catalog.withdraw("a")
        return load(name, reading)

    monkeypatch.setattr("loraloom.store.host.load", late)
    with closing(catalog):
        catalog.prefetch([key])
    assert catalog.host.tier.nbytes == 0
    assert list(catalog.by_key) == []


def test_a_thousand_requests_read_a_file_once(tmp_path: Path, reads: list[str]) -> None:
    bundled = {"own": write(tmp_path / "own.safetensors", 3)}
    catalog = Catalog(NAMES, bundled)
    start = threading.Barrier(200)

    def ask(_: int) -> int:
        start.wait(60)
        return id(catalog.get("own"))

    with ThreadPoolExecutor(200) as pool:
        assert len(set(pool.map(ask, range(200)))) == 1
    assert reads == ["own"]


class Story:
    """Threads that publish, withdraw, claim and wear, and what must hold for each of them."""

    def __init__(self, catalog: Catalog, files: list[Path]) -> None:
        self.catalog = catalog
        self.files = files

    def tell(self, seed: int) -> int:
        draw, worn = random.Random(seed), 0
        for _ in range(60):
            name, path = draw.choice("abc"), draw.choice(self.files)
            act = draw.random()
            try:
                if act < 0.3:
                    self.catalog.publish(name, path)
                elif act < 0.4:
                    self.catalog.withdraw(name)
                elif act < 0.5:
                    self.catalog.prefetch([self.catalog.edition(name).key])
                else:
                    worn += self.wear(self.catalog.edition(name), draw)
            except UnknownAdapterError:
                continue
            assert self.catalog.host.tier.nbytes <= 6 * NBYTES
        return worn

    def wear(self, edition: Edition, draw: random.Random) -> int:
        with self.catalog.claim([edition.key]):
            if draw.random() < 0.3:
                self.catalog.publish(edition.key.name, draw.choice(self.files))
            with self.catalog.held([edition.key]) as adapters:
                adapter = adapters[edition.key]
                again = Adapter.make(edition.key.name, adapter.updates)
                assert again.key == adapter.key == edition.key
                assert self.catalog.by_key[edition.key].key == edition.key
        return 1


def test_threads_that_publish_withdraw_and_wear_disturb_nobody(
    shelf: Shelf, tmp_path: Path
) -> None:
    with shelf.writing() as sql:
        (before,) = sql.execute("PRAGMA synchronous").fetchone()
    assert before == 2
    files = [write(tmp_path / str(seed), seed) for seed in range(5)]
    with closing(Catalog(NAMES, shelf=shelf, budget=6 * NBYTES)) as catalog:
        story = Story(catalog, files)
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(story.tell, range(8), timeout=100))
        assert catalog.users("a") == catalog.users("b") == catalog.users("c") == 0
        assert sorted(catalog.everything(), key=lambda each: each.key) == catalog.editions()
        there = {each.key for each in catalog.everything()}
    assert set(catalog.by_key) <= there
    assert said(catalog) == said(Catalog(NAMES, shelf=shelf))
    assert Catalog(NAMES, shelf=shelf).everything() == sorted(
        catalog.everything(), key=lambda each: each.key
    )
