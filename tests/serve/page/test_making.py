"""Pictures, comparisons and videos, made on the page by a real server."""

from __future__ import annotations

import re
import subprocess
import sys
from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from PIL import Image, ImageChops, ImageColor
from playwright.sync_api import expect

from .tab import STAR, made, newest, small, strength

if TYPE_CHECKING:
    from pathlib import Path

    import httpx2

    from .tab import Tab


def test_two_adapters_are_worn_and_told(tab: Tab, http: httpx2.Client) -> None:
    page = tab.open()
    small(page, f"{STAR} <lora:neon:0.75>")
    page.get_by_label("Wear sketch", exact=True).check()
    strength(page, "sketch", 0.25)
    made(page)
    expect(page.locator("#prompt")).to_have_value(STAR)
    job = newest(http)
    assert job["request"]["loras"] == [
        {"name": "neon", "scale": 0.75},
        {"name": "sketch", "scale": 0.25},
    ]
    worn = job["results"][0]["loras"]
    for each, line in zip(worn, page.locator(".threads li").all(), strict=True):
        said = line.inner_text()
        assert each["name"] in said
        assert f"{each['scale']:g}" in said
        assert each["sha256"][:12] in said
        assert f"{each['sites']} layers" in said
    expect(page.locator("#stage .facts")).to_contain_text(str(job["results"][0]["seed"]))
    picture = page.locator("#stage .frame img")
    assert picture.evaluate("each => each.naturalWidth") == 64
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename.endswith(f"-{job['results'][0]['seed']}.png")


def test_what_the_page_has_no_field_for_is_kept_and_told(tab: Tab, http: httpx2.Client) -> None:
    more = {
        "target": "transformer",
        "schedule": [{"progress": 0.0, "factor": 1.0}, {"progress": 1.0, "factor": 0.0}],
        "scopes": [{"pattern": "*", "factor": 0.5}],
    }
    http.put("/v1/default-mix", json={"loras": [{"name": "neon", "scale": 0.5, **more}]})
    page = tab.page
    said = page.locator("#cards [data-name=neon]")
    told = "on the transformer alone, by a schedule, with factors by layer"
    try:
        tab.open()
        expect(said).to_contain_text(told)
    finally:
        http.put("/v1/default-mix", json={"loras": []})
    strength(page, "neon", 0.25)
    small(page)
    made(page)
    assert newest(http)["request"]["loras"] == [{"name": "neon", "scale": 0.25, **more}]
    page.reload()
    expect(said).to_contain_text("by a schedule")
    page.get_by_role("button", name="Reuse settings").click()
    expect(said).to_contain_text(told)
    made(page)
    assert newest(http)["request"]["loras"] == [{"name": "neon", "scale": 0.25, **more}]
    page.get_by_label("Wear neon", exact=True).uncheck()
    expect(said).not_to_contain_text("by a schedule")


def test_progress_is_shown_step_by_step_and_the_end_is_heard(tab: Tab) -> None:
    page = tab.open()
    page.evaluate(
        """() => { window.said = []; new MutationObserver(() => {
          const words = document.querySelector('#stage .waiting p')?.textContent;
          if (words) window.said.push(words);
        }).observe(document.getElementById('stage'), {subtree: true, childList: true}); }"""
    )
    small(page, steps=12)
    made(page)
    said = page.evaluate("window.said")
    assert any(re.fullmatch(r"Base: step \d+ of 12", words) for words in said), said
    expect(page.locator("#live")).to_have_text("Picture is ready.")


def test_a_reload_finds_the_job_again_and_escape_cancels_it(tab: Tab, http: httpx2.Client) -> None:
    page = tab.open()
    small(page, steps=900)
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#stage progress")).to_be_visible()
    page.reload()
    expect(page.locator("#stage")).to_contain_text("of 900")
    expect(page.locator("#prompt")).to_have_value(STAR)
    page.keyboard.press("Escape")
    expect(page.locator("#stage")).to_contain_text("It was cancelled.")
    assert newest(http)["status"] == "cancelled"


def test_a_picture_is_made_with_the_keyboard_alone(tab: Tab, http: httpx2.Client) -> None:
    page = tab.open()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the link that skips to the prompt
    page.keyboard.type(STAR)
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.ariaLabel") == "Wear neon":
            break
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name") == "steps":
            break
    page.keyboard.type("2")
    made(page)
    assert newest(http)["request"]["loras"] == [{"name": "neon", "scale": 0.75}]


