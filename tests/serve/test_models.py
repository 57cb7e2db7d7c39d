"""Models: the base and every adapter, as OpenAI's clients list them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from loraloom.models.find import card
from loraloom.serve.models import model_id

if TYPE_CHECKING:
    from pathlib import Path

    import httpx2

    from loraloom.serve.service import Service


def test_the_base_comes_first_and_says_what_requests_may_ask(
    http: httpx2.Client, service: Service
) -> None:
    found = http.get("/v1/models").json()
    assert found["object"] == "list"
    base, *adapters = found["data"]
    assert (base["id"], base["object"], base["owned_by"]) == ("mini", "model", "loraloom")
    assert base["parent"] is None
    assert base["pipelines"] == ["one-stage", "two-stage"]
    assert base["stages"]["two-stage"] == ["base", "refine"]
    assert base["components"] == ["transformer", "connectors"]
    assert base["grid"]["pixels"] == service.card.grid.pixels
    assert base["abilities"] == {"images": True, "sound": True, "videos": True}
    assert base["limits"]["batch"] == service.settings.max_batch
    assert isinstance(base["created"], int)
    assert [each["id"] for each in adapters] == [f"mini:{n}" for n in service.catalog.names()]
    assert all(each["parent"] == "mini" and len(each["sha256"]) == 64 for each in adapters)
    assert str(service.card.root) not in http.get("/v1/models").text


def test_a_model_is_found_by_every_name_that_requests_may_use(http: httpx2.Client) -> None:
    assert http.get("/v1/models/base").json() == http.get("/v1/models/mini").json()
    adapter = http.get("/v1/models/mini:neon").json()
    assert (adapter["id"], adapter["root"], adapter["parent"]) == ("mini:neon", "neon", "mini")
    assert http.get("/v1/models/base:neon").json() == adapter
    assert adapter in http.get("/v1/models").json()["data"]


def test_an_unknown_model_is_answered_with_close_names(http: httpx2.Client) -> None:
    for name, near in (("minni", "'mini'"), ("mini:noen", "'neon'"), ("owner/name:x", "")):
        answer = http.get(f"/v1/models/{name}")
        assert answer.status_code == 404
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == ("model_not_found", "model")
        assert near in error["message"]


def test_a_model_in_a_folder_is_called_by_the_folder_and_not_by_its_path(tmp_path: Path) -> None:
    mini = card("mini")
    assert model_id(mini) == "mini"
    link = tmp_path / "my-model"
    link.symlink_to(mini.root)
    assert "/" not in model_id(card(str(link)))
    folder = replace(mini, name=str(tmp_path), root=tmp_path)
    assert model_id(folder) == tmp_path.name
    fetched = replace(mini, name="owner/name", root=tmp_path / "snapshots" / "abc")
    assert model_id(fetched) == "owner/name"
