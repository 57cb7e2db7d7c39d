"""Clients of sglang and vLLM: their calls change the default mix, and nothing under a request."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from loraloom.core.lora import Lora
from loraloom.errors import InvalidRequestError
from loraloom.models.find import card
from loraloom.serve.app import create_app
from loraloom.serve.default import Piece, Standing
from loraloom.serve.placing import Placing
from loraloom.serve.shop import Shop
from loraloom.store.catalog import Catalog
from loraloom.store.roots import Roots

from . import weights
from .conftest import SMALL, served, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from loraloom.serve.service import Service


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that adapters may be published from."""
    folder = tmp_path_factory.mktemp("root")
    for seed, name in enumerate(("one", "two", "three")):
        (folder / f"{name}.safetensors").write_bytes(weights.adapter(seed))
    (folder / "connect.safetensors").write_bytes(weights.adapter(9, component="connectors"))
    (folder / "alien.safetensors").write_bytes(weights.of_another_model())
    return folder


@pytest.fixture(scope="module")
def rooted(service: Service, root: Path) -> Iterator[httpx2.Client]:
    own = service.shop
    shop = Shop(service.catalog, weights.names(), own.fetcher, own.stock, Roots([root]))
    with (
        served(create_app(replace(service, shop=shop))) as url,
        httpx2.Client(base_url=url, timeout=60) as client,
    ):
        yield client


@pytest.fixture
def peer(rooted: httpx2.Client, service: Service) -> Iterator[httpx2.Client]:
    """A client as sglang's users write it; the catalogue and the mix are as before after it."""
    before = set(service.catalog.names())
    service.defaults.set(())
    yield rooted
    service.defaults.set(())
    for name in set(service.catalog.names()) - before:
        service.catalog.withdraw(name)


def said(answer: httpx2.Response) -> str:
    """What a call of sglang's answers, when it is done."""
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found.keys() == {"status", "message"}
    assert found["status"] == "ok"
    message: str = found["message"]
    return message


def worn(http: httpx2.Client, **changes: Any) -> dict[str, float]:
    """What a picture wears, by name."""
    answer = http.post("/v1/images/generations", json={**SMALL, **changes})
    assert answer.status_code == 200, answer.text
    return {each["name"]: each["scale"] for each in answer.json()["loras"]}


def active(http: httpx2.Client) -> Mapping[str, dict[str, float]]:
    """By component, strengths by nickname."""
    found = http.get("/v1/list_loras").json()["active"]
    return {c: {each["nickname"]: each["strength"] for each in some} for c, some in found.items()}


def test_a_script_for_sglang_runs(peer: httpx2.Client, root: Path) -> None:
    one, two = (str(root / f"{name}.safetensors") for name in ("one", "two"))
    assert "one at 0.8 on transformer" in said(
        peer.post("/v1/set_lora", json={"lora_nickname": "one", "lora_path": one, "strength": 0.8})
    )
    assert worn(peer) == {"one": 0.8}
    said(
        peer.post(
            "/v1/set_lora",
            json={
                "lora_nickname": ["one", "two"],
                "lora_path": [None, two],
                "target": ["all", "transformer"],
                "strength": [0.8, 0.5],
                "merge_mode": "auto",
            },
        )
    )
    assert worn(peer) == {"one": 0.8, "two": 0.5}
    found = peer.get("/v1/list_loras").json()
    loaded = {each["nickname"]: each["path"] for each in found["loaded_adapters"]}
    assert loaded["one"] == "file:one.safetensors"
    assert loaded["neon"] == "bundled"
    assert found["active"]["transformer"][0] == {
        "nickname": "one",
        "path": "file:one.safetensors",
        "merged": False,
        "mode": "live",
        "strength": 0.8,
    }
    assert str(root) not in peer.get("/v1/list_loras").text
    assert "now wear nothing" in said(peer.post("/v1/unmerge_lora_weights"))
    assert worn(peer) == {}
    assert active(peer) == {}
    said(peer.post("/v1/merge_lora_weights", json={"target": "all", "strength": 0.5}))
    assert worn(peer) == {"one": 0.4, "two": 0.25}
    said(peer.post("/v1/merge_lora_weights", json={}))
    assert worn(peer) == {"one": 0.8, "two": 0.5}


def test_a_request_that_names_adapters_wears_these_and_no_default(peer: httpx2.Client) -> None:
    said(peer.post("/v1/set_lora", json={"lora_nickname": "neon"}))
    assert worn(peer, loras=[{"name": "sketch", "scale": 0.5}]) == {"sketch": 0.5}
    assert worn(peer, loras=[]) == {}
    assert worn(peer) == {"neon": 1.0}


