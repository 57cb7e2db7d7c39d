"""What machines ask: health, readiness, counts, versions, the command for a machine."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

import loraloom
from loraloom.engine.meter import Meter
from loraloom.errors import AdapterCoverageError, StorageFullError
from loraloom.memory.tier import TierMeter
from loraloom.serve.app import create_app
from loraloom.serve.build import opened
from loraloom.serve.errors import Refusal
from loraloom.serve.metrics import Metrics
from loraloom.settings import Settings

from . import weights
from .conftest import SMALL, served, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from loraloom.serve.service import Service

Sample = tuple[str, frozenset[tuple[str, str]]]


def samples(text: str) -> Mapping[str, float]:
    """Every line of a page of metrics: name and labels as they stand, and the value."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def page(metrics: Metrics) -> Mapping[str, float]:
    return samples(metrics.page(waiting=0, running=0, resident={}).decode())


def read(http: httpx2.Client) -> Mapping[str, float]:
    return samples(http.get("/metrics").text)


def test_a_server_with_a_model_is_healthy_and_ready(http: httpx2.Client) -> None:
    assert http.get("/health").json() == {"status": "ok"}
    ready = http.get("/ready")
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "reason": None})
    assert [http.head(path).status_code for path in ("/health", "/ready")] == [200, 200]


@pytest.fixture
def cold(tmp_path: Path) -> Callable[..., AbstractContextManager[httpx2.Client]]:
    """A server whose engine is not started, or was and found no model."""

    @contextmanager
    def begun(*, start: bool = False, **changes: Any) -> Iterator[httpx2.Client]:
        settings = Settings(state=tmp_path, port=0, device="cpu", warmup=False, **changes)
        with opened(settings) as service:
            try:
                with (
                    served(create_app(service)) as url,
                    httpx2.Client(base_url=url, timeout=60) as client,
                ):
                    if start:
                        service.engine.start()
                        until(lambda: service.engine.failure is not None)
                    yield client
            finally:
                service.engine.stop(patience=0)

    return begun


def test_before_the_model_is_loaded_all_but_making_pictures_works(
    cold: Callable[..., AbstractContextManager[httpx2.Client]],
) -> None:
    with cold() as client:
        assert client.get("/health").status_code == 200
        ready = client.get("/ready")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert "being loaded" in ready.json()["reason"]
        assert client.get("/v1/models").json()["data"][0]["id"] == "mini"
        assert client.get("/v1/adapters/neon").json()["tier"] in {"host", "disk"}
        form = {"file": ("a.safetensors", weights.adapter(1))}
        answer = client.post("/v1/adapters", data={"name": "early"}, files=form)
        assert answer.status_code == 201, answer.text
        assert samples(client.get("/metrics").text)["loraloom_running"] == 0
        refused = client.post("/v1/images/generations", json=SMALL)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
    with cold() as client:
        again = client.get("/v1/adapters/early").json()
        assert again == {**answer.json(), "tier": again["tier"]}


def test_what_keeps_a_server_from_being_ready_is_for_its_log(
    cold: Callable[..., AbstractContextManager[httpx2.Client]],
) -> None:
    with cold(start=True, default_lora=("secret-name",)) as client:
        ready = client.get("/ready")
        assert ready.status_code == 503
        assert "log" in ready.json()["reason"]
        assert "secret-name" not in ready.text


def test_versions_are_those_that_run(http: httpx2.Client) -> None:
    found = http.get("/version").json()
    assert found["loraloom"] == loraloom.__version__
    assert found["model"] == "mini"
    assert found["packages"].keys() >= {"torch", "diffusers"}


def test_a_picture_is_counted_with_its_times(http: httpx2.Client) -> None:
    before = read(http)
    asked = {**SMALL, "loras": [{"name": "neon"}, {"name": "sketch"}]}
    assert http.post("/v1/images/generations", json=asked).status_code == 200
    after = read(http)

    def grew(name: str) -> float:
        return after.get(name, 0) - before.get(name, 0)

    route = 'endpoint="/v1/images/generations"'
    assert grew(f'loraloom_requests_total{{code="200",{route}}}') == 1
    assert grew(f"loraloom_request_seconds_count{{{route}}}") == 1
    assert grew("loraloom_queue_seconds_count") == 1
    assert grew("loraloom_denoise_step_seconds_count") == SMALL["steps"]
    assert grew("loraloom_batch_rows_count") == 1
    assert grew('loraloom_jobs_total{state="completed"}') == 1
    assert grew('loraloom_lora_switch_seconds_count{mode="live"}') >= 1
    until(lambda: read(http)["loraloom_running"] == 0)
    assert after["loraloom_queue_depth"] == 0
    assert after['loraloom_lora_resident_bytes{tier="host"}'] > 0
    assert after['loraloom_lora_resident_bytes{tier="device"}'] > 0
    assert sum(v for k, v in after.items() if k.startswith("loraloom_lora_load_seconds_count")) >= 2


def test_no_adapter_prompt_or_path_is_in_a_metric(http: httpx2.Client, service: Service) -> None:
    http.post("/v1/images/generations", json={**SMALL, "loras": [{"name": "neon"}]})
    http.get("/v1/adapters/neon")
    http.get("/v1/adapters/some-stranger")
    http.get("/no/such/page/of-mine")
    text = http.get("/metrics").text
    for word in ("neon", "some-stranger", "of-mine", "circle", str(service.settings.state)):
        assert word not in text
    assert 'endpoint="/v1/adapters/{name}"' in text
    assert 'endpoint="other"' in text


