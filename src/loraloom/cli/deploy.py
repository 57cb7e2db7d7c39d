"""``loraloom deploy``: the command for a model, a pipeline, adapters and a machine, and why."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from loraloom.engine.deployment import Wanted, deployment, usual_canvas
from loraloom.engine.resources import Resources, parse_bytes
from loraloom.memory.staging import Room
from loraloom.models import find

from . import flags
from .options import parse_size

if TYPE_CHECKING:
    from loraloom.core.request import Canvas
    from loraloom.models.card import Card

Model: TypeAlias = Annotated[str, typer.Argument(help="A bundled name, a folder or a hub id.")]
Explain: TypeAlias = Annotated[
    bool, typer.Option("--explain", help="Show the plan and its bytes, too.")
]
DeviceRoom: TypeAlias = Annotated[
    str, typer.Option("--device-memory", metavar="BYTES", help="Of the device, e.g. 80G.")
]
HostRoom: TypeAlias = Annotated[
    str, typer.Option("--host-memory", metavar="BYTES", help="Of the host, e.g. 128G.")
]
Loras: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="NAME[[@COMPONENT]=PATH][:STRENGTH]",
        help="An adapter to publish, at a default strength if given; repeat for several.",
    ),
]


def deploy(  # noqa: PLR0913 - a command's options are its parameters
    model: Model = flags.MODEL,
    *,
    device_memory: DeviceRoom,
    host_memory: HostRoom = "128G",
    pipeline: flags.Pipeline = None,
    lora: Loras = None,
    size: flags.SizeText = None,
    frames: flags.Frames = None,
    dtype: flags.Dtype = "bfloat16",
    residency: flags.Keeping = "auto",
    offload: flags.Offloading = "auto",
    explain: Explain = False,
) -> None:
    """Print the command that serves a model with these adapters on such a machine.

    Nothing is loaded: bytes are counted from the headers of the files. What does not go together
    is refused.
    """
    card = find.card(model)
    room = Room(
        parse_bytes(device_memory, "--device-memory"), parse_bytes(host_memory, "--host-memory")
    )
    found = deployment(
        Wanted(
            card,
            Resources(residency, offload, room),
            tuple(lora or ()),
            pipeline,
            _canvas(card, size, frames),
            dtype or "bfloat16",
        )
    )
    typer.echo(found.command)
    if explain:
        typer.echo("\n" + found.plan)


def _canvas(card: Card, size: str | None, frames: int | None) -> Canvas:
    """The largest that requests ask for."""
    base = card.defaults.picture if frames == 1 else usual_canvas(card)
    sides = parse_size(size) if size else base
    length = base.frames if frames is None else frames
    return replace(base, width=sides.width, height=sides.height, frames=length)