def test_a_second_set_lora_changes_nothing_for_requests_under_way(
    peer: httpx2.Client, root: Path
) -> None:
    path = root / "again.safetensors"
    path.write_bytes(weights.adapter(21))
    call = {"lora_nickname": "again", "lora_path": str(path), "strength": 0.7}
    said(peer.post("/v1/set_lora", json=call))
    old = peer.get("/v1/adapters/again").json()["sha256"]
    long = {**SMALL, "steps": 60, "async": True}
    job = peer.post("/v1/images/generations", json=long).json()["id"]
    until(lambda: peer.get(f"/v1/jobs/{job}").json()["status"] == "running")
    newer = root / "newer.safetensors"
    newer.write_bytes(weights.adapter(22))
    said(peer.post("/v1/set_lora", json={**call, "lora_path": str(newer), "strength": 0.1}))
    assert peer.get(f"/v1/jobs/{job}").json()["status"] == "running"
    until(lambda: peer.get(f"/v1/jobs/{job}").json()["status"] == "completed", 60)
    (result,) = peer.get(f"/v1/jobs/{job}").json()["results"]
    (kept,) = result["loras"]
    assert (kept["name"], kept["sha256"], kept["scale"]) == ("again", old, 0.7)
    assert worn(peer) == {"again": 0.1}


def test_two_calls_with_two_targets_put_an_adapter_on_each(peer: httpx2.Client, root: Path) -> None:
    """As sglang's users do for the two experts of Wan 2.2."""
    for name, target in (("high", "transformer"), ("low", "connectors")):
        path = root / f"{name}.safetensors"
        path.write_bytes(weights.adapter(30, component=target, named=False))
        said(
            peer.post(
                "/v1/set_lora",
                json={"lora_nickname": name, "lora_path": str(path), "target": target},
            )
        )
    assert active(peer) == {"transformer": {"high": 1.0}, "connectors": {"low": 1.0}}
    said(peer.post("/v1/unmerge_lora_weights", json={"target": "connectors"}))
    assert active(peer) == {"transformer": {"high": 1.0}}
    said(peer.post("/v1/merge_lora_weights", json={"target": "connectors", "strength": 2.0}))
    assert active(peer) == {"transformer": {"high": 1.0}, "connectors": {"low": 2.0}}
    said(peer.post("/v1/set_lora", json={"lora_nickname": "neon", "target": "transformer"}))
    assert active(peer)["connectors"] == {"low": 2.0}
    assert "neon" in active(peer)["transformer"]
    said(peer.post("/v1/set_lora", json={"lora_nickname": "sketch"}))
    assert worn(peer) == {"sketch": 1.0}


