"""What the page is made of: its own files and nothing else."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from loraloom.serve.page import FOLDER, POLICY, assets

if TYPE_CHECKING:
    import httpx2


def test_the_page_may_load_nothing_from_elsewhere(http: httpx2.Client) -> None:
    for path in ("/", "/static/app.js", "/static/style.css", "/static/icon.svg"):
        answer = http.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert "unsafe" not in POLICY
    assert POLICY.startswith("default-src 'none'")


def test_every_file_that_the_page_names_is_there_and_all_are_its_own() -> None:
    named = set()
    for name, asset in assets().items():
        text = asset.data.decode()
        named |= set(re.findall(r'(?:static/|from "\./)([\w.-]+)"', text))
        strange = [url for url in re.findall(r"https?://[\w./-]+", text) if "w3.org" not in url]
        assert strange in ([], ["https://html.spec.whatwg.org"]), f"{name} names {strange}"
        assert "innerHTML" not in text
        assert "alert(" not in text
        assert text.count("\n") <= 250, f"{name} is too long"
    assert named | {"index.html"} == set(assets())


def test_what_a_browser_has_is_not_sent_again(http: httpx2.Client) -> None:
    first = http.get("/static/app.js")
    again = http.get(
        "/static/app.js", headers={"If-None-Match": f'"other", {first.headers["etag"]}'}
    )
    assert (again.status_code, again.content) == (304, b"")
    other = http.get("/static/app.js", headers={"If-None-Match": '"other"'})
    assert other.content == first.content == (FOLDER / "app.js").read_bytes()


@pytest.mark.parametrize(
    "path", ["nothing.js", "..%2fpage.py", "%2e%2e/page.py", "..%5cpage.py", "%2fetc%2fpasswd"]
)
def test_no_other_file_is_given_away(http: httpx2.Client, path: str) -> None:
    answer = http.get(f"/static/{path}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"
