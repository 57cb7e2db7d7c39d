"""``loraloom serve``: every setting is a flag, told in its help, and refused in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.main import get_command

from loraloom.cli import app
from loraloom.settings import Settings

from .console import START, refused, run


def given(*words: str) -> dict[str, Any]:
    """What the command line hands to the settings."""
    command = get_command(app).commands["serve"]  # type: ignore[attr-defined]
    found: dict[str, Any] = command.make_context("serve", list(words)).params
    return found


def test_what_is_not_given_is_left_to_other_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    said = given()
    assert said.keys() == {*Settings.model_fields, "config"}
    assert not [name for name, value in said.items() if value not in (None, [], ())]
    monkeypatch.setenv("LORALOOM_LORA", "[1]")
    assert "LORALOOM_LORA is '[1]', want a valid string" in refused("serve")


def test_every_flag_says_its_setting() -> None:
    values = {
        name: text
        for name, field in Settings.model_fields.items()
        if field.annotation is not bool
        for text in [{"port": "1", "timeout": "2m", "patience": "1s", "keep_for": "1d"}.get(name)]
        if text
    }
    words = [
        word for name, text in values.items() for word in (f"--{name.replace('_', '-')}", text)
    ]
    said = given("flux", *words, "--lora", "a=b", "--lora", "c=d:0.5", "--no-warmup", "--resume")
    assert said["model"] == "flux"
    assert [*said["lora"]] == ["a=b", "c=d:0.5"]
    assert (said["warmup"], said["resume"], said["offline"]) == (False, True, None)
    assert {name: said[name] for name in values} == values


def test_the_help_tells_every_setting_its_values_and_its_default() -> None:
    done = subprocess.run(
        [sys.executable, "-c", START, "serve", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "240"},
    )
    said = " ".join(done.stdout.split())
    for name, field in Settings.model_fields.items():
        assert name == "model" or f"--{name.replace('_', '-')} " in said
        for choice in get_args(field.annotation):
            if isinstance(choice, str):
                assert choice in said
    for text in ("127.0.0.1", "8000", "10m", "7d", "4G", "LORALOOM_MAX_QUEUE"):
        assert text in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--port", "x"), "--port is 'x', want a valid integer"),
        (("--keep-bytes", "8Q"), "--keep-bytes is '8Q', want bytes with a unit"),
        (("--policy", "molten"), "--policy is 'molten', want 'live', 'fused' or 'auto'"),
        (("--config", "none.toml"), "none.toml cannot be read: No such file or directory"),
        (("--prot", "1"), "No such option"),
    ],
)
def test_what_cannot_be_is_refused_with_one_sentence(
    words: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert says in refused("serve", *words)


def test_a_variable_and_a_file_are_read_by_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "loraloom.toml").write_text("max_queeu = 1")
    sentence = refused("serve", "--config", str(tmp_path / "loraloom.toml"))
    assert "there is no setting max_queeu in" in sentence
    monkeypatch.setenv("LORALOOM_MAX_BATCH", "0")
    assert "LORALOOM_MAX_BATCH is '0', want" in refused("serve")
    assert run("serve", "--help").exit_code == 0


@pytest.mark.parametrize("words", [("--help",), ("--port", "x"), ("--prot", "1")])
def test_nothing_but_serving_imports_torch(words: tuple[str, ...]) -> None:
    code = (
        "import sys\n"
        "from loraloom.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print([x for x in ('torch', 'fastapi', 'uvicorn') if x in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "100"},
    )
    assert done.returncode == (0 if words == ("--help",) else 2), done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