REFUSED: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "a target that the model lacks": (
        "set_lora",
        {"lora_nickname": "neon", "target": "critic"},
        400,
        "invalid_value",
    ),
    "a target of several": (
        "set_lora",
        {"lora_nickname": ["neon", "sketch"], "lora_path": [None, None], "target": ["all", "unet"]},
        400,
        "invalid_value",
    ),
    "a nickname without a path": ("set_lora", {"lora_nickname": "nobody"}, 404, "lora_not_found"),
    "a path that is nowhere": (
        "set_lora",
        {"lora_nickname": "x", "lora_path": "/etc/passwd"},
        403,
        "source_refused",
    ),
    "a hub that is not allowed": (
        "set_lora",
        {"lora_nickname": "x", "lora_path": "owner/name"},
        403,
        "source_refused",
    ),
    "too few strengths": (
        "set_lora",
        {"lora_nickname": ["neon", "sketch"], "strength": [1.0]},
        400,
        "invalid_value",
    ),
    "one path for two": (
        "set_lora",
        {"lora_nickname": ["neon", "sketch"], "lora_path": "one.safetensors"},
        400,
        "invalid_value",
    ),
    "a nickname twice": ("set_lora", {"lora_nickname": ["neon", "neon"]}, 400, "invalid_value"),
    "no nickname": ("set_lora", {"lora_nickname": []}, 400, "invalid_value"),
    "an unknown field": (
        "set_lora",
        {"lora_nickname": "neon", "scale": 1.0},
        400,
        "unknown_field",
    ),
    "an adapter of another model": (
        "set_lora",
        {"lora_nickname": "x", "lora_path": "alien.safetensors"},
        409,
        "lora_incompatible",
    ),
    "merge on a target that is none": (
        "merge_lora_weights",
        {"target": "critic"},
        400,
        "invalid_value",
    ),
    "unmerge on a target that is none": (
        "unmerge_lora_weights",
        {"target": "critic"},
        400,
        "invalid_value",
    ),
    "a name that is a path": (
        "load_lora_adapter",
        {"lora_name": "a/b", "lora_path": "one.safetensors"},
        400,
        "invalid_value",
    ),
    "a name that is taken": (
        "load_lora_adapter",
        {"lora_name": "neon", "lora_path": "one.safetensors"},
        400,
        "invalid_value",
    ),
    "unloading nobody": ("unload_lora_adapter", {"lora_name": "nobody"}, 404, "lora_not_found"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_call_that_is_refused_changes_nothing(
    peer: httpx2.Client, service: Service, name: str
) -> None:
    said(peer.post("/v1/set_lora", json={"lora_nickname": "sketch", "strength": 0.3}))
    before = (service.defaults.standing, peer.get("/v1/adapters").json())
    call, body, status, code = REFUSED[name]
    answer = peer.post(f"/v1/{call}", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert (service.defaults.standing, peer.get("/v1/adapters").json()) == before


def test_of_several_paths_all_are_published_or_none(peer: httpx2.Client) -> None:
    call = {
        "lora_nickname": ["one", "two", "bad"],
        "lora_path": ["one.safetensors", "two.safetensors", "alien.safetensors"],
    }
    assert peer.post("/v1/set_lora", json=call).status_code == 409
    names = {each["nickname"] for each in peer.get("/v1/list_loras").json()["loaded_adapters"]}
    assert not {"one", "two", "bad"} & names


def test_merging_wants_something_to_merge(peer: httpx2.Client) -> None:
    answer = peer.post("/v1/merge_lora_weights")
    assert answer.status_code == 400
    assert "set_lora" in answer.json()["error"]["message"]
    said(peer.post("/v1/unmerge_lora_weights"))


def test_a_strength_that_is_no_number_any_more_is_refused(peer: httpx2.Client) -> None:
    said(peer.post("/v1/set_lora", json={"lora_nickname": "neon", "strength": 1e200}))
    answer = peer.post("/v1/merge_lora_weights", json={"strength": 1e200})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")
    assert peer.get("/v1/default-mix").json()["loras"][0]["scale"] == 1e200
    peer.put("/v1/default-mix", json={"loras": []})


def test_an_alpha_is_that_of_the_file(peer: httpx2.Client) -> None:
    call = {"lora_nickname": "one", "lora_path": "one.safetensors", "lora_alpha": 6}
    said(peer.post("/v1/set_lora", json=call))
    assert peer.get("/v1/adapters/one").json()["alpha"] == "6"


def test_a_script_for_vllm_runs(peer: httpx2.Client) -> None:
    call = {"lora_name": "styled", "lora_path": "one.safetensors"}
    loaded = peer.post("/v1/load_lora_adapter", json=call)
    assert loaded.status_code == 200, loaded.text
    assert loaded.headers["content-type"].startswith("text/plain")
    assert loaded.text.startswith("Success: LoRA adapter 'styled@")
    models = {each["id"] for each in peer.get("/v1/models").json()["data"]}
    assert "mini:styled" in models
    assert worn(peer, model="mini:styled") == {"styled": 1.0}
    again = peer.post("/v1/load_lora_adapter", json={**call, "lora_path": "two.safetensors"})
    assert again.status_code == 400
    assert "styled" in again.json()["error"]["message"]
    inplace = {**call, "lora_path": "two.safetensors", "load_inplace": True}
    assert peer.post("/v1/load_lora_adapter", json=inplace).status_code == 200
    gone = peer.post("/v1/unload_lora_adapter", json={"lora_name": "styled", "lora_int_id": 1})
    assert (gone.status_code, gone.text[:30]) == (200, "Success: LoRA adapter 'styled'")
    refused = peer.post("/v1/images/generations", json={**SMALL, "model": "mini:styled"})
    assert refused.status_code == 404


@pytest.fixture(scope="module")
def placing() -> Placing:
    mini = card("mini")
    return Placing(mini, Catalog(weights.names(), mini.adapters))


BOTH = frozenset({"transformer", "connectors"})


def standing(*loras: Lora) -> Standing:
    return Standing.of(loras)


def test_what_is_worn_on_all_components_is_left_on_the_one_that_is_not_taken(
    placing: Placing,
) -> None:
    everywhere = Lora("somewhere-else")  # not in the catalogue: all components
    assert placing.parts(everywhere) == BOTH
    now = placing.placed(standing(everywhere), [Lora("a")], frozenset({"transformer"}))
    assert now.mix == (replace(everywhere, target="connectors"), Lora("a"))
    assert placing.placed(standing(everywhere), [Lora("a")], BOTH).mix == (Lora("a"),)


def test_a_factor_for_one_component_of_what_is_worn_on_two_is_refused(placing: Placing) -> None:
    with pytest.raises(InvalidRequestError, match="target all"):
        placing.factored(standing(Lora("x")), frozenset({"connectors"}), 0.0)
    assert placing.factored(standing(Lora("x")), BOTH, 0.0).mix == ()


def test_taking_off_and_putting_on_gives_the_strengths_of_before(placing: Placing) -> None:
    now = Standing((Piece(Lora("a", 0.3)), Piece(Lora("b", 0.0), 2.0)))
    off = placing.factored(now, BOTH, 0.0)
    assert off.mix == ()
    on = placing.factored(off, BOTH, 1.0)
    assert on.mix == (Lora("a", 0.3), Lora("b", 0.0))
