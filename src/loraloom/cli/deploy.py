"""``loraloom deploy``: the command for a model, a pipeline, adapters and a machine, and why."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from loraloom.engine.job import fits
from loraloom.errors import UnknownAdapterError
from loraloom.memory.staging import Room
from loraloom.models import find
from loraloom.models.sizes import working

from . import flags
from .options import Size, parse_size, parse_wishes
from .resources import Resources, explained, parse_bytes, plans_for

if TYPE_CHECKING:
    from pathlib import Path

    from loraloom.core.request import Canvas
    from loraloom.core.stage import Stages
    from loraloom.memory.staging import Plan
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
    wanted = Wanted(find.card(model), pipeline, tuple(lora or ()), sides, frames)
    fits(wanted.stages, wanted.canvas, wanted.card)
    room = Room(
        parse_bytes(device_memory, "--device-memory"),
        parse_bytes(host_memory, "--host-memory"),
        working(wanted.card, wanted.canvas, dtype or "bfloat16"),
    )
    resources = Resources(residency, offload, dtype or "bfloat16", room)
    every = plans_for(wanted.card, wanted.stages, wanted.files, resources.dtype)
    chosen = resources.chosen(every)
    typer.echo(wanted.command(chosen, resources.dtype))
    if explain:
        typer.echo("\n" + explained(every, chosen, room))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be run."""

    card: Card
    pipeline: str | None
    loras: tuple[str, ...]
    size: Size | None
    frames: int | None

    @property
    def stages(self) -> Stages:
        usual = self.card.defaults
        return usual.usual if self.pipeline is None else usual.pipeline(self.pipeline)

    @property
    def canvas(self) -> Canvas:
        usual = self.card.defaults.video if self.card.grid.frames else self.card.defaults.picture
        size = self.size or Size(usual.width, usual.height)
        return replace(
            usual, width=size.width, height=size.height, frames=self.frames or usual.frames
        )

    @property
    def files(self) -> dict[str, Path]:
        """The file of every adapter that is named.

        Raises:
            UnknownAdapterError: one has no path, and the model comes without it.
        """
        found = {}
        for wish in parse_wishes(self.loras):
            if wish.path is None and wish.name not in self.card.adapters:
                raise UnknownAdapterError(wish.name, self.card.adapters)
            found[wish.name] = wish.path or self.card.adapters[wish.name]
        return found

    def command(self, plan: Plan, dtype: str) -> str:
        """The command line, with what is not as it would be anyway."""
        words = ["loraloom", "generate", "PROMPT", "-o", "video.mp4", "--model", self.card.name]
        if self.pipeline is not None:
            words += ["--pipeline", self.pipeline]
        for text in self.loras:
            words += ["--lora", text]
        if self.size is not None:
            words += ["--size", f"{self.size.width}x{self.size.height}"]
        if self.frames is not None:
            words += ["--frames", str(self.frames)]
        words += ["--device", "cuda", "--dtype", dtype]
        words += ["--residency", plan.mode, "--offload", plan.order]
        return shlex.join(words)
