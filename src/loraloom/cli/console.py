"""What the command line says while it works, on stderr and only to people."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from loraloom.engine.run import Tick


def complain(message: str) -> None:
    """One sentence on stderr."""
    typer.echo(f"loraloom: error: {' '.join(message.split())}", err=True)


def note(message: str) -> None:
    """Something that does not stop the work but that somebody should know."""
    typer.echo(f"loraloom: note: {message}", err=True)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say ``what`` takes its time while the block runs."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(what):
        yield


@contextmanager
def counting(what: str) -> Iterator[Callable[[Tick], None]]:
    """A bar that shows how many of how many steps are done, and in which stage."""
    console = Console(stderr=True)
    said = TextColumn("{task.description}")
    columns = (said, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(what, total=None)

        def told(tick: Tick) -> None:
            stage = f"{what}, {tick.stage}"
            progress.update(task, description=stage, completed=tick.done, total=tick.of)

        yield told
