"""What Prometheus reads: counts and times of requests, jobs and adapters, none by adapter."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from loraloom.core.lora import Mode
from loraloom.engine.ticket import State
from loraloom.errors import LoraloomError

from .errors import Refusal, code_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Of what should take milliseconds, in seconds."""

LONG = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""Of what waits for a device."""

ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)

TIERS = ("host", "device")
"""Where bytes of adapters are kept under a budget."""


class Times:
    """The histograms."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def of(name: str, said: str, *labels: str, buckets: tuple[float, ...] = LONG) -> Histogram:
            return Histogram(f"loraloom_{name}", said, labels, buckets=buckets, registry=registry)

        self.request = of("request_seconds", "From a request's head to its last byte", "endpoint")
        self.queue = of("queue_seconds", "What jobs waited for their first batch")
        self.wait = of("load_wait_seconds", "What batches waited for adapters to be read")
        self.step = of("denoise_step_seconds", "One step of a batch", buckets=SHORT)
        self.encode = of("encode_seconds", "Writing one result", buckets=SHORT)
        self.switch = of(
            "lora_switch_seconds", "Putting on what a batch wears", "mode", buckets=SHORT
        )
        self.load = of("lora_load_seconds", "Reading one adapter into the host's memory", "source")


class Counts:
    """The counters, and the sizes of batches."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def of(name: str, said: str, *labels: str) -> Counter:
            return Counter(f"loraloom_{name}", said, labels, registry=registry)

        self.requests = of("requests", "Answers", "endpoint", "code")
        self.jobs = of("jobs", "Jobs that came to a state", "state")
        self.evictions = of("lora_evictions", "Adapters that left for others", "tier")
        self.rejects = of("lora_rejects", "Adapters that were not published", "reason")
        self.rows = Histogram(
            "loraloom_batch_rows", "Rows that ran together", buckets=ROWS, registry=registry
        )


class Levels:
    """The gauges; they are set when they are read."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def of(name: str, said: str, *labels: str) -> Gauge:
            return Gauge(f"loraloom_{name}", said, labels, registry=registry)

        self.depth = of("queue_depth", "Jobs that wait")
        self.running = of("running", "Jobs under way")
        self.resident = of("lora_resident_bytes", "Adapters that are kept", "tier")


@dataclass(frozen=True, slots=True)
class TierMetrics:
    """What one tier tells."""

    counts: Counts
    times: Times
    tier: str

    def loaded(self, seconds: float, source: str) -> None:
        """A value was made; of the source only what kind it is."""
        self.times.load.labels(source.partition(":")[0] or "file").observe(seconds)

    def evicted(self) -> None:
        """A value had to leave for another."""
        self.counts.evictions.labels(self.tier).inc()


class Metrics:
    """All of them, in a registry of their own. The engine tells its times here, on any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.times = Times(self.registry)
        self.counts = Counts(self.registry)
        self.levels = Levels(self.registry)
        for tier in TIERS:  # what never happened is 0, not absent
            self.counts.evictions.labels(tier)
            self.levels.resident.labels(tier)
        for mode in get_args(Mode):
            self.times.switch.labels(mode)
        for state in get_args(State):
            self.counts.jobs.labels(state)

    def tier(self, name: str) -> TierMetrics:
        """Whom the tier of that name tells."""
        return TierMetrics(self.counts, self.times, name)

    def moved(self, state: State) -> None:
        self.counts.jobs.labels(state).inc()

    def queued(self, seconds: float) -> None:
        self.times.queue.observe(seconds)

    def batched(self, rows: int) -> None:
        self.counts.rows.observe(rows)

    def stepped(self, seconds: float) -> None:
        self.times.step.observe(seconds)

    def switched(self, mode: Mode, seconds: float) -> None:
        self.times.switch.labels(mode).observe(seconds)

    def loaded(self, seconds: float) -> None:
        self.times.wait.observe(seconds)

    def encoded(self, seconds: float) -> None:
        self.times.encode.observe(seconds)

    @contextmanager
    def rejecting(self) -> Iterator[None]:
        """For a block that publishes: why an adapter was not, by the code of the answer."""
        try:
            yield
        except Refusal as refusal:
            self.counts.rejects.labels(refusal.code).inc()
            raise
        except LoraloomError as error:
            self.counts.rejects.labels(code_of(type(error))).inc()
            raise

    def answered(self, endpoint: str, code: int, seconds: float) -> None:
        """A request to a route was answered, to its last byte."""
        self.counts.requests.labels(endpoint, str(code)).inc()
        self.times.request.labels(endpoint).observe(seconds)

    def page(self, *, waiting: int, running: int, resident: Mapping[str, int]) -> bytes:
        """Everything as Prometheus reads it, with what is at this moment."""
        self.levels.depth.set(waiting)
        self.levels.running.set(running)
        for tier, nbytes in resident.items():
            self.levels.resident.labels(tier).set(nbytes)
        return generate_latest(self.registry)


class Counted:
    """Counts every answer by its route; pure ASGI, so that streams come through as they are."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            self.metrics.answered(endpoint_of(scope), status, perf_counter() - began)


def endpoint_of(scope: Scope) -> str:
    """The path of a route with its parameters by name; paths of no route are counted together."""
    path: str = getattr(scope.get("route"), "path", "other")
    return path
