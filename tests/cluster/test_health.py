"""Probes and health with a database that is gone: only the document says so, and the answer does not wait for it."""

from __future__ import annotations

import json
import time
from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.proxy import Proxy
from tests.cluster.world import World, wait_for

LIMITS = {"connectTimeout": "1s", "statementTimeout": "1s", "idleTimeout": "1s"}


def test_a_dead_database_is_degraded_and_keeps_no_probe_waiting(bare: World):
    world, key = bare, f"{bare.namespace}/main"
    with Proxy(world.endpoint.port) as proxy:
        world.server(replace(world.endpoint, port=proxy.port), monitoring={"interval": "1s"}, connections=LIMITS)
        world.server(name="other")
        world.schema("shop", postgres={"schemas": [{"name": "shared"}]})
        world.ready("DatabaseSchema", "shop")
        world.ready("DatabaseServer", "other")
        health = json.loads(world.operator.http("/health/database")[1])
        assert (health["status"], health["databases"][key]["healthy"]) == ("healthy", True)
        proxy.hang()
        slowest = 0.0

        def shown() -> dict[str, object] | None:
            nonlocal slowest
            for path in ("/livez", "/readyz", "/health", "/metrics"):
                assert world.operator.http(path)[0] == 200, path
            began = time.monotonic()
            code, text = world.operator.http("/health/database")
            slowest = max(slowest, time.monotonic() - began)
            assert code == 200
            document: dict[str, object] = json.loads(text)
            return document if document["status"] == "degraded" else None

        document = wait_for(shown)
        dead, alive = document["databases"][key], document["databases"][f"{world.namespace}/other"]
        assert dead["healthy"] is False
        assert dead["reason"] in ("ConnectionTimeout", "ConnectionLost", "Timeout")
        assert alive["healthy"] is True
        assert slowest < 1.0
        summary = json.loads(world.operator.http("/health")[1])
        assert summary["databases"] == {"total": 2, "healthy": 1}
        assert world.operator.http("/readyz") == (200, "leader\n")
        proxy.resume()
        wait_for(lambda: json.loads(world.operator.http("/health")[1])["status"] == "healthy", 10)
    world.api.delete("DatabaseServer", "main")
    wait_for(lambda: key not in json.loads(world.operator.http("/health/database")[1])["databases"])


def test_both_formats_of_the_metrics_name_the_same(world: World):
    world.schema("shop", postgres={"schemas": [{"name": "shared"}]})
    world.ready("DatabaseSchema", "shop")
    families = json.loads(world.operator.http("/metrics/json")[1])["metrics"]
    as_json = {sample["name"] for family in families for sample in family["samples"]}
    text = world.operator.http("/metrics")[1]
    as_text = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    assert as_json == as_text
    assert {"selvedge_reconcile_total", "selvedge_leader", "db_query_duration_seconds_bucket"} <= as_json
