"""An engine on the embedded model, and what tests ask of it."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loraloom import Canvas, Lora, Request, Sampling
from loraloom.engine.archive import Archive
from loraloom.engine.engine import Engine, Limits
from loraloom.engine.ticket import Encoding, Task
from loraloom.engine.warm import cold

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from loraloom import Loom
    from loraloom.core.lora import Mode
    from loraloom.engine.run import Tick
    from loraloom.engine.ticket import Event, Format, State, Ticket

CANVAS = Canvas(64, 64)
WIDE = Canvas(96, 64)


def picture(seed: int = 0, *, steps: int = 2, canvas: Canvas = CANVAS, **worn: float) -> Request:
    """A small picture that wears adapters by name at their strengths."""
    return Request(
        "a large red circle",
        seed=seed,
        canvas=canvas,
        sampling=Sampling(steps, 3.0),
        loras=tuple(Lora(name, strength) for name, strength in worn.items()),
    )


def task(
    *requests: Request,
    owner: str = "me",
    timeout: float | None = None,
    format: Format = "png",  # noqa: A002
) -> Task:
    return Task("images", owner, requests or (picture(),), Encoding(format), {"say": "so"}, timeout)


@dataclass
class Counts:
    """A meter that keeps everything."""

    states: list[State] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def moved(self, state: State) -> None:
        self.states.append(state)

    def batched(self, rows: int) -> None:
        self.batches.append(rows)

    def queued(self, seconds: float) -> None:
        self._add("queued", seconds)

    def stepped(self, seconds: float) -> None:
        self._add("stepped", seconds)

    def switched(self, mode: Mode, seconds: float) -> None:
        self._add(f"switched {mode}", seconds)

    def loaded(self, seconds: float) -> None:
        self._add("loaded", seconds)

    def encoded(self, seconds: float) -> None:
        self._add("encoded", seconds)

    def _add(self, what: str, seconds: float) -> None:
        self.seconds.setdefault(what, []).append(seconds)


@dataclass
class Gate:
    """Holds the device after a step until it is opened, and says when it holds."""

    loom: Loom
    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def hold(self, run: Callable[..., object]) -> Callable[..., object]:
        """``Loom.run`` that stops at the gate before anybody hears of a step."""

        def gated(
            jobs: object, *, policy: str = "live", progress: Callable[[Tick], None]
        ) -> object:
            def stepped(tick: Tick) -> None:
                self.reached.set()
                assert self.opened.wait(60)
                progress(tick)

            return run(jobs, policy=policy, progress=stepped)

        return gated


@contextmanager
def serving(
    loom: Loom, folder: Path, limits: Limits | None = None, *, meter: Counts | None = None
) -> Iterator[Engine]:
    """A ready engine with an archive of its own; nothing of it is left behind."""
    before = set(threading.enumerate())
    archive = Archive(folder)
    engine = Engine(lambda: loom, archive, limits or Limits(), meter=meter or Counts())
    engine.start(warm=cold)
    try:
        assert engine.settled(60)
        assert engine.ready
        yield engine
    finally:
        engine.stop(patience=20)
        archive.close()
        left = {each for each in threading.enumerate() if each.name.startswith("loraloom-")}
        assert not left - before, left


def ended(engine: Engine, ticket: Ticket, seconds: float = 60.0) -> Ticket:
    """The ticket when nothing more happens to it."""
    heard = threading.Event()

    def hear(event: Event) -> None:
        if event.ticket.ended:
            heard.set()

    end = engine.watch(ticket.id, hear)
    try:
        assert heard.wait(seconds), engine.ticket(ticket.id)
    finally:
        end()
    return engine.ticket(ticket.id)


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for it."""
    last = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < last, "it never came true"
        time.sleep(0.005)
