"""What others build on does not change by accident."""

from __future__ import annotations

from typing import Any

from typer.main import get_command

from loraloom.cli import app

COMMON = {"--help", "-h"}
FLAGS = {
    "": {"--version", "--install-completion", "--show-completion"},
    "generate": {
        *("prompts", "--output", "-o", "--lora", "--seed", "--size", "--frames", "--steps"),
        *("--guidance", "--negative", "--image", "--model", "--policy", "--alpha"),
        *("--allow-partial", "--like"),
    },
    "demo": {"--output", "-o"},
    "models": set(),
    "adapters": set(),
    "adapters inspect": {"file", "--model", "--alpha", "--allow-partial", "--json"},
}
"""Arguments and options of every command."""


def test_cli_flags() -> None:
    found: dict[str, set[str]] = {}

    def visit(command: Any, path: str) -> None:
        options = {word for each in command.params for word in (*each.opts, *each.secondary_opts)}
        found[path] = options - COMMON
        for name, inner in getattr(command, "commands", {}).items():
            visit(inner, f"{path} {name}".strip())

    visit(get_command(app), "")
    assert found == FLAGS
