"""``python -m bench.load``: many clients, adapters and mixes at once, and every answer is right.

A real server on the embedded model with small requests. Clients wait for answers, poll and watch
jobs, cancel, hang up and make mistakes. With ``--kill`` the server is killed in the middle and
started again on the same state folder.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from loraloom.models.find import card

from . import styles
from .clients import OVER, Answer, Clients, UnexpectedAnswerError
from .judge import Alone, Compared, misworn
from .processes import Command, free_port, loraloom, start
from .report import write_record
from .traffic import errands

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .traffic import Errand

TENTH = 10
"""One of so many answers is compared with the same request alone."""
HUNDRED = 100
"""Memory is told once for so many errands, or for a quarter of them where there are fewer."""
KINDS = ("queue_s", "load_s", "switch_s", "steps_s", "decode_s", "encode_s", "total_s")


LIMITS = (
    *("--max-queue", "24", "--max-batch", "8"),
    *("--device-budget", "64M", "--host-budget", "64M"),
)
"""Queues that are full at times, and memory that is full soon: what was worn lies ready as long as
there is room, so that without a limit memory grows until it is reached.
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much load; ``kill``: the server is killed when half of the errands are done."""

    requests: int
    clients: int
    adapters: int
    kill: bool
    threads: int
    words: tuple[str, ...] = LIMITS


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds that half, and all but one of a hundred, took at most."""

    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Memory:
    """What one process had of memory: the median resident set of every so many errands."""

    errands: int
    medians: tuple[int, ...]

    @property
    def growth(self) -> float:
        """From the first of them to the last, as a share."""
        return self.medians[-1] / self.medians[0] - 1


@dataclass(frozen=True, slots=True)
class Killed:
    """What a kill in the middle left.

    Attributes:
        finished: answers with a result that clients had by then; all of them are there again.
        interrupted: jobs that were under way.
        away: seconds until it was ready again.
    """

    finished: int
    interrupted: int
    away: float


@dataclass(frozen=True, slots=True)
class Findings:
    """What came of a load.

    Attributes:
        ends: errands by how they ended, and what clients met on the way.
        wrong: everything that should not be; empty if all is well.
    """

    seconds: float
    ends: Mapping[str, int]
    wrong: tuple[str, ...]
    times: Mapping[str, Spread]
    memory: tuple[Memory, ...]
    compared: Compared
    killed: Killed | None


