"""Partitions from `kubectl apply` on: made ahead, repaired, stated as a metric, taken away only when it is meant."""

from __future__ import annotations

import time
from typing import Any

from tests.cluster.world import World, wait_for

TABLES = """-- migrate:up
CREATE TABLE app.requests (at timestamptz NOT NULL DEFAULT now(), route text) PARTITION BY RANGE (at);
CREATE TABLE app.activity (user_id uuid NOT NULL, what text) PARTITION BY HASH (user_id);
"""
CHILDREN = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'app.requests'::regclass"
METRIC = "db_partition_end_timestamp_seconds"


def declare(world: World, *entries: dict[str, Any], **spec: Any) -> None:
    data = {"20260101000000_tables.sql": TABLES}
    world.api.apply({"kind": "ConfigMap", "metadata": {"name": "migrations"}, "data": data})
    owner = world.role("owner")
    daily = {"table": "app.requests", "by": "Time", "column": "at", "every": "Day", "ahead": 3}
    postgres = {
        "schemas": [{"name": "app", "owner": owner}],
        "roles": [{"name": owner}],
        "partitions": [*(entries or [daily]), {"table": "app.activity", "by": "Hash", "column": "user_id", "count": 4}],
    }
    migrations = {"autoApply": True, "role": owner, "source": {"configMaps": [{"name": "migrations"}]}}
    world.schema("shop", postgres=postgres, migrations=migrations, **spec)


def test_partitions_are_made_stated_and_repaired(world: World):
    declare(world)
    world.ready("DatabaseSchema", "shop", 40)
    assert (world.ask(CHILDREN), world.ask(CHILDREN.replace("requests", "activity"))) == (4, 4)
    labels = {"schema": f"{world.namespace}/shop", "table": "app.requests"}
    left = world.operator.value(METRIC, **labels) - time.time()
    assert 3 * 86_400 < left <= 4 * 86_400

    last = world.ask("SELECT max(inhrelid::regclass::text) FROM pg_inherits WHERE inhparent = 'app.requests'::regclass")
    world.sql(f"DROP TABLE {last}")
    world.now("DatabaseSchema", "shop")
    wait_for(lambda: world.ask(CHILDREN) == 4)
    world.ready("DatabaseSchema", "shop")


def test_a_shorter_retention_waits_for_a_person(world: World):
    daily = {"table": "app.requests", "by": "Time", "column": "at", "every": "Day", "ahead": 1}
    declare(world, daily)
    world.ready("DatabaseSchema", "shop", 40)
    world.sql("CREATE TABLE app.old PARTITION OF app.requests FOR VALUES FROM ('2001-01-01') TO ('2001-01-02')")
    declare(world, {**daily, "retention": "30d"})
    waiting = world.until("DatabaseSchema", "shop", "False", "WaitingForApproval")
    assert waiting["status"]["plan"]["risks"]["Destructive"] >= 1
    assert world.ask(CHILDREN) == 3

    declare(world, {**daily, "retention": "30d"}, approvedPlan=waiting["status"]["plan"]["digest"])
    world.ready("DatabaseSchema", "shop")
    assert world.ask(CHILDREN) == 2
