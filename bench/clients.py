"""Clients of a server: each carries out errands over HTTP, also while the server is killed."""

from __future__ import annotations

import base64
import json
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import httpx2

from .traffic import MISTAKES, body

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .processes import Server
    from .traffic import Body, Errand

End: TypeAlias = Literal["answered", "cancelled", "left", "refused"]
"""What became of an errand; each of them is what was to be expected of its way."""

GENERATE = "/v1/images/generations"
OVER = frozenset({"completed", "failed", "cancelled", "interrupted", "expired"})
"""States after which nothing happens by itself."""
PAUSE = 0.05
"""Seconds between two questions after a job."""
LONG = 300.0
"""Seconds that any answer may take."""


class UnexpectedAnswerError(Exception):
    """The server answered something else than it should."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """How an errand ended.

    Attributes:
        seconds: from the first byte sent to the last one read, of what was answered.
        said: the answer, or the job where there was one.
        picture: the file, where there is one.
        nbytes: memory of the server afterwards.
    """

    errand: Errand
    end: End
    seconds: float
    said: Mapping[str, Any] = field(default_factory=dict)
    picture: bytes = b""
    nbytes: int = 0


class Gate:
    """Where clients wait while the server is away, and learn that it was."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self.kills = 0

    def passed(self) -> int:
        """Wait until the server is there; how often it was killed until now."""
        self._open.wait()
        return self.kills

    def shut(self) -> None:
        """The server is killed next."""
        self._open.clear()
        self.kills += 1

    def open(self) -> None:
        self._open.set()


class Clients:
    """As many clients as threads call it; they share a pool of connections.

    Attributes:
        met: what else they met: ``cut`` in the middle by a kill, ``full`` queues, and jobs that
            were ``interrupted`` and have been resumed.
    """

    def __init__(self, server: Server, count: int) -> None:
        self.server = server
        self.gate = Gate()
        self.met: list[Literal["cut", "full", "interrupted"]] = []
        limits = httpx2.Limits(max_connections=count + 8, max_keepalive_connections=count + 8)
        self.http = httpx2.Client(base_url=server.url, limits=limits, timeout=LONG)

    def close(self) -> None:
        self.http.close()

    def carry_out(self, errand: Errand) -> Answer:
        """One errand to its end.

        Raises:
            UnexpectedAnswerError: anything but what its way lets expect.
        """
        ways = {
            "wait": self._wait,
            "poll": self._poll,
            "watch": self._watch,
            "cancel": self._cancel,
            "leave": self._leave,
            "mistake": self._mistake,
        }
        return ways[errand.way](errand)

    def call(self, method: str, path: str, status: int = 200, **what: Any) -> httpx2.Response:
        """Say it again after a kill and when the queue is full; any other status is a failure."""
        while True:
            kills = self.gate.passed()
            try:
                answer = self.http.request(method, path, **what)
            except httpx2.TransportError:
                if self.gate.kills == kills:
                    raise
                self.met.append("cut")
                continue
            if answer.status_code == status:
                return answer
            if answer.status_code != httpx2.codes.TOO_MANY_REQUESTS:
                raise UnexpectedAnswerError(f"{method} {path}: {_told(answer)}, want {status}")
            self.met.append("full")
            time.sleep(float(answer.headers["Retry-After"]))

    def _wait(self, errand: Errand) -> Answer:
        began = time.perf_counter()
        return self._answered(errand, began, self.call("POST", GENERATE, json=body(errand.request)))

    def _answered(self, errand: Errand, began: float, answer: httpx2.Response) -> Answer:
        seconds = time.perf_counter() - began
        said = answer.json()
        picture = base64.b64decode(said["data"][0].pop("b64_json"))
        return Answer(errand, "answered", seconds, said, picture, self.server.nbytes)

    def _leave(self, errand: Errand) -> Answer:
        began = time.perf_counter()
        limit = httpx2.Timeout(LONG, read=max(errand.patience, 0.001))
        try:
            answer = self.call("POST", GENERATE, json=body(errand.request), timeout=limit)
        except httpx2.ReadTimeout:
            return Answer(errand, "left", 0.0, nbytes=self.server.nbytes)
        return self._answered(errand, began, answer)

    def _mistake(self, errand: Errand) -> Answer:
        mistake = MISTAKES[errand.number % len(MISTAKES)]
        spoiled = body(errand.request) | dict(mistake.fields)
        said = self.call("POST", GENERATE, mistake.status, json=spoiled).json()["error"]
        if said["code"] != mistake.code or not {"message", "type", "param"} <= said.keys():
            raise UnexpectedAnswerError(f"{mistake} was answered with {said}")
        return Answer(errand, "refused", 0.0, said, nbytes=self.server.nbytes)

    def _poll(self, errand: Errand) -> Answer:
        began = time.perf_counter()
        return self._finished(errand, began, self._ended(self._begun(errand)))

    def _watch(self, errand: Errand) -> Answer:
        began = time.perf_counter()
        job = self._begun(errand)["id"]
        last = "0"
        while True:
            kills = self.gate.passed()
            try:
                for number, said in self._events(job, last):
                    last = number
                    if said["status"] in OVER:
                        return self._finished(errand, began, self._ended(said))
            except httpx2.TransportError:
                if self.gate.kills == kills:
                    raise
                self.met.append("cut")
                last = "0"
                continue
            raise UnexpectedAnswerError(f"the events of job {job} ended after {last}")

    def _events(self, job: str, after: str) -> Any:
        """Numbers and jobs of the events after ``after``."""
        headers = {"Last-Event-ID": after}
        with self.http.stream("GET", f"/v1/jobs/{job}/events", headers=headers) as answer:
            if answer.status_code != httpx2.codes.OK:
                answer.read()
                raise UnexpectedAnswerError(f"the events of job {job}: {_told(answer)}")
            number = ""
            for line in answer.iter_lines():
                key, _, value = line.partition(": ")
                if key == "id":
                    number = value
                elif key == "data":
                    yield number, json.loads(value)

    def _cancel(self, errand: Errand) -> Answer:
        began = time.perf_counter()
        job = self._begun(errand)
        time.sleep(errand.patience)
        self.call("DELETE", f"/v1/jobs/{job['id']}")
        return self._finished(errand, began, self._ended(job))

    def _begun(self, errand: Errand) -> Body:
        wanted = body(errand.request) | {"async": True}
        job: Body = self.call("POST", GENERATE, 202, json=wanted).json()
        return job

    def _ended(self, job: Mapping[str, Any]) -> Mapping[str, Any]:
        """The job when it is over; one that a kill interrupted is run again."""
        while True:
            if job["status"] == "interrupted":
                self.met.append("interrupted")
                self.call("POST", f"/v1/jobs/{job['id']}/resume")
            elif job["status"] in OVER:
                return job
            time.sleep(PAUSE)
            job = self.call("GET", f"/v1/jobs/{job['id']}").json()

    def _finished(self, errand: Errand, began: float, job: Mapping[str, Any]) -> Answer:
        if job["status"] == "cancelled" and errand.way == "cancel":
            return Answer(errand, "cancelled", 0.0, job, nbytes=self.server.nbytes)
        if job["status"] != "completed":
            raise UnexpectedAnswerError(f"job {job['id']} of {errand} became {job}")
        picture = self.call("GET", job["results"][0]["url"]).content
        seconds = time.perf_counter() - began
        return Answer(errand, "answered", seconds, job, picture, self.server.nbytes)


def _told(answer: httpx2.Response) -> str:
    return f"{answer.status_code} {answer.text[:500]}"
