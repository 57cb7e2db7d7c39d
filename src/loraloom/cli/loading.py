"""Loading a model from the command line, in as much memory as there is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import loraloom
from loraloom.engine.resources import Offload, Residency, Resources, plans_for
from loraloom.models.sizes import working

from .console import note, waiting

if TYPE_CHECKING:
    from loraloom.core.request import Canvas
    from loraloom.core.stage import Stages
    from loraloom.engine.loom import Loom
    from loraloom.formats.reading import Reading
    from loraloom.memory.staging import Plan
    from loraloom.models.card import Card


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and how to compute."""

    device: str = "cpu"
    dtype: str = "float32"
    residency: Residency = "original"
    offload: Offload = "together"

    @property
    def planned(self) -> bool:
        """Whether anything is asked for that takes a plan."""
        return (self.residency, self.offload) != ("original", "together")


@dataclass(frozen=True, slots=True)
class Task:
    """What a model is loaded for; ``brought`` are the adapters of its requests, by name."""

    card: Card
    stages: Stages
    canvas: Canvas
    brought: Mapping[str, Reading]


def load(model: str, machine: Machine = Machine(), task: Task | None = None) -> Loom:
    """The model; the wait begins with the import of torch.

    Raises:
        ModelError: there is no such model, or it cannot be loaded.
        BudgetError: there is no room for it.
    """
    with waiting(f"loading {model}"):
        plan = _plan(machine, task) if task and machine.planned else None
        return loraloom.Loom.load(model, dtype=machine.dtype, device=machine.device, plan=plan)


def _plan(machine: Machine, task: Task) -> Plan:
    from loraloom.engine.room import room  # noqa: PLC0415 - imports torch

    free = room(machine.device, working(task.card, task.canvas, machine.dtype))
    every = plans_for(task.card, task.stages, task.brought, machine.dtype)
    chosen = Resources(machine.residency, machine.offload, free).chosen(every)
    note(f"residency {chosen}")
    return chosen