def test_what_is_wrong_is_told_where_it_belongs(tab: Tab) -> None:
    page = tab.open()
    small(page, f"{STAR} <lora:noen:1>")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#prompt-says")).to_contain_text("no adapter is called 'noen'")
    page.fill("#prompt", STAR)
    page.select_option("[name=size]", "own")
    page.fill("[name=width]", "100")
    page.fill("[name=height]", "32")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#settings-says")).to_contain_text("96 and 128")
    expect(page.locator("[name=width]")).to_be_focused()
    page.fill("[name=width]", "32")
    page.select_option("[name=pipeline]", "two-stage")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#send-says")).to_contain_text("width of stage 'base' is 16")
    tab.refused(400)


def test_a_comparison_is_one_batch_and_a_labelled_grid(tab: Tab, http: httpx2.Client) -> None:
    page = tab.open("compare")
    small(page)
    for name in ("distilled", "neon", "sketch", "transition"):
        page.locator("#compare-rows").get_by_label(name).set_checked(name in {"neon", "sketch"})
    page.fill("[name=strengths]", "0.5, 1")
    expect(page.locator("#compare-count")).to_contain_text("4 pictures")
    made(page)
    assert newest(http)["request"]["mixes"] == [
        [{"name": name, "scale": scale}] for name in ("neon", "sketch") for scale in (0.5, 1.0)
    ]
    grid = page.locator(".compared")
    assert grid.locator("thead th").all_inner_texts() == ["0.5", "1"]
    assert grid.locator("tbody th").all_inner_texts() == ["neon", "sketch"]
    expect(grid.locator("img")).to_have_count(4)
    assert len({each.get_attribute("src") for each in grid.locator("img").all()}) == 4
    grid.get_by_role("button", name="sketch at 0.5").click()
    expect(page.locator(".threads")).to_contain_text("sketch 0.5")


def test_two_mixes_are_wiped_with_the_arrow_keys(tab: Tab) -> None:
    page = tab.open("compare")
    small(page)
    page.get_by_label("Two mixes").check()
    page.get_by_label("neon in mix A", exact=True).fill("")
    page.get_by_label("neon in mix B", exact=True).fill("0.8")
    made(page)
    wipe = page.get_by_role("slider", name="How much of mix A")
    wipe.focus()
    edge = page.locator(".wipe .edge")
    before = edge.bounding_box()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    after, box = edge.bounding_box(), page.locator(".wipe").bounding_box()
    assert before and after and box
    assert after["x"] - before["x"] == pytest.approx(box["width"] / 10, abs=1)
    expect(page.locator(".wearing").first).to_contain_text("Mix A")


def test_a_video_begins_with_the_image_and_says_what_was_worn_by_stage(
    tab: Tab, http: httpx2.Client, tmp_path: Path
) -> None:
    image = tmp_path / "first.png"
    Image.new("RGB", (64, 64), "teal").save(image)
    page = tab.open("video")
    small(page)
    page.select_option("[name=pipeline]", "two-stage")
    page.fill("[name=frames]", "9")
    page.get_by_label("First image", exact=True).set_input_files(image)
    expect(page.get_by_alt_text("First image: first.png")).to_be_visible()
    made(page)
    player = page.locator("#stage video")
    player.evaluate(
        "each => new Promise(done => each.readyState ? done() : each.onloadeddata = done)"
    )
    assert player.evaluate("each => [each.videoWidth, each.videoHeight]") == [64, 64]
    expect(page.locator(".threads")).to_contain_text("base 0, refine 1")
    job = newest(http)
    assert job["kind"] == "video"
    thumbnail = http.get(f"/v1/videos/video_{job['id']}/content?variant=thumbnail").content
    colours = Image.open(BytesIO(thumbnail)).convert("RGB").resize((1, 1)).getpixel((0, 0))
    assert colours == pytest.approx(ImageColor.getrgb("teal"), abs=40)
    page.locator("#ends").get_by_role("button", name="Remove the first image").click()
    expect(page.get_by_alt_text("First image: first.png")).to_have_count(0)


@pytest.mark.slow
@pytest.mark.parametrize("language", ["Python, openai", "loraloom.Client"])
def test_the_code_that_is_shown_makes_the_same_picture(
    tab: Tab, http: httpx2.Client, tmp_path: Path, language: str
) -> None:
    page = tab.open()
    small(page)
    page.get_by_label("Wear neon", exact=True).check()
    page.uncheck("[name=roll]")
    page.locator("#code-part summary").click()
    page.get_by_label(language).check()
    code = page.locator("#code").inner_text()
    made(page)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
    (tmp_path / "page.png").write_bytes(http.get(newest(http)["results"][0]["url"]).content)
    ours, theirs = (Image.open(tmp_path / name) for name in ("page.png", "picture-0.png"))
    assert ImageChops.difference(ours, theirs).getbbox() is None
