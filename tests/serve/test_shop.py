"""From what is brought to a published adapter: all of it, or as before."""

from __future__ import annotations

from pathlib import Path
from threading import Barrier, Thread
from typing import TYPE_CHECKING

import huggingface_hub
import pytest
from huggingface_hub import constants

from loraloom.errors import (
    AdapterCoverageError,
    AdapterFileError,
    AdapterMismatchError,
    AdapterValueError,
    InvalidRequestError,
    LoraloomError,
    SourceError,
)
from loraloom.serve.shop import Offer, Shop
from loraloom.store.catalog import Catalog
from loraloom.store.editions import Fit, Label
from loraloom.store.fetch import Fetcher
from loraloom.store.roots import Roots
from loraloom.store.shelf import Shelf
from loraloom.store.stock import Stock
from tests.store.hub import Hub, Repository, running

from . import weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loraloom.serve.shop import Published

SEVERAL = Repository(
    {"fits.safetensors": weights.adapter(1), "alien.safetensors": weights.of_another_model()}
)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    # the tests are offline otherwise: huggingface_hub reads this constant at every request
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent")
    huggingface_hub.close_session()
    with running(several=SEVERAL) as hub:
        yield hub
        huggingface_hub.close_session()


def opened(state: Path, root: Path, hub: Hub | None = None, shelf: Shelf | None = None) -> Shop:
    root.mkdir(exist_ok=True)
    return Shop(
        Catalog(weights.names(), shelf=shelf),
        weights.names(),
        Fetcher(state / "hub", allow_hub=hub is not None, hub=hub.url if hub else None),
        Stock(state / "stock"),
        Roots([root]),
    )


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return opened(tmp_path / "state", tmp_path / "root")


def upload(shop: Shop, data: bytes, offer: Offer, config: bytes | None = None) -> Published:
    with shop.stock.draft() as draft:
        draft.write(data)
        with shop.uploaded(draft, config) as goods:
            return shop.publish(goods, offer)


def kept(shop: Shop) -> list[Path]:
    """The files of uploads."""
    return sorted(path for path in shop.stock.folder.rglob("*") if path.is_file())


def fetched(shop: Shop) -> list[str]:
    return sorted(path.name for path in shop.fetcher.folder.rglob("*.safetensors"))


def test_an_upload_becomes_an_edition_and_its_only_file_is_in_stock(shop: Shop) -> None:
    done = upload(shop, weights.adapter(1), Offer("style"))
    assert done.new
    assert done.edition.source == "upload"
    assert shop.catalog.edition("style") == done.edition
    assert kept(shop) == [done.edition.path]
    again = upload(shop, weights.adapter(1), Offer("style"))
    assert not again.new
    assert again.edition.key == done.edition.key


