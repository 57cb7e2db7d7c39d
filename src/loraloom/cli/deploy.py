"""``loraloom deploy``: the command for a model, a pipeline, adapters and a machine, and why."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from loraloom.core.request import Sampling
from loraloom.engine.job import completed
from loraloom.memory.staging import Room
from loraloom.models import find
from loraloom.models.sizes import working
from loraloom.pipelines.files import kind_of

from . import flags
from .options import parse_size, parse_wishes
from .order import Look, Order, canvas_of, requests, stages_of
from .resources import Resources, explained, known_type, parse_bytes, plans_for, readings

if TYPE_CHECKING:
    from loraloom.memory.staging import Plan
    from loraloom.models.card import Card

PROMPT = "PROMPT"
"""What the command says for the prompt."""

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


def deploy(  # noqa: PLR0913 - a command's options are its parameters
    model: Model = flags.MODEL,
    *,
    device_memory: DeviceRoom,
    host_memory: HostRoom = "128G",
    pipeline: flags.Pipeline = None,
    lora: flags.Loras = None,
    size: flags.SizeText = None,
    frames: flags.Frames = None,
    dtype: flags.Dtype = "bfloat16",
    residency: flags.Keeping = "auto",
    offload: flags.Offloading = "auto",
    explain: Explain = False,
) -> None:
    """Print the command that runs a model with these adapters on such a machine.

    Nothing is loaded: bytes are counted from the headers of the files. What does not go together
    is refused.
    """
    sides = parse_size(size) if size else None
    look = Look(None, None, sides, frames, pipeline, Sampling(), None)
    wanted = Wanted(find.card(model), tuple(lora or ()), look)
    card, order, kind = wanted.card, wanted.order, known_type(dtype or "bfloat16")
    for request in requests(order, card.defaults):
        completed(request, card)
    room = Room(
        parse_bytes(device_memory, "--device-memory"),
        parse_bytes(host_memory, "--host-memory"),
        working(card, canvas_of(order, card.defaults), kind),
    )
    stages, brought = stages_of(order, card.defaults), readings(card, order.wishes)
    every = plans_for(card, stages, brought, kind)
    chosen = Resources(residency, offload, room).chosen(every)
    typer.echo(wanted.command(chosen, kind))
    if explain:
        typer.echo("\n" + explained(every, chosen, room))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be run; ``loras`` as they are spelled."""

    card: Card
    loras: tuple[str, ...]
    look: Look

    @property
    def output(self) -> Path:
        """A video, unless the model makes none or one picture is asked for."""
        pictures = not self.card.grid.frames or self.look.frames == 1
        return Path("picture.png" if pictures else "video.mp4")

    @property
    def order(self) -> Order:
        """What the command line asks ``generate`` for."""
        wishes, kind = parse_wishes(self.loras), kind_of(self.output)
        return Order((PROMPT,), wishes, self.look, kind, images=(), references=(), like=None)

    def command(self, plan: Plan, dtype: str) -> str:
        """The command line, with what is not as it would be anyway."""
        words = ["loraloom", "generate", PROMPT, "-o", str(self.output), "--model", self.card.name]
        look = self.look
        if look.pipeline is not None:
            words += ["--pipeline", look.pipeline]
        for text in self.loras:
            words += ["--lora", text]
        if look.size is not None:
            words += ["--size", f"{look.size.width}x{look.size.height}"]
        if look.frames is not None:
            words += ["--frames", str(look.frames)]
        words += ["--device", "cuda", "--dtype", dtype]
        words += ["--residency", plan.mode, "--offload", plan.order]
        return shlex.join(words)