def test_what_was_not_published_is_counted_by_its_reason(http: httpx2.Client) -> None:
    before = read(http)
    for data in (weights.of_another_model(), b"PK\x03\x04" + bytes(64)):
        form = {"file": ("a.safetensors", data)}
        http.post("/v1/adapters", data={"name": "refused"}, files=form)
    after = read(http)
    for reason in ("lora_incompatible", "lora_invalid"):
        name = f'loraloom_lora_rejects_total{{reason="{reason}"}}'
        assert after[name] - before.get(name, 0) == 1


def test_metrics_are_what_prometheus_reads(http: httpx2.Client) -> None:
    answer = http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    helps = re.findall(r"^# HELP (loraloom_\w+) ", answer.text, re.MULTILINE)
    names = {name.removesuffix("_created") for name in helps}
    assert names >= {
        "loraloom_requests_total",
        "loraloom_request_seconds",
        "loraloom_queue_seconds",
        "loraloom_queue_depth",
        "loraloom_running",
        "loraloom_denoise_step_seconds",
        "loraloom_lora_switch_seconds",
        "loraloom_lora_load_seconds",
        "loraloom_lora_resident_bytes",
        "loraloom_lora_evictions_total",
        "loraloom_lora_rejects_total",
        "loraloom_batch_rows",
        "loraloom_jobs_total",
    }


def test_metrics_count_for_the_engine_and_for_every_tier() -> None:
    metrics = Metrics()
    meter: Meter = metrics
    meter.moved("completed")
    meter.queued(0.5)
    meter.batched(3)
    meter.stepped(0.1)
    meter.switched("fused", 0.2)
    meter.loaded(0.3)
    meter.encoded(0.4)
    tier: TierMeter = metrics.tier("device")
    tier.loaded(1.0, "hub:owner/name@commit/file")
    tier.loaded(1.0, "upload")
    tier.evicted()
    found = page(metrics)
    assert found['loraloom_jobs_total{state="completed"}'] == 1
    assert found["loraloom_queue_seconds_sum"] == 0.5
    assert found['loraloom_batch_rows_bucket{le="2.0"}'] == 0
    assert found['loraloom_batch_rows_bucket{le="3.0"}'] == 1
    assert found["loraloom_denoise_step_seconds_sum"] == 0.1
    assert found['loraloom_lora_switch_seconds_sum{mode="fused"}'] == 0.2
    assert found["loraloom_load_wait_seconds_sum"] == 0.3
    assert found["loraloom_encode_seconds_sum"] == 0.4
    assert found['loraloom_lora_load_seconds_count{source="hub"}'] == 1
    assert found['loraloom_lora_load_seconds_count{source="upload"}'] == 1
    assert found['loraloom_lora_evictions_total{tier="device"}'] == 1
    assert found['loraloom_lora_evictions_total{tier="host"}'] == 0


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (AdapterCoverageError("no"), "lora_incompatible"),
        (StorageFullError("no"), "storage_full"),
        (Refusal("invalid_value", "no"), "invalid_value"),
    ],
)
def test_a_reason_is_the_code_of_the_answer(cause: Exception, reason: str) -> None:
    metrics = Metrics()
    with pytest.raises(type(cause)), metrics.rejecting():
        raise cause
    with metrics.rejecting():
        pass
    assert page(metrics)[f'loraloom_lora_rejects_total{{reason="{reason}"}}'] == 1


def test_two_servers_in_one_process_count_for_themselves() -> None:
    one, two = Metrics(), Metrics()
    one.batched(1)
    assert page(one)["loraloom_batch_rows_count"] == 1
    assert page(two)["loraloom_batch_rows_count"] == 0


def test_the_command_for_a_machine_names_the_model_and_the_adapters(
    http: httpx2.Client, service: Service
) -> None:
    asked: dict[str, Any] = {"device_memory": "80G", "lora": ["neon:0.5", "sketch"]}
    found = http.get("/v1/deploy", params=asked).json()
    assert found["command"].startswith("loraloom serve mini --lora neon:0.5 --lora sketch")
    assert found["plan"] is None
    explained = http.get("/v1/deploy", params={**asked, "explain": "true"}).json()
    assert "on the device" in explained["plan"]
    assert str(service.card.root) not in explained["plan"]
    two = http.get("/v1/deploy", params={**asked, "pipeline": "two-stage"}).json()
    assert "--pipeline two-stage" in two["command"]


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        ({}, 400, "invalid_value"),
        ({"device_memory": "much"}, 400, "invalid_value"),
        ({"device_memory": "1K"}, 400, "invalid_value"),
        ({"device_memory": "80G", "pipeline": "nine-stage"}, 400, "invalid_value"),
        ({"device_memory": "80G", "lora": "nobody"}, 404, "lora_not_found"),
        ({"device_memory": "80G", "lora": "x=/etc/passwd"}, 400, "invalid_value"),
        ({"device_memory": "80G", "lora": "neon:much"}, 400, "invalid_value"),
        ({"device_memory": "80G", "model": "/srv/models/other"}, 404, "model_not_found"),
    ],
)
def test_what_does_not_go_together_has_no_command(
    http: httpx2.Client, asked: dict[str, str], status: int, code: str
) -> None:
    answer = http.get("/v1/deploy", params=asked)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text


def test_what_runs_and_waits_is_counted_while_it_does(http: httpx2.Client) -> None:
    long = {**SMALL, "steps": 60, "async": True}
    first = http.post("/v1/images/generations", json=long).json()["id"]
    until(lambda: read(http)["loraloom_running"] == 1)
    second = http.post("/v1/images/generations", json={**long, "size": "96x64"}).json()["id"]
    assert read(http)["loraloom_queue_depth"] == 1
    for job in (second, first):
        http.delete(f"/v1/jobs/{job}")
    until(lambda: read(http)["loraloom_running"] == 0)
    assert read(http)["loraloom_queue_depth"] == 0