class Load:
    """A server under load.

    Attributes:
        digests: of the adapters, by name.
        answers: in the order in which errands ended.
        lives: how many answers there were whenever the server was killed.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        (folder / "files").mkdir()
        self.files = styles.make(card("mini"), folder / "files", plan.adapters)
        words = loraloom(folder / "state", "--adapter-root", str(folder / "files"), *plan.words)
        self.command = Command(words, folder / "server.log", plan.threads)
        self.answers: list[Answer] = []
        self.wrong: list[str] = []
        self.lives: list[int] = []

    def run(self) -> Findings:
        """All errands, then every check."""
        port = free_port()
        server = start(self.command, port)
        with closing(Clients(server, self.plan.clients)) as clients:
            try:
                digests = publish(clients, self.files)
                began = time.monotonic()
                killed = self._carry_out(clients, port)
                seconds = time.monotonic() - began
                self._check(clients, digests)
            finally:
                clients.server.kill()
        return self._findings(clients, seconds, killed)

    def _carry_out(self, clients: Clients, port: int) -> Killed | None:
        names = [path.stem for path in self.files]
        killed = None
        with ThreadPoolExecutor(self.plan.clients) as pool:
            for errand in errands(self.plan.requests, names):
                pool.submit(self._one, clients, errand)
            if self.plan.kill:
                while len(self.answers) + len(self.wrong) < self.plan.requests // 2:
                    time.sleep(0.05)
                killed = self._kill(clients, port)
        return killed

    def _one(self, clients: Clients, errand: Errand) -> None:
        try:
            self.answers.append(clients.carry_out(errand))
        except UnexpectedAnswerError as error:
            self.wrong.append(str(error))
        except BaseException as error:
            self.wrong.append(f"{errand}: {error!r}")
            raise

    def _kill(self, clients: Clients, port: int) -> Killed:
        """Kill the server and start it again; look at what it kept before clients go on."""
        clients.gate.shut()
        finished = [each for each in self.answers if each.picture]
        clients.server.kill()
        self.lives.append(len(self.answers))
        began = time.monotonic()
        clients.server = start(self.command, port)
        away = time.monotonic() - began
        try:
            states = {job["id"]: job["status"] for job in jobs(clients)}
            self.wrong += [
                f"job {job} is {state} right after the start"
                for job, state in states.items()
                if state not in OVER
            ]
            self.wrong += lost(clients, finished)
        finally:
            clients.gate.open()
        return Killed(len(finished), list(states.values()).count("interrupted"), away)

    def _check(self, clients: Clients, digests: Mapping[str, str]) -> None:
        """Nothing is stuck, everybody wore what they should, and everything is still there."""
        done = [each for each in self.answers if each.picture]
        self.wrong += [told for each in done if (told := misworn(each, digests))]
        self.wrong += lost(clients, done)
        deadline = time.monotonic() + 30
        while stuck := [job["id"] for job in jobs(clients) if job["status"] not in OVER]:
            if time.monotonic() > deadline:
                self.wrong.append(f"jobs {stuck} never end")
                break
            time.sleep(0.2)

    def _findings(self, clients: Clients, seconds: float, killed: Killed | None) -> Findings:
        done = [each for each in self.answers if each.picture]
        sample = sorted(done, key=lambda each: each.errand.number)[::TENTH]
        return Findings(
            seconds,
            dict(Counter([*(each.end for each in self.answers), *clients.met])),
            tuple(self.wrong),
            times(done),
            tuple(_memory(life) for life in _lives(self.answers, self.lives)),
            Alone(self.files).compare(sample),
            killed,
        )


def publish(clients: Clients, files: Sequence[Path]) -> dict[str, str]:
    """Put adapters into the catalogue, every other one as an upload; their digests by name."""
    digests = {}
    for number, path in enumerate(files):
        if number % 2:
            said: Any = {"data": {"name": path.stem}, "files": {"file": path.read_bytes()}}
        else:
            said = {"json": {"name": path.stem, "source": str(path)}}
        digests[path.stem] = clients.call("POST", "/v1/adapters", 201, **said).json()["sha256"]
    return digests


def jobs(clients: Clients) -> list[dict[str, Any]]:
    """All of them, page by page."""
    found: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while page := clients.http.get("/v1/jobs", params={"limit": "100"} | after).json()["data"]:
        found += page
        after = {"after": page[-1]["id"]}
    return found


def lost(clients: Clients, answers: Sequence[Answer]) -> list[str]:
    """Of answers with a result, those that the server does not give a second time."""
    found = []
    for each in answers:
        again = clients.http.get(f"/v1/results/{each.said['id']}/0")
        if again.content != each.picture:
            digest = hashlib.sha256(again.content).hexdigest()
            found.append(f"the result of {each.said['id']} is {again.status_code} {digest}")
    return found


def times(answers: Sequence[Answer]) -> dict[str, Spread]:
    """Of what the server says of answers, and of what clients waited altogether."""
    found = {kind: _spread([each.said["timings"][kind] for each in answers]) for kind in KINDS}
    return found | {"client_s": _spread([each.seconds for each in answers])}


def _spread(seconds: Sequence[float]) -> Spread:
    ranked = sorted(seconds)
    return Spread(*(ranked[int(share * (len(ranked) - 1))] for share in (0.5, 0.99)))


def _lives(answers: Sequence[Answer], kills: Sequence[int]) -> list[Sequence[Answer]]:
    """The answers of every process that there was."""
    ends = [*kills, len(answers)]
    return [answers[first:last] for first, last in zip([0, *kills], ends, strict=True)]


def _memory(life: Sequence[Answer]) -> Memory:
    some = max(1, min(HUNDRED, len(life) // 4))
    parts = [life[first : first + some] for first in range(0, len(life) - some + 1, some)]
    return Memory(
        len(life), tuple(sorted(each.nbytes for each in part)[len(part) // 2] for part in parts)
    )


def show(found: Findings) -> None:
    """Print findings for people."""
    rate = sum(found.ends.get(end, 0) for end in ("answered", "cancelled", "left", "refused"))
    print(f"{rate} errands in {found.seconds:.1f} s, {rate / found.seconds:.1f} a second")
    print("ended: " + ", ".join(f"{count} {end}" for end, count in sorted(found.ends.items())))
    for kind, spread in found.times.items():
        print(f"{kind:>10} p50 {1e3 * spread.p50:8.1f} ms   p99 {1e3 * spread.p99:8.1f} ms")
    for life in found.memory:
        medians = " ".join(f"{each / 2**20:.0f}" for each in life.medians)
        print(f"memory of {life.errands} errands: {medians} MiB ({100 * life.growth:+.1f} %)")
    compared = found.compared
    print(
        f"{compared.pictures} compared with the same request alone: {compared.same} with every "
        f"pixel alike, {compared.farthest} of 255 levels at most"
    )
    if found.killed:
        print(
            f"killed: {found.killed.finished} results kept, {found.killed.interrupted} jobs "
            f"interrupted, ready again after {found.killed.away:.1f} s"
        )
    print("\n".join(["wrong:", *found.wrong]) if found.wrong else "nothing wrong")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--adapters", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kill", action="store_true", help="kill -9 and start again, halfway")
    plan = Plan(**vars(parser.parse_args()))
    with TemporaryDirectory() as folder:
        found = Load(plan, Path(folder)).run()
    show(found)
    command = " ".join(["python -m bench.load", *sys.argv[1:]])
    write_record(
        "load-kill" if plan.kill else "load", "cpu", command, {"plan": asdict(plan)} | asdict(found)
    )
    sys.exit(bool(found.wrong))


if __name__ == "__main__":
    main()
