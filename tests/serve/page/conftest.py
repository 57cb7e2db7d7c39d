"""A real browser, without a window."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import sync_playwright

from .tab import Tab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Tab]]:
    """Opens tabs on a server, each as a browser of its own; at the end none has had a fault."""
    tabs: list[Tab] = []

    def opened(url: str, **options: Any) -> Tab:
        size = {"width": 1280, "height": 900}
        page = browser.new_context(**{"viewport": size, **options}).new_page()
        page.set_default_timeout(20_000)
        tab = Tab(page, url)
        page.on("console", tab.heard)
        page.on("pageerror", lambda error: tab.faults.append(str(error)))
        page.on("request", lambda request: tab.asked(request.url))
        tabs.append(tab)
        return tab

    yield opened
    for tab in tabs:
        tab.page.context.close()
    assert [fault for tab in tabs for fault in tab.faults] == []


@pytest.fixture
def tab(visit: Callable[..., Tab], server: str) -> Tab:
    """A tab on the session's server."""
    return visit(server)
