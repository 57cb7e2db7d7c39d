"""What the guide to the server shows is run, in its order, and answers what it says."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer

from loraloom.cli.app import app
from loraloom.serve.app import create_app
from loraloom.serve.shop import Shop
from loraloom.settings import Settings, load
from loraloom.store.roots import Roots

from .conftest import served

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loraloom.serve.service import Service

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
ADDRESS = "http://127.0.0.1:8000"
PROGRAMS = {"sh": ("sh", "-eu", "-c"), "python": (sys.executable, "-c")}


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a guide: its language and text, and what it says it prints."""

    language: str
    text: str
    shown: str = ""


def blocks(guide: str) -> list[Block]:
    """Those of a guide; what is shown behind one is part of it."""
    found: list[Block] = []
    text = (GUIDES / guide).read_text(encoding="utf-8")
    for language, inside in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if language in {"text", "json"}:
            found[-1] = replace(found[-1], shown=inside)
        else:
            found.append(Block(language, inside))
    return found


def starts(block: Block) -> bool:
    """Whether it starts a server of its own."""
    return re.search(r"^(\w+=\S+ |'[^']*' )*.*loraloom serve", block.text) is not None


@pytest.fixture
def address(service: Service, tmp_path: Path) -> Iterator[str]:
    """A server that may read adapters below the folder in which the guide is followed."""
    shop = service.shop
    here = Shop(service.catalog, shop.names, shop.fetcher, shop.stock, Roots([tmp_path]))
    with served(create_app(replace(service, shop=here))) as url:
        yield url
    service.defaults.set(())


def run(block: Block, folder: Path, address: str) -> str:
    """What a block prints."""
    done = subprocess.run(
        [*PROGRAMS[block.language], block.text.replace(ADDRESS, address)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ
        | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONWARNINGS": "error",
        },
    )
    assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"
    assert done.stderr == "", block.text
    return done.stdout.replace(address, ADDRESS)


def says(printed: str, shown: str) -> bool:
    """Whether something printed is as shown, where ``…`` is anything and blanks do not count."""
    if shown.startswith("{") and "…" not in shown and "\n{" not in shown:
        return bool(json.loads(printed) == json.loads(shown))
    pattern = ".*?".join(re.escape(" ".join(part.split())) for part in shown.split("…"))
    return re.fullmatch(pattern.replace(r"\ ", r"\s*"), " ".join(printed.split())) is not None


def test_what_is_shown_is_found_and_what_is_not_is_told() -> None:
    assert says("a  b\n/v1/7f3/0\n", "a b\n/v1/…/0\n")
    assert says('{"a": 1,  "b": 2}', '{"b": 2, "a": 1}')
    assert not says("a c", "a b")
    assert not says("a b c", "a b")


@pytest.mark.parametrize("guide", ["serving.md", "migration.md"])
def test_the_guide_does_what_it_says(guide: str, address: str, tmp_path: Path) -> None:
    ran = [each for each in blocks(guide) if each.language in PROGRAMS and not starts(each)]
    known = "".join(each.text for each in ran if each.text.startswith("get()"))
    for block in ran:
        text = known + block.text if block.language == "sh" else block.text
        printed = run(replace(block, text=text), tmp_path, address)
        assert says(printed, block.shown), f"{block.text}\nprints\n{printed}"
    assert [path for path in tmp_path.iterdir() if path.suffix in {".json", ".png", ".mp4"}]


def settings_of(command: str) -> Settings:
    """What a command line that starts a server means; the server is not started."""
    words = shlex.split(command)
    variables: dict[str, str] = {}
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        variables[name] = value
    assert words[:2] == ["loraloom", "serve"], command
    serve: Any = typer.main.get_command(app)
    given = serve.commands["serve"].make_context("serve", words[2:]).params
    said = {name: None if value == () else value for name, value in given.items()}
    return load(said, said.pop("config"), variables)


@pytest.mark.parametrize("guide", ["serving.md", "operations.md"])
def test_commands_that_start_a_server_are_understood(
    guide: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    started = []
    for block in blocks(guide):
        if block.language == "toml":
            name = block.text.partition("\n")[0].removeprefix("# ")
            Path(name).write_text(block.text, encoding="utf-8")
        elif block.language == "sh" and starts(block):
            started += [settings_of(line) for line in block.text.splitlines()]
    assert started
    if guide == "serving.md":
        last = started[-1]
        assert (last.port, last.max_queue, last.timeout) == (8100, 32, 900.0)
        assert last.default_lora == ("neon:0.5", "sketch:0.3")


def test_every_setting_is_in_the_table_with_its_default() -> None:
    whole = (GUIDES / "operations.md").read_text(encoding="utf-8")
    text = whole.partition("## Settings")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `([a-z_]+)` \|\s*`?([^|`]*?)`?\s*\|", text, re.MULTILINE))
    fields = Settings.model_fields
    assert rows.keys() == fields.keys()
    shown = {name: value for name, value in rows.items() if value.strip()}
    told = {name: load({name: value}, environment={}) for name, value in shown.items()}
    usual = load({}, environment={})
    for name, field in fields.items():
        if name in told:
            assert getattr(told[name], name) == getattr(usual, name), name
        else:
            assert field.default in {None, ()}, name
