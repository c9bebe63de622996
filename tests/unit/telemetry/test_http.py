"""The HTTP server, by real requests over loopback."""

from __future__ import annotations

import json
from datetime import datetime

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from selvedge.config import Settings
from selvedge.core.redact import Redactor
from selvedge.telemetry.health import Health
from selvedge.telemetry.http import HttpServer
from selvedge.telemetry.metrics import Metrics


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def health(clock):
    redactor = Redactor()
    redactor.add("marked-password")
    return Health(redactor, stale_after=30, clock=clock)


@pytest.fixture
async def get(metrics, health):
    server = HttpServer(Settings(http_host="127.0.0.1", http_port=0), metrics, health)
    await server.start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:

        async def call(path, **headers):
            async with session.get(path, headers=headers) as response:
                return response.status, await response.text(), response.headers["Content-Type"]

        yield call
    await server.stop()


async def test_livez_fails_only_when_the_loop_stopped_beating(get, health, clock):
    health.server("a/b", False, 5.0, {}, "no answer")
    assert (await get("/livez"))[0] == 200
    clock.now += 29
    assert (await get("/livez"))[0] == 200
    clock.now += 2
    assert (await get("/livez"))[0] == 503
    health.beat()
    assert (await get("/livez"))[0] == 200


async def test_readyz_waits_for_the_api_server_and_is_true_for_a_standby(get, health, clock):
    assert (await get("/readyz"))[0] == 503
    health.reached_api()
    health.server("a/b", False, 5.0, {}, "no answer")
    assert (await get("/readyz"))[:2] == (200, "standby\n")
    health.leading = True
    assert (await get("/readyz"))[:2] == (200, "leader\n")
    clock.now += 31
    assert (await get("/readyz"))[0] == 503


async def test_health_tells_healthy_degraded_and_unhealthy(get, health, clock):
    health.server("a/good", True, 0.001, {})
    status, text, _ = await get("/health")
    assert (status, json.loads(text)["status"]) == (200, "healthy")
    health.server("a/bad", False, 0.001, {})
    status, text, _ = await get("/health")
    document = json.loads(text)
    assert (status, document["status"], document["databases"]) == (200, "degraded", {"total": 2, "healthy": 1})
    assert datetime.fromisoformat(document["timestamp"]).tzinfo is not None
    health.forget_server("a/bad")
    assert json.loads((await get("/health"))[1])["status"] == "healthy"
    clock.now += 31
    status, text, _ = await get("/health")
    assert (status, json.loads(text)["status"]) == (503, "unhealthy")


async def test_health_of_each_database_without_any_secret(get, health):
    health.server("shop/main-postgres", True, 0.0123, {"active": 1, "idle": 2, "waiting": 4})
    health.server("shop/old", False, 5.0, {}, "cannot log in with marked-password")
    status, text, content_type = await get("/health/database")
    assert (status, content_type.split(";")[0]) == (200, "application/json")
    databases = json.loads(text)["databases"]
    good, bad = databases["shop/main-postgres"], databases["shop/old"]
    assert good.pop("lastProbe").endswith("Z")
    assert good == {
        "healthy": True,
        "reason": "",
        "responseTime": 12.3,
        "connections": {"total": 3, "active": 1, "idle": 2},
    }
    assert (bad["healthy"], bad["reason"]) == (False, "cannot log in with ***")


async def test_metrics_in_both_formats(get, metrics):
    metrics.observer("a/b", "Postgres").statement("probe", 0.004)
    status, text, content_type = await get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert status == 200
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["db_queries"].samples[0].value == 1
    assert text.endswith("# EOF\n")
    status, text, content_type = await get("/metrics", Accept="text/plain")
    assert content_type.startswith("text/plain")
    assert 'db_queries_total{database="a/b",operation="probe"} 1.0' in text


async def test_metrics_as_json_hold_the_same_samples(get, metrics):
    metrics.observer("a/b", "Postgres").statement("probe", 0.004)
    status, text, _ = await get("/metrics/json")
    assert status == 200
    # strict: JSON knows no NaN and no Infinity
    families = json.loads(text, parse_constant=pytest.fail)["metrics"]
    found = {(sample["name"], *sorted(sample["labels"].items())) for f in families for sample in f["samples"]}
    expected = {
        (sample.name, *sorted(sample.labels.items()))
        for family in metrics.registry.collect()
        for sample in family.samples
    }
    assert found == expected


async def test_unknown_paths_and_other_methods_are_refused(get):
    assert (await get("/"))[0] == 404
    assert (await get("/metrics/../secret"))[0] == 404


async def test_stop_frees_the_port_and_may_be_repeated(metrics, health):
    first = HttpServer(Settings(http_host="127.0.0.1", http_port=0), metrics, health)
    await first.start()
    second = HttpServer(Settings(http_host="127.0.0.1", http_port=first.port), metrics, health)
    with pytest.raises(OSError, match="address already in use"):
        await second.start()
    await second.stop()
    await first.stop()
    await first.stop()
    await second.start()
    await second.stop()
