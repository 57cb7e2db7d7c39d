"""``loraloom adapters``: what an adapter file would do; a pickle made an adapter file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loraloom.formats.read import survey
from loraloom.formats.reading import by_reason, counted, span
from loraloom.models import find

if TYPE_CHECKING:
    from loraloom.formats.reading import Reading

app = typer.Typer(
    help="What is in an adapter file; pickles made adapter files.", pretty_exceptions_enable=False
)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A .safetensors file, or a folder with one.")],
    *,
    model: Annotated[str, typer.Option(help="A bundled name, a folder or a hub id.")] = "mini",
    alpha: Annotated[
        float | None, typer.Option(help="Alpha of layers that do not give their own.")
    ] = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Accept a file that fits only in part.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, for programs.")] = False,
) -> None:
    """Say what an adapter file would do to a model, or why it is refused (exit code 2)."""
    names = find.name_table(find.card(model))
    reading = survey(file, names, alpha=alpha, allow_partial=allow_partial)
    sha256 = _sha256(reading.source.path)
    if as_json:
        typer.echo(json.dumps({"model": model, "sha256": sha256, **reading.as_dict()}, indent=2))
    else:
        typer.echo(_described(reading, model, sha256))


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="A pickle: .bin, .pt, .pth or .ckpt.")],
    out: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
) -> None:
    """Write the tensors of a pickle to a safetensors file; no code in the pickle is run.

    An adapter_config.json beside the pickle is copied along. Nothing is overwritten.
    """
    from loraloom.formats.convert import convert as converted  # noqa: PLC0415 - imports torch

    tensors = converted(file, out).tensors
    typer.echo(f"{out}  {counted(len(tensors), 'tensor')}")


def _described(reading: Reading, model: str, sha256: str) -> str:
    used = reading.keys - len(reading.problems)
    facts = {
        "format": reading.format,
        "file sha256": sha256,
        "layers": f"{reading.sites} of the {reading.of} of {model}",
        "keys": f"{used} of {reading.keys} used",
        "rank": span([entry.rank for entry in reading.entries]),
        "alpha": span([entry.alpha for entry in reading.entries]),
        "scale": span([entry.scale for entry in reading.entries]),
    }
    lines = [str(reading.source.path), *(f"  {name:<13}{text}" for name, text in facts.items())]
    lines += [f"  says {name}: {text}" for name, text in reading.about.items() if text]
    lines += [f"  note: {each}" for each in reading.notes]
    lines += [f"  unused: {each}" for each in by_reason(reading.problems)]
    return "\n".join(lines)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
