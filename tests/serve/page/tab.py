"""A tab of a browser on the page, and what tests do in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from playwright.sync_api import expect

if TYPE_CHECKING:
    import httpx2
    from playwright.sync_api import ConsoleMessage, Page

VIEWS = ("picture", "compare", "video", "adapters", "deploy")
STAR = "a large red star on a blue background"


@dataclass(eq=False)  # not frozen: playwright notes on an object that its method listens
class Tab:
    """A tab; ``faults`` are errors of the page and requests to other hosts."""

    page: Page
    url: str
    faults: list[str] = field(default_factory=list)

    def open(self, view: str = "picture") -> Page:
        """A view, once it has all that the server has."""
        self.page.goto(f"{self.url}/#{view}")
        expect(self.page.locator("#model")).to_have_text("mini")
        expect(self.page.locator("#cards .card").first).to_be_attached()
        return self.page

    def heard(self, said: ConsoleMessage) -> None:
        """Note an error."""
        if said.type == "error":
            self.faults.append(said.text)

    def asked(self, url: str) -> None:
        """Note a request that leaves the server."""
        if not url.startswith((f"{self.url}/", f"blob:{self.url}/", "data:")):
            self.faults.append(f"a request to {url}")

    def refused(self, status: int) -> None:
        """Forget that the browser notes an answer of that status, which the test asks for."""
        assert [each for each in self.faults if f"status of {status}" in each], self.faults
        self.faults[:] = [each for each in self.faults if f"status of {status}" not in each]


def small(page: Page, prompt: str = STAR, steps: int = 2) -> None:
    """Ask for something that takes no time."""
    page.fill("#prompt", prompt)
    page.select_option("[name=size]", "64x64")
    page.fill("[name=steps]", str(steps))


def made(page: Page) -> None:
    """Press Ctrl+Enter and wait for what comes of it."""
    before = page.locator("#strip li").count()
    page.keyboard.press("Control+Enter")
    expect(page.locator("#strip li")).to_have_count(before + 1)
    expect(page.locator("#stage .told")).to_be_visible(timeout=60_000)


def newest(http: httpx2.Client) -> dict[str, Any]:
    """The job that was asked for last, as the server tells it."""
    found: dict[str, Any] = http.get("/v1/jobs?limit=1").json()["data"][0]
    return found


def strength(page: Page, name: str, value: float) -> None:
    page.get_by_label(f"Strength of {name}, as a number", exact=True).fill(str(value))