BAD: dict[str, tuple[bytes, type[LoraloomError]]] = {
    "empty": (b"", AdapterFileError),
    "pickle": (b"\x80\x04\x95", AdapterFileError),
    "zip": (b"PK\x03\x04" + bytes(64), AdapterFileError),
    "truncated": (weights.adapter(1)[:-7], AdapterFileError),
    "alien": (weights.of_another_model(), AdapterCoverageError),
    "strangers": (weights.with_strangers(1), AdapterCoverageError),
    "nan": (weights.with_nan(1), AdapterValueError),
    "zeros": (weights.of_zeros(), AdapterValueError),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_upload_changes_nothing_leaves_nothing_and_tells_no_path(
    shop: Shop, name: str
) -> None:
    before = upload(shop, weights.adapter(7), Offer("style")).edition
    data, kind = BAD[name]
    for offer in (Offer("style"), Offer("other")):
        with pytest.raises(kind) as caught:
            upload(shop, data, offer)
        assert type(caught.value) is kind
        assert str(shop.stock.folder) not in str(caught.value)
        assert "drafts" not in str(caught.value)
    assert shop.catalog.everything() == [before]
    assert kept(shop) == [before.path]
    with shop.catalog.held([before.key]) as adapters:
        assert adapters[before.key].nbytes


@pytest.mark.parametrize("name", BAD)
def test_an_inspection_publishes_nothing_and_leaves_nothing(shop: Shop, name: str) -> None:
    data, kind = BAD[name]
    with shop.stock.draft() as draft:
        draft.write(data)
        with shop.uploaded(draft, None) as goods:
            if kind is AdapterFileError:
                with pytest.raises(AdapterFileError):
                    shop.inspect(goods, Fit())
            else:
                found = shop.inspect(goods, Fit())
                assert found.reason
                assert "upload" in found.reason
                assert str(shop.stock.folder) not in found.reason
    assert kept(shop) == []
    assert shop.catalog.everything() == []


def test_what_fits_in_part_fits_where_that_is_allowed(shop: Shop) -> None:
    with shop.stock.draft() as draft:
        draft.write(weights.with_strangers(1))
        with shop.uploaded(draft, None) as goods:
            assert shop.inspect(goods, Fit()).reason
            found = shop.inspect(goods, Fit(allow_partial=True))
            assert found.reason is None
            assert len(found.reading.problems) == 2
            shop.publish(goods, Offer("partly", Fit(allow_partial=True)))
    assert shop.catalog.edition("partly").facts.unmatched == 2


def test_what_one_call_has_no_use_for_stays_for_another_that_has(shop: Shop) -> None:
    """Equal bytes are one file in stock."""
    with shop.stock.draft() as one, shop.stock.draft() as two:
        for draft in (one, two):
            draft.write(weights.adapter(1))
        with shop.uploaded(one, None) as good:
            with pytest.raises(AdapterMismatchError), shop.uploaded(two, None) as bad:
                shop.publish(bad, Offer("other", Fit(component="no_such")))
            assert kept(shop)
            edition = shop.publish(good, Offer("style")).edition
    assert kept(shop) == [edition.path]
    with pytest.raises(AdapterMismatchError):
        upload(shop, weights.adapter(1), Offer("other", Fit(component="no_such")))
    assert kept(shop) == [edition.path]


def test_a_file_that_only_a_request_under_way_wears_is_not_removed_by_a_failed_call(
    shop: Shop,
) -> None:
    old = upload(shop, weights.adapter(1), Offer("style")).edition
    with shop.catalog.claim([old.key]):
        upload(shop, weights.adapter(2), Offer("style"))
        with pytest.raises(AdapterMismatchError):
            upload(shop, weights.adapter(1), Offer("other", Fit(component="no_such")))
        assert old.path.is_file()


def test_a_configuration_beside_an_upload_counts(shop: Shop) -> None:
    done = upload(
        shop, weights.adapter(1), Offer("style"), b'{"r": 2, "lora_alpha": 16, "peft_type": "LORA"}'
    )
    assert done.edition.facts.alpha == "16"
    with pytest.raises(AdapterFileError, match="lora_alpha"):
        upload(shop, weights.adapter(2), Offer("style"), b'{"r": 2, "lora_alpha": "many"}')
    assert shop.catalog.edition("style") == done.edition


def test_paths_are_read_below_a_root_alone_and_links_are_followed_first(
    shop: Shop, tmp_path: Path
) -> None:
    inside, outside = tmp_path / "root" / "in.safetensors", tmp_path / "out.safetensors"
    inside.write_bytes(weights.adapter(1))
    outside.write_bytes(weights.adapter(2))
    (tmp_path / "root" / "link.safetensors").symlink_to(outside)
    (tmp_path / "root" / "good.safetensors").symlink_to(inside)
    with shop.fetched(str(inside)) as goods:
        assert shop.publish(goods, Offer("a")).edition.source == "file:in.safetensors"
    with shop.fetched("good.safetensors") as goods:
        assert shop.publish(goods, Offer("b")).edition.source == "file:good.safetensors"
    for text in (
        str(outside),
        "link.safetensors",
        str(tmp_path / "root" / "link.safetensors"),
        "../out.safetensors",
        "/etc/passwd",
        "in.safetensors/../../out.safetensors",
    ):
        with pytest.raises(SourceError), shop.fetched(text):
            pass
    assert inside.is_file()
    assert outside.is_file()


def test_a_bad_file_below_a_root_is_called_by_its_name_alone_and_stays(
    shop: Shop, tmp_path: Path
) -> None:
    path = tmp_path / "root" / "deep" / "bad.safetensors"
    path.parent.mkdir()
    path.write_bytes(weights.with_nan(1))
    with (
        pytest.raises(AdapterValueError, match=r"file:bad\.safetensors") as caught,
        shop.fetched("deep/bad.safetensors") as goods,
    ):
        shop.publish(goods, Offer("bad"))
    assert str(tmp_path) not in str(caught.value)
    assert path.is_file()


def test_what_came_from_the_hub_for_nothing_is_removed(tmp_path: Path, hub: Hub) -> None:
    shop = opened(tmp_path / "state", tmp_path / "root", hub)
    with shop.fetched("neon/several:fits.safetensors") as goods:
        assert shop.inspect(goods, Fit()).reason is None
    assert fetched(shop) == []
    with (
        pytest.raises(AdapterCoverageError) as caught,
        shop.fetched("neon/several:alien.safetensors") as goods,
    ):
        shop.publish(goods, Offer("style"))
    assert f"hub:neon/several@{SEVERAL.commit}/alien.safetensors" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert fetched(shop) == []
    with shop.fetched("neon/several:fits.safetensors@main") as goods:
        edition = shop.publish(goods, Offer("style")).edition
    assert edition.source == f"hub:neon/several@{SEVERAL.commit}/fits.safetensors"
    assert fetched(shop) == ["fits.safetensors"]


def test_what_was_fetched_before_stays_where_a_call_fails(tmp_path: Path, hub: Hub) -> None:
    shop = opened(tmp_path / "state", tmp_path / "root", hub)
    with shop.fetched("neon/several:fits.safetensors") as goods:
        edition = shop.publish(goods, Offer("style")).edition
    with (
        pytest.raises(AdapterMismatchError),
        shop.fetched("neon/several:fits.safetensors") as goods,
    ):
        shop.publish(goods, Offer("other", Fit(component="no_such")))
    assert edition.path.is_file()


def test_many_who_publish_one_name_leave_one_of_them_whole(shop: Shop) -> None:
    start = Barrier(8)
    done: list[Published] = []

    def publish(seed: int) -> None:
        start.wait()
        done.append(upload(shop, weights.adapter(seed), Offer("style")))

    threads = [Thread(target=publish, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(each.new for each in done) == 1
    assert len({each.edition.key for each in done}) == 8
    last = shop.catalog.edition("style")
    assert last.key in {each.edition.key for each in done}
    with shop.catalog.held([last.key]) as adapters:
        assert adapters[last.key].key == last.key
    assert kept(shop) == [last.path]


def test_of_many_who_want_a_fresh_name_one_gets_it(shop: Shop) -> None:
    start = Barrier(6)
    ends: list[str] = []

    def publish(seed: int) -> None:
        start.wait()
        try:
            upload(shop, weights.adapter(seed), Offer("style", fresh=True))
            ends.append("published")
        except InvalidRequestError:
            ends.append("refused")

    threads = [Thread(target=publish, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ends) == ["published", *["refused"] * 5]
    assert len(kept(shop)) == 1


def test_changes_of_one_label_are_not_lost(shop: Shop) -> None:
    upload(shop, weights.adapter(1), Offer("style"))

    def add(number: int) -> None:
        word = f"word-{number}"
        shop.relabel("style", lambda now: Label(triggers=(*now.triggers, word)))

    threads = [Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(shop.catalog.label("style").triggers) == {f"word-{number}" for number in range(8)}


def test_an_offer_changes_the_label_that_its_name_has(shop: Shop) -> None:
    def stronger(label: Label) -> Label:
        return Label(label.strength + 1, (*label.triggers, "more"))

    upload(shop, weights.adapter(1), Offer("style", label=stronger))
    upload(shop, weights.adapter(2), Offer("style", label=stronger))
    assert shop.catalog.label("style") == Label(3.0, ("more", "more"))
    upload(shop, weights.adapter(3), Offer("style"))
    assert shop.catalog.label("style") == Label(3.0, ("more", "more"))


def test_many_who_upload_equal_bytes_under_many_names_have_one_file(shop: Shop) -> None:
    start = Barrier(8)
    done: list[Published] = []

    def publish(number: int) -> None:
        start.wait()
        for _ in range(3):
            done.append(upload(shop, weights.adapter(1), Offer(f"style-{number}")))

    threads = [Thread(target=publish, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 24
    assert shop.catalog.names() == [f"style-{number}" for number in range(8)]
    (path,) = kept(shop)
    assert {each.edition.path for each in done} == {path}


def test_bytes_whose_last_user_goes_while_they_are_published_again_stay(tmp_path: Path) -> None:
    shop = opened(tmp_path, tmp_path / "root", shelf=Shelf(tmp_path / "adapters.sqlite"))
    old = upload(shop, weights.adapter(1), Offer("style")).edition
    claim = shop.catalog.claim([old.key])
    upload(shop, weights.adapter(2), Offer("style"))
    with shop.stock.draft() as draft:
        draft.write(weights.adapter(1))
        with shop.uploaded(draft, None) as goods:
            claim.release()
            assert shop.publish(goods, Offer("style")).edition.key == old.key
    assert kept(shop) == [old.path]
    shop.catalog.withdraw("style")
    assert kept(shop) == []


def test_a_file_that_another_model_may_mean_is_not_removed_by_a_failed_call(shop: Shop) -> None:
    with shop.stock.draft() as draft:
        draft.write(weights.adapter(1))
        theirs = shop.stock.keep(draft)
    with pytest.raises(AdapterMismatchError):
        upload(shop, weights.adapter(1), Offer("style", Fit(component="no_such")))
    assert kept(shop) == [theirs.path]
