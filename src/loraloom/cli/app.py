"""The commands, and how what goes wrong is told: one sentence and exit code 2."""

from __future__ import annotations

import sys
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

import loraloom
from loraloom.errors import LoraloomError

from . import adapters, check, demo, deploy, generate, models, serve
from .console import complain

# typer exports only one of its usage errors; this is the class of all of them
UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[1])


class Commands(TyperGroup):
    """A group whose errors are sentences; also under a test's runner, which calls it directly."""

    def main(self, *args: Any, **options: Any) -> Any:
        try:
            code = super().main(*args, **{**options, "standalone_mode": False})
        except LoraloomError as error:
            complain(str(error))
            code = 2
        except UsageError as error:
            complain(error.format_message())
            code = 2
        except typer.Abort:
            code = 1
        sys.exit(code or 0)


app = typer.Typer(
    cls=Commands,
    help="One base model, any number of LoRA adapters, chosen per request.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.command("generate")(generate.generate)
app.command("serve")(serve.command())
app.command("demo")(demo.demo)
app.command("check")(check.check)
app.command("deploy")(deploy.deploy)
app.command("models")(models.models)
app.add_typer(adapters.app, name="adapters")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Show the version and stop.")] = False,
) -> None:
    if version:
        typer.echo(f"loraloom {loraloom.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """The entry point of the ``loraloom`` command."""
    app(prog_name="loraloom")
