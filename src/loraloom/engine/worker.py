"""The one thread that has the device: it loads the model, then runs a batch after the other."""

from __future__ import annotations

import gc
import logging
from dataclasses import dataclass, field
from functools import partial
from threading import Event, Thread
from time import monotonic, perf_counter
from typing import TYPE_CHECKING

from loraloom.errors import LoraloomError

from .desk import Abandoned
from .press import Print
from .ticket import Spent
from .trouble import trouble_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loraloom.core.request import Policy

    from .desk import Desk
    from .loom import Loom, Result
    from .meter import Meter
    from .press import Press
    from .queue import Row
    from .run import Clock, Tick

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Opening:
    """What became of loading the model: it is there, or it never will be."""

    loom: Loom | None = None
    failure: str | None = None
    settled: Event = field(default_factory=Event)


class Worker:
    """Runs what the desk gives it; hands results to the press."""

    def __init__(self, desk: Desk, press: Press, policy: Policy, meter: Meter) -> None:
        self.opening = Opening()
        self.policy = policy
        self._desk = desk
        self._press = press
        self._meter = meter
        self._thread: Thread | None = None
        self.hurry = Event()

    def start(self, load: Callable[[], Loom], warm: Callable[[Loom], None]) -> None:
        """Load and warm up, then serve."""
        self._press.start()
        run = partial(self._run, load, warm)
        self._thread = Thread(target=run, name="loraloom-worker", daemon=True)
        self._thread.start()

    def finish(self, patience: float) -> None:
        """Wait until all is done; after so many seconds, or with ``hurry``, hand it back.

        A model that is still being loaded is not waited for any longer.
        """
        if not self._ended(patience):
            self._desk.cut()
            while self.opening.settled.is_set() and not self._ended(1.0):
                if self.hurry.is_set():
                    break
        self._press.close(0.0 if self.hurry.is_set() else 60.0)

    def _ended(self, patience: float) -> bool:
        """Whether the thread ends before the time is over, or somebody is in a hurry."""
        last = monotonic() + patience
        while self._thread is not None and self._thread.is_alive():
            if self.hurry.is_set() or monotonic() >= last:
                return False
            self._thread.join(0.02)
        return True

    def _run(self, load: Callable[[], Loom], warm: Callable[[Loom], None]) -> None:
        loom = self._open(load, warm)
        while loom is not None and (rows := self._desk.take()):
            self._serve(loom, rows)

    def _open(self, load: Callable[[], Loom], warm: Callable[[Loom], None]) -> Loom | None:
        opening = self.opening
        try:
            loom = load()
            warm(loom)
            opening.loom = loom
        except Exception as error:  # whatever it is, it is why the engine never becomes ready
            known = isinstance(error, LoraloomError)
            # of what is known, the sentence is enough
            logger.exception("the model cannot be served", exc_info=not known)
            opening.failure = str(error) if known else f"{type(error).__name__}: {error}"
        finally:
            opening.settled.set()
        return opening.loom

    def _serve(self, loom: Loom, batch: Sequence[Row]) -> None:
        """Make what the rows ask for; where that fails, in halves, until the culprit is alone."""
        rows = self._desk.present(batch)
        if not rows:
            return
        try:
            self._make(loom, rows)
        except Abandoned:
            return
        except Exception as error:
            # the one place where what went wrong in a run becomes the job's own failure
            if len(rows) == 1:
                logger.exception("job %s failed", rows[0].ticket)
                self._desk.fail(rows[0].ticket, trouble_of(error))
                return
            logger.warning("a batch of %d rows failed, and runs again in halves", len(rows))
        else:
            return
        gc.collect()  # what the traceback held, before memory is asked for again
        middle = len(rows) // 2
        self._serve(loom, rows[:middle])
        self._serve(loom, rows[middle:])

    def _make(self, loom: Loom, rows: Sequence[Row]) -> None:
        before = perf_counter()
        self._desk.begin(rows, self._meter)
        self._meter.batched(len(rows))
        results = loom.run(
            [row.job for row in rows],
            policy=self.policy,
            progress=partial(self._stepped, loom, rows),
        )
        self._measure(rows, results, perf_counter() - before)
        for row, result in zip(rows, results, strict=True):
            encoding = self._desk.encoding(row)
            if encoding is not None:
                self._press.put(Print(row, result, loom.card, encoding))

    def _stepped(self, loom: Loom, rows: Sequence[Row], tick: Tick) -> None:
        self._desk.stepped(rows, tick)
        upcoming = self._desk.upcoming()
        if upcoming:
            try:
                loom.prefetch(upcoming)
            except Exception as error:  # noqa: BLE001 - it comes again where they are worn
                logger.debug("adapters of jobs that wait are not there yet: %s", error)

    def _measure(self, rows: Sequence[Row], results: Sequence[Result], seconds: float) -> None:
        clocks: list[Clock] = list({id(each.clock): each.clock for each in results}.values())
        modes = {worn.manner.mode for each in results for worn in each.worn}
        for clock in clocks:
            self._meter.loaded(clock.load)
            for step in clock.steps:
                self._meter.stepped(step)
            for switch in clock.switches:
                self._meter.switched("fused" if "fused" in modes else "live", switch)
        spent = Spent(
            load=max(clock.load for clock in clocks),
            switch=sum(sum(clock.switches) for clock in clocks),
            steps=sum(sum(clock.steps) for clock in clocks),
            decode=sum(clock.decode for clock in clocks),
            encode=sum(clock.encode for clock in clocks),
        )
        self._desk.computed(rows, spent, seconds)
