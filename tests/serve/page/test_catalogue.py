"""Adapters and deployment on the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from playwright.sync_api import expect
from safetensors.torch import load_file, save_file

from loraloom.models import find

from .tab import small

if TYPE_CHECKING:
    from pathlib import Path

    import httpx2

    from .tab import Tab


@pytest.fixture
def neon(tmp_path: Path) -> dict[str, Any]:
    """The tensors of an adapter that fits."""
    folder = find.card("mini").adapters["neon"]
    return dict(load_file(folder / "adapter_model.safetensors"))


def test_a_broken_adapter_is_told_with_its_keys_and_near_misses(
    tab: Tab, neon: dict[str, Any], tmp_path: Path
) -> None:
    key = "base_model.model.transformer_blocks.0.attn1.to_k.lora_A.weight"
    neon["base_model.model.transformer_blocks.0.attn1.to_kk.lora_A.weight"] = neon.pop(key)
    save_file(neon, tmp_path / "broken.safetensors")
    page = tab.open("adapters")
    page.set_input_files("#upload-file", tmp_path / "broken.safetensors")
    page.get_by_role("button", name="Inspect").click()
    report = page.locator(".report")
    expect(report).to_contain_text("It does not fit.")
    expect(report).to_contain_text("118 of 120 keys used")
    problem = report.locator(".problems li", has_text="to_kk")
    expect(problem).to_contain_text("no layer of this name")
    expect(problem.locator(".near")).to_contain_text("transformer_blocks.0.attn1.to_k")
    expect(page.locator("#publish")).to_be_hidden()


def test_an_adapter_is_published_with_words_that_are_never_markup(
    tab: Tab, neon: dict[str, Any], tmp_path: Path
) -> None:
    words = "<img src=x onerror=document.title='gone'>"
    save_file(neon, tmp_path / "my style.safetensors", {"about": words})
    Image.new("RGB", (32, 32), "teal").save(tmp_path / "look.png")
    page = tab.open("adapters")
    page.set_input_files("#upload-file", tmp_path / "my style.safetensors")
    page.get_by_role("button", name="Inspect").click()
    expect(page.locator(".report")).to_contain_text("It fits.")
    form = page.locator("#publish")
    expect(form.get_by_label("Name", exact=True)).to_have_value("my-style")
    form.get_by_label("Usual strength").fill("0.6")
    form.get_by_label("Trigger words").fill(words)
    form.get_by_label("Picture").set_input_files(tmp_path / "look.png")
    form.get_by_role("button", name="Publish").click()
    entry = page.locator(".entry", has_text="my-style")
    expect(entry.locator(".chip")).to_have_text(words)
    expect(entry.locator(".portrait img")).to_be_visible()
    page = tab.open("picture")
    card = page.locator(".card", has_text="my-style")
    expect(card.get_by_label("Strength of my-style, as a number")).to_have_value("0.6")
    card.get_by_role("button", name=words).click()
    expect(page.locator("#prompt")).to_have_value(words)
    assert page.locator("img[src=x]").count() == 0
    tab.open("adapters")
    entry.get_by_role("button", name="Pin").click()
    expect(entry).to_contain_text("pinned")
    entry.get_by_role("button", name="Withdraw").click()
    entry.get_by_role("button", name="Withdraw my-style for good").click()
    expect(entry).to_have_count(0)


def test_an_adapter_that_goes_meanwhile_is_told_beside_the_adapters(
    tab: Tab, http: httpx2.Client, neon: dict[str, Any], tmp_path: Path
) -> None:
    save_file(neon, tmp_path / "brief.safetensors")
    data = (tmp_path / "brief.safetensors").read_bytes()
    http.post("/v1/adapters", data={"name": "brief"}, files={"file": ("brief", data)})
    page = tab.open()
    small(page)
    page.get_by_label("Wear brief", exact=True).check()
    http.delete("/v1/adapters/brief")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#adapters-says")).to_contain_text("'brief' is not known")
    tab.refused(404)


def test_the_deployment_command_or_why_there_is_none(tab: Tab) -> None:
    page = tab.open("deploy")
    expect(page.locator("#deployment code")).to_contain_text("loraloom serve mini")
    page.get_by_label("neon", exact=True).last.check()
    expect(page.locator("#deployment code")).to_contain_text("neon")
    page.get_by_label("Memory of the device").fill("1M")
    page.get_by_role("button", name="Show the command").click()
    expect(page.locator("#deploy-form .error")).to_contain_text("the smallest plan")
    tab.refused(400)
