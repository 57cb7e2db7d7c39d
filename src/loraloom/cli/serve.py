"""``loraloom serve``: every setting as a flag, then the server. No torch until it starts."""

from __future__ import annotations

from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from loraloom.settings import Settings, load

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

CONFIG = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.toml",
        help="Settings by their names, e.g. max_queue = 64. Flags and the environment's "
        "LORALOOM_MAX_QUEUE go before them.",
        show_default="LORALOOM_CONFIG",
    ),
]


def serve(config: Path | None = None, **flags: Any) -> None:
    """Serve a model over HTTP: pictures, videos, adapters by request, and a page to look at.

    Every flag is also a variable, LORALOOM_MAX_QUEUE for --max-queue, and a setting of --config.
    Ctrl-C finishes what runs; once more stops at once.
    """
    settings = load(flags, config)
    from loraloom.serve.run import run  # noqa: PLC0415 - imports torch

    raise typer.Exit(run(settings))


def _parameter(name: str, field: FieldInfo) -> Parameter:
    """A flag as text, which :func:`load` reads; so that a wrong one is told like a wrong variable.

    One of which nothing is said is ``None``.
    """
    extra = field.json_schema_extra
    assert isinstance(extra, dict)
    words: dict[str, Any] = {"help": field.description, "show_default": _default(field)}
    words["metavar"] = extra["shown"] or "|".join(get_args(field.annotation)) or None
    if name == "model":
        kind: Any = Annotated[str | None, typer.Argument(**words)]
    elif field.annotation is bool:
        flag = name.replace("_", "-")
        kind = Annotated[bool | None, typer.Option(f"--{flag}/--no-{flag}", **words)]
    elif str(field.annotation).startswith("tuple"):
        kind = Annotated[list[str] | None, typer.Option(_flag(name), **words)]
    else:
        kind = Annotated[str | None, typer.Option(_flag(name), **words)]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=kind)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _default(field: FieldInfo) -> str | bool:
    if field.annotation is bool:
        return "yes" if field.default else "no"
    return str(field.default) if field.default not in (None, ()) else False


def command() -> Any:
    """:func:`serve` with a parameter for every setting, from which typer makes its flags."""
    parameters = [_parameter(name, field) for name, field in Settings.model_fields.items()]
    config = Parameter("config", Parameter.KEYWORD_ONLY, default=None, annotation=CONFIG)
    serve.__signature__ = Signature([*parameters, config])  # type: ignore[attr-defined]
    serve.__annotations__ = {each.name: each.annotation for each in (*parameters, config)}
    return serve
