"""Rows: the server against a plain one of diffusers and peft, as processes, over HTTP.

The same requests with mixed adapters and strengths, by the same clients, in turn. Both compute
with two threads. Every answer of ours is also asked where its time went: what is left of a request
that comes alone is HTTP and the queue.
"""

from __future__ import annotations

import base64
import io
import random
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from PIL import Image

from loraloom.models.find import card

from . import styles
from .clients import GENERATE, Clients
from .judge import LEVELS, distance
from .load import publish
from .measure import AtLeast, AtMost, Clock, Row, Times, Way, row
from .options import Options, parse
from .processes import Command, loraloom, serving
from .report import head, show
from .traffic import Shape, body, request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from loraloom import Request

    from .options import SizeName

ADAPTERS, CLIENTS, COUNT = 8, 16, 32
THREADS = 2
QUICK = Shape(64, 4)
SHAPES: Mapping[SizeName, tuple[Shape, ...]] = {
    "full": (Shape(128, 16), QUICK),
    "tiny": (QUICK,),
}
"""What the card of the model recommends, and something quick."""
ALONE = 30
"""How many requests come one after the other to see what HTTP and the queue take."""
COMPUTED = ("load_s", "switch_s", "steps_s", "decode_s", "encode_s")
GOAL, OVERHEAD = AtLeast(2), AtMost(0.005)


@dataclass(slots=True, eq=False)
class Side:
    """One server and its clients; ``waited`` has the seconds of every request, run by run."""

    clients: Clients
    waited: list[list[float]] = field(default_factory=list)

    def all(self, requests: Sequence[Request]) -> None:
        """Ask for everything, as many at a time as there are clients."""
        with ThreadPoolExecutor(CLIENTS) as pool:
            self.waited.append(list(pool.map(self._one, requests)))

    def _one(self, asked: Request) -> float:
        began = time.perf_counter()
        self.clients.call("POST", GENERATE, json=body(asked))
        return time.perf_counter() - began

    def picture(self, asked: Request) -> bytes:
        answer = self.clients.call("POST", GENERATE, json=body(asked)).json()
        return base64.b64decode(answer["data"][0]["b64_json"])

    def share(self, share: float) -> Times:
        """What such a share of the requests waited at most, for every run but the first."""
        return Times(tuple(sorted(run)[int(share * (len(run) - 1))] for run in self.waited[1:]))


@dataclass(frozen=True, slots=True, eq=False)
class Contest:
    """Both servers with the same adapters."""

    ours: Side
    theirs: Side
    names: Sequence[str]

    def check(self, shape: Shape) -> None:
        """Both draw the same picture."""
        asked = request(random.Random(1), self.names, shape)
        other = Image.open(io.BytesIO(self.theirs.picture(asked)))
        far = distance(self.ours.picture(asked), other)
        assert far <= LEVELS, f"{asked}: {far} of 255 levels between ours and theirs"


def rows(options: Options) -> list[Row]:
    """After a check that both draw the same pictures; shown as they come."""
    if options.size == "ltx2" or options.cuda or not options.chooses("serving"):
        return []
    clock = Clock("cpu", min(options.runs, 3))
    with contest() as both:
        found = []
        for shape in SHAPES[options.size]:
            both.check(shape)
            made = under_load(both, shape, clock)
            show(made)
            found += made
        made = overhead(both, clock)
        show(made)
    return found + made


@contextmanager
def contest(*words: str) -> Iterator[Contest]:
    """Both servers; ``words`` are further flags of ours."""
    with TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        files = styles.make(card("mini"), folder, ADAPTERS)
        plain = (sys.executable, "-m", "bench.plainserver", str(folder), "--threads", str(THREADS))
        mine = loraloom(folder / "state", "--adapter-root", str(folder), *words)
        ours, theirs = (
            Side(_clients(stack, Command(each, folder / f"{each[-1]}.log", THREADS)))
            for each in (mine, plain)
        )
        publish(ours.clients, files)
        yield Contest(ours, theirs, [path.stem for path in files])


def _clients(stack: ExitStack, command: Command) -> Clients:
    server = stack.enter_context(serving(command))
    return stack.enter_context(closing(Clients(server, CLIENTS)))


def under_load(both: Contest, shape: Shape, clock: Clock) -> list[Row]:
    """Seconds of the whole divided by its requests, and how long clients waited."""
    draw = random.Random(0)
    asked = [request(draw, both.names, shape) for _ in range(COUNT)]
    ours, theirs = both.ours, both.theirs
    ours.waited.clear()
    theirs.waited.clear()
    mine, other = (
        Times(tuple(seconds / COUNT for seconds in times.seconds))
        for times in clock.race(Way(partial(ours.all, asked)), Way(partial(theirs.all, asked)))
    )
    name = f"serving {shape}"
    return [
        row(f"{name}: a request of many", mine, other, GOAL),
        row(f"{name}: wait, p50", ours.share(0.5), theirs.share(0.5), None),
        row(f"{name}: wait, p99", ours.share(0.99), theirs.share(0.99), None),
    ]


def overhead(both: Contest, clock: Clock) -> list[Row]:
    """What is not computing, of requests that come one after the other."""
    draw = random.Random(2)
    asked = [request(draw, both.names, QUICK) for _ in range(ALONE)]
    runs = [[_overhead(both.ours.clients, each) for each in asked] for _ in range(clock.runs + 1)]
    beside = Times(tuple(statistics.median(run) for run in runs[1:]))
    name = "serving: HTTP and queue, of a request alone"
    mine, other = (
        Way(partial(side.clients.call, "GET", "/ready"), calls=10)
        for side in (both.ours, both.theirs)
    )
    return [
        Row(name, beside.median, None, OVERHEAD, beside.spread),
        clock.often().compare("serving: HTTP alone", mine, other, None),
    ]


def _overhead(clients: Clients, asked: Request) -> float:
    began = time.perf_counter()
    answer = clients.call("POST", GENERATE, json=body(asked))
    seconds = time.perf_counter() - began
    timings: dict[str, float] = answer.json()["timings"]
    return seconds - sum(timings[kind] for kind in COMPUTED)


def main() -> None:
    options = parse(__doc__)
    head()
    rows(options)


if __name__ == "__main__":
    main()
