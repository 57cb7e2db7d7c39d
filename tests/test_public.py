"""What others build on does not change by accident."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import pytest
from typer.main import get_command

import loraloom
from loraloom.cli import app

NAMES = {
    *("Canvas", "Condition", "Curve", "Knot", "Loom", "Lora", "LoraloomError", "Request"),
    *("Guidance", "Guides", "Reference", "Sigmas", "Stage"),
    *("Client", "Means", "Origin", "Result", "Sampling", "Scope", "Wearer", "__version__"),
}

COMMON = {"--help", "-h"}
FLAGS = {
    "": {"--version", "--install-completion", "--show-completion"},
    "generate": {
        *("prompts", "--output", "-o", "--lora", "--seed", "--size", "--frames", "--steps"),
        *("--guidance", "--pipeline", "--audio", "--no-audio", "--negative", "--image"),
        *("--model", "--policy", "--alpha", "--allow-partial", "--like", "--device"),
        *("--dtype", "--residency", "--offload", "--reference", "--reference-downscale"),
    },
    "deploy": {
        *("model", "--device-memory", "--host-memory", "--pipeline", "--lora", "--size"),
        *("--frames", "--dtype", "--residency", "--offload", "--explain"),
    },
    "serve": {
        *("model", "--config", "--host", "--port", "--api-key-file", "--admin-key-file"),
        *("--allowed-host", "--lora", "--default-lora", "--adapter-root", "--pipeline"),
        *("--allow-hub", "--no-allow-hub", "--offline", "--no-offline", "--hub", "--state"),
        *("--device", "--dtype", "--device-budget", "--host-budget", "--residency", "--offload"),
        *("--policy", "--warmup", "--no-warmup", "--max-queue", "--max-batch", "--max-work"),
        *("--max-pixels", "--max-upload", "--timeout", "--keep-for", "--keep-bytes"),
        *("--patience", "--resume", "--no-resume", "--log-format", "--log-level"),
    },
    "demo": {"--output", "-o"},
    "check": {
        *("--model", "--adapter", "--prompt", "--seed", "--size", "--steps", "--output", "-o"),
        *("--record", "--against"),
    },
    "models": set(),
    "adapters": set(),
    "adapters convert": {"file", "out"},
    "adapters inspect": {"file", "--model", "--alpha", "--allow-partial", "--json"},
}
"""Arguments and options of every command."""


def test_names() -> None:
    assert set(loraloom.__all__) == NAMES
    assert all(getattr(loraloom, name) is not None for name in NAMES)
    with pytest.raises(AttributeError, match="has no attribute 'Loam'"):
        _ = loraloom.Loam


def test_the_version_is_that_of_the_distribution() -> None:
    assert loraloom.__version__ == version("loraloom")


def test_cli_flags() -> None:
    found: dict[str, set[str]] = {}

    def visit(command: Any, path: str) -> None:
        options = {word for each in command.params for word in (*each.opts, *each.secondary_opts)}
        found[path] = options - COMMON
        for name, inner in getattr(command, "commands", {}).items():
            visit(inner, f"{path} {name}".strip())

    visit(get_command(app), "")
    assert found == FLAGS
