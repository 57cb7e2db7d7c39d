"""``loraloom check``: whether the laws of the house hold for a model and its adapters."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer
from rich.console import Console
from rich.table import Table

from loraloom.checks import record
from loraloom.core.provenance import Asked
from loraloom.core.request import Sampling
from loraloom.core.stage import asked
from loraloom.engine.job import fits
from loraloom.engine.wishes import Wish, parse_wish
from loraloom.errors import AdapterFileError, InvalidRequestError, UnknownAdapterError
from loraloom.formats.read import survey
from loraloom.models import find

from . import flags
from .console import counting, note
from .loading import load
from .options import parse_size
from .showcase import STAR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loraloom.checks.record import Record
    from loraloom.checks.run import Outcome
    from loraloom.checks.slot import Setting
    from loraloom.engine.loom import Loom
    from loraloom.models.card import Card


Adapters: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        metavar="NAME|NAME=PATH|PATH",
        help="Check this one; repeat for several.",
        show_default="all that come with the model",
    ),
]
Prompt: TypeAlias = Annotated[str, typer.Option(help="What every picture shows.")]
Seed: TypeAlias = Annotated[int, typer.Option(help="Of every picture.")]
Output: TypeAlias = Annotated[
    Path, typer.Option("-o", "--output", help="The folder of the report; made if absent.")
]
Keep: TypeAlias = Annotated[
    Path | None,
    typer.Option("--record", metavar="FOLDER", help="Store latents and pictures there."),
]
Against: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Compare with what --record stored there."),
]


def check(  # noqa: PLR0913 - a command's options are its parameters
    *,
    model: flags.Model = None,
    adapter: Adapters = None,
    prompt: Prompt = STAR,
    seed: Seed = 0,
    size: flags.SizeText = None,
    steps: flags.Steps = None,
    output: Output = Path("check"),
    keep: Keep = None,
    against: Against = None,
) -> None:
    """Try the laws of wearing adapters on a model, and write a report with figures and pictures.

    Exits with 0 where all hold and with 1 where one is broken.
    """
    card = find.card(model or flags.MODEL)
    wishes = _wishes(adapter or list(card.adapters), card)
    work = Work(card, wishes, _asked(card, prompt, seed, Look(size, steps)))
    _check_files(wishes, card)
    before = record.read(against) if against else None
    if before:
        before.setting.check_asked(card.version, work.asked)
        before.setting.check_names(work.names)
    for folder in (output, *([keep] if keep else [])):
        record.check_folder(folder)
    started = time.perf_counter()
    outcome = _carry_out(work, against, before)
    _write(outcome, output, keep)
    typer.echo(f"checked in {time.perf_counter() - started:.0f} s")
    if outcome.breaches:
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class Look:
    """The options about a picture's form; ``None`` where none was given."""

    size: str | None
    steps: int | None


@dataclass(frozen=True, slots=True)
class Work:
    """What is checked."""

    card: Card
    wishes: tuple[Wish, ...]
    asked: Asked

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(wish.name for wish in self.wishes)

    def load(self) -> Loom:
        """A fresh model with the adapters."""
        loom = load(self.card.name)
        for wish in self.wishes:
            if wish.path:
                loom.adapters.add(wish.name, wish.path)
        return loom


def _wishes(texts: Sequence[str], card: Card) -> tuple[Wish, ...]:
    """Every ``--adapter`` in its order.

    Raises:
        InvalidRequestError: there is none, one has a strength, or a name is given twice.
        UnknownAdapterError, AdapterFileError: an adapter is not there.
    """
    if not texts:
        raise InvalidRequestError(
            f"no adapter comes with model {card.name!r}, give some with --adapter PATH"
        )
    wishes = tuple(_wish(text, card) for text in texts)
    names = [wish.name for wish in wishes]
    for name in names:
        if names.count(name) > 1:
            raise InvalidRequestError(
                f"--adapter names {name!r} {names.count(name)} times; give NAME=PATH to tell "
                "files apart"
            )
    return wishes


def _wish(text: str, card: Card) -> Wish:
    if text in card.adapters:
        return Wish(text)
    if "=" in text:
        wish = parse_wish(text)
        if wish.strengths or wish.curve is not None:
            raise InvalidRequestError(
                f"--adapter {text!r} has a strength or a time, a check tries its own"
            )
        return wish
    path = Path(text)
    if path.exists():
        return Wish(path.stem if path.is_file() else path.resolve().name, path)
    if path.suffix or len(path.parts) > 1:
        raise AdapterFileError(f"adapter {text!r} cannot be read, there is no such file")
    raise UnknownAdapterError(text, card.adapters)


def _asked(card: Card, prompt: str, seed: int, look: Look) -> Asked:
    """What every picture of a check is asked for.

    Raises:
        InvalidRequestError: the model cannot do that.
    """
    if not prompt.strip():
        raise InvalidRequestError("a prompt is empty")
    usual = card.defaults
    size = parse_size(look.size) if look.size else usual.picture
    canvas = replace(usual.picture, width=size.width, height=size.height)
    if not 0 <= seed < 2**63:
        raise InvalidRequestError(f"the seed is {seed}, want 0 to 2**63 - 1")
    stages = asked(usual.usual, Sampling(look.steps))
    fits(stages, canvas, card)
    return Asked(prompt, usual.negative_prompt, seed, canvas, stages, usual.audio)


def _check_files(wishes: Sequence[Wish], card: Card) -> None:
    """Return if the files of ``--adapter`` fit the model."""
    files = [wish.path for wish in wishes if wish.path]
    names = find.name_table(card) if files else None
    for file in files:
        assert names
        survey(file, names)


def _carry_out(work: Work, against: Path | None, before: Record | None) -> Outcome:
    from loraloom.checks import run  # noqa: PLC0415 - imports torch

    todo = run.Check(work.load, work.names, work.asked, {})
    if against and before:
        loom = work.load()
        now = run.setting_of(loom, work.names, work.asked)
        del loom  # two models at once would be twice the memory
        before.setting.check_same(now)
        _note_versions(before.setting, now)
        todo = replace(todo, recorded=record.shots(against, before, todo.slots))
    with counting("checks") as progress:
        return run.run(todo, progress)


def _note_versions(before: Setting, now: Setting) -> None:
    if before.versions != now.versions:
        note(f"the record was made with {before.versions}, this is {now.versions}; bits may differ")


def _write(outcome: Outcome, output: Path, keep: Path | None) -> None:
    """The report, the record if one is wanted and nothing is broken, and both for people."""
    from loraloom.checks import report  # noqa: PLC0415 - imports torch

    path = report.write(outcome, output)
    _tell(outcome)
    typer.echo(str(path))
    if keep and outcome.breaches:
        note(f"nothing is recorded in {keep}: what breaks a law is no ground truth")
    elif keep:
        record.write(keep, outcome.setting, {take.slot: take.shot for take in outcome.takes})
        typer.echo(str(keep / record.NAME))


def _tell(outcome: Outcome) -> None:
    from loraloom.checks.page import by_law, worst_of  # noqa: PLC0415 - imports torch

    table = Table("law", "trials", "worst", "of", "bound", "", box=None)
    for law, tried in by_law(outcome.findings).items():
        worst = worst_of(tried)
        holds = "[green]holds[/]" if all(f.passed for f in tried) else "[red]broken[/]"
        of = "" if worst.passed else worst.of
        table.add_row(law.name, str(len(tried)), worst.figure_text, of, worst.bound_text, holds)
    Console().print(table)
    for breaches in by_law(outcome.breaches).values():
        for breach in breaches:
            typer.echo(f"broken: {breach}", err=True)
