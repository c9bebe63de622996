from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from selvedge.core.shards import Shard
from selvedge.telemetry.metrics import Metrics
from tests.waiting import until


@pytest.fixture
def metrics():
    return Metrics()


def value(metrics, name, **labels):
    return metrics.registry.get_sample_value(name, labels)


def test_each_process_part_has_its_own_registry(metrics):
    metrics.leader(True)
    assert value(Metrics(), "selvedge_leader") == 0
    assert value(metrics, "selvedge_leader") == 1


def test_reconciles_drift_and_resources(metrics):
    metrics.reconciled("DatabaseSchema", "ready", 0.2)
    metrics.drift("role", found=2, repaired=1)
    metrics.resources("DatabaseSchema", {"True": 3})
    metrics.kubernetes_request("patch", "databaseschemas", "200")
    metrics.queue_depth(4)
    assert value(metrics, "selvedge_reconcile_total", kind="DatabaseSchema", result="ready") == 1
    assert value(metrics, "selvedge_reconcile_duration_seconds_sum", kind="DatabaseSchema") == 0.2
    assert value(metrics, "selvedge_drift_found_total", kind="role") == 2
    assert value(metrics, "selvedge_drift_repaired_total", kind="role") == 1
    assert value(metrics, "selvedge_resources", kind="DatabaseSchema", ready="True") == 3
    assert value(metrics, "selvedge_resources", kind="DatabaseSchema", ready="False") == 0
    assert value(metrics, "selvedge_queue_depth") == 4


def test_statements_are_observed_for_each_server(metrics):
    observer = metrics.observer("shop/main-postgres", "Postgres")
    observer.statement("snapshot", 0.02)
    observer.statement("apply", 0.5, "42501")
    database = "shop/main-postgres"
    common = {"engine": "Postgres", "database": database}
    bucket = "db_query_duration_seconds_bucket"
    assert value(metrics, bucket, **common, operation="snapshot", status="success", le="0.01") == 0
    assert value(metrics, bucket, **common, operation="snapshot", status="success", le="0.025") == 1
    assert value(metrics, "db_query_duration_seconds_count", **common, operation="apply", status="error") == 1
    assert value(metrics, "db_queries_total", database=database, operation="apply") == 1
    assert value(metrics, "db_query_errors_total", database=database, error_type="42501") == 1


def test_buckets_reach_from_one_millisecond_to_ten_seconds(metrics):
    metrics.observer("a/b", "Postgres").statement("probe", 0)
    edges = [
        float(sample.labels["le"])
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "db_query_duration_seconds_bucket"
    ]
    assert (edges[0], edges[-2]) == (0.001, 10.0)


def test_a_server_shows_health_pool_and_utilization(metrics):
    metrics.server("a/b", healthy=True, connections={"active": 2, "idle": 3}, limit=10)
    assert value(metrics, "db_health_status", database="a/b") == 1
    assert value(metrics, "db_connection_pool_size", database="a/b", state="idle") == 3
    assert value(metrics, "db_connection_pool_size", database="a/b", state="waiting") == 0
    assert value(metrics, "db_connection_pool_utilization", database="a/b") == 0.2
    assert value(metrics, "db_last_probe_timestamp_seconds", database="a/b") > 1.7e9
    metrics.server("a/b", healthy=False, connections={})
    assert value(metrics, "db_health_status", database="a/b") == 0


def test_every_series_of_a_deleted_server_goes_and_others_stay(metrics):
    for server in ("a/gone", "a/kept"):
        metrics.server(server, healthy=True, connections={"active": 1}, limit=2)
        metrics.observer(server, "Postgres").statement("probe", 0.1, "08006")
    metrics.forget_server("a/gone")
    metrics.forget_server("a/gone")
    labels = [sample.labels.get("database") for family in metrics.registry.collect() for sample in family.samples]
    assert "a/gone" not in labels
    assert "a/kept" in labels


async def test_the_event_loops_lag_is_measured(metrics):
    task = asyncio.create_task(metrics.watch_event_loop(0.01))
    await until(lambda: value(metrics, "selvedge_event_loop_lag_seconds_count"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_without_shards_nothing_is_said_of_them(metrics):
    assert "selvedge_shard_info" not in {family.name for family in metrics.registry.collect()}
    assert value(Metrics(Shard(1, 3)), "selvedge_shard_info", index="1", count="3") == 1


def test_every_metric_is_in_the_documentation():
    metrics = Metrics(Shard(0, 2))
    page = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
    documented = set(re.findall(r"^\| `([a-z_]+)", page, re.MULTILINE))
    exported = {family.name + ("_total" if family.type == "counter" else "") for family in metrics.registry.collect()}
    assert documented == exported
