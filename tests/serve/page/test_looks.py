"""Who can use the page: on a phone, in the dark, without a mouse, with a key."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from .tab import VIEWS, made, small

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    import httpx2

    from .tab import Tab


def test_a_server_with_keys_asks_for_one_and_the_tab_keeps_it(
    visit: Callable[..., Tab],
    door: Callable[..., AbstractContextManager[httpx2.Client]],
    keys: Callable[[str, str], Path],
) -> None:
    with door(api_key_file=keys("keys", "sesame-open-up-0123456789\n")) as client:
        tab = visit(str(client.base_url).rstrip("/"))
        page = tab.page
        page.goto(tab.url)
        expect(page.locator("#key-form")).to_contain_text("This server wants a key.")
        tab.refused(401)
        page.fill("#key", "sesame-open-up-0123456789")
        page.keyboard.press("Enter")
        expect(page.locator(".card").first).to_be_visible()
        expect(page.locator("#key-form")).to_be_hidden()
        small(page)
        made(page)
        expect(page.locator("#stage .frame img")).to_be_visible()
        assert "sesame" not in json.dumps(page.evaluate("({...localStorage})"))
        page.context.close()


def test_no_view_scrolls_sideways_on_a_phone(visit: Callable[..., Tab], server: str) -> None:
    tab = visit(server, is_mobile=True, has_touch=True)
    tab.page.set_viewport_size({"width": 375, "height": 740})
    for view in VIEWS:
        page = tab.open(view)
        for summary in page.locator("summary:visible").all():
            summary.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 375, view


CONTRASTS = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = parse(getComputedStyle(each).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
  };
  const written = (each) => [...each.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  const texts = [...document.querySelectorAll("body *:not(svg, svg *)")]
    .filter((each) => each.checkVisibility() && written(each));
  return texts.map((each) => {
    const both = [parse(getComputedStyle(each).color), ground(each)].map(light);
    const [a, b] = both.sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), each.textContent.trim().slice(0, 40)];
  }).filter(([contrast]) => contrast < 4.5);
}"""
"""Texts with less contrast than WCAG 2.2 wants of them at level AA; its formula, 1.4.3."""

NAMELESS = """() => [...document.querySelectorAll("input, select, textarea, button")]
  .filter((each) => !each.labels?.length && !each.ariaLabel && !each.textContent.trim())
  .map((each) => each.outerHTML)"""
"""Controls that nothing names."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_and_every_control_has_a_name(
    visit: Callable[..., Tab], server: str, scheme: str
) -> None:
    tab = visit(server, color_scheme=scheme)
    for view in VIEWS:
        page = tab.open(view)
        for summary in page.locator("summary:visible").all():
            summary.click()
        assert page.evaluate(CONTRASTS) == [], view
    assert page.evaluate(NAMELESS) == []
    dark = page.evaluate("parseInt(getComputedStyle(document.body).backgroundColor.slice(4)) < 60")
    assert dark == (scheme == "dark")
    page.locator("#theme").click()  # light, whatever the system says
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    page.reload()
    expect(page.locator("html")).to_have_css("color-scheme", "light")
