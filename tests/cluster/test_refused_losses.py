"""``destructive: Refuse`` from `kubectl apply` on: an approved plan does not lose what a schema or its server keeps."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox import MongoEndpoint
from tests.cluster.kube_api import Document
from tests.cluster.test_migrationrun_actions import shop, sources, start, versions
from tests.cluster.world import World, condition, verdict

pytestmark = pytest.mark.cluster

FLOOR = {"policy": {"destructive": "Refuse"}}


def refused(world: World, field: str, lost: str) -> Document:
    """The DatabaseSchema that stands still, since ``field`` keeps what its plan would lose."""
    schema = world.until("DatabaseSchema", "shop", "False", "DestructiveRefused")
    assert condition(schema, "Stalled")["status"] == "True"
    assert condition(schema, "Provisioned")["status"] == "True"
    message = verdict(schema)[2]
    assert message.startswith(f"{lost} is not changed: that would lose data")
    assert f"and {field} is Refuse" in message
    assert f"set {field} to RequireApproval" in message
    assert [(entry["state"], f"{entry['kind']} {entry['name']}") for entry in schema["status"]["notReady"]] == [
        ("Pending", lost)
    ]
    assert schema["status"]["plan"]["risks"] == {"Destructive": 1}
    return schema


def test_an_approved_plan_does_not_pass_the_floor_of_a_postgres_server(world: World) -> None:
    world.schema("shop", postgres={"schemas": [{"name": "app"}], "extensions": [{"name": "pgcrypto"}]})
    world.ready("DatabaseSchema", "shop")
    asked: dict[str, Any] = {"prune": "Owned", "postgres": {"schemas": [{"name": "app"}, {"name": "new"}]}}
    world.schema("shop", **asked, apply="OnApproval")
    plan = world.until("DatabaseSchema", "shop", "False", "WaitingForApproval")["status"]["plan"]
    assert plan["risks"] == {"Additive": 1, "Destructive": 1}
    world.server(**FLOOR)
    world.ready("DatabaseServer", "main")

    world.schema("shop", **asked, apply="OnApproval", approvedPlan=plan["digest"])
    server = f"spec.policy.destructive of DatabaseServer {world.namespace}/main"
    left = refused(world, server, "extension pgcrypto")["status"]["plan"]["digest"]
    there = (
        "SELECT string_agg(name, ' ' ORDER BY name) FROM (SELECT nspname::text AS name FROM pg_namespace WHERE nspname "
        "= 'new' UNION SELECT extname::text FROM pg_extension WHERE extname = 'pgcrypto') AS found"
    )
    assert world.ask(there) == "new pgcrypto", "the rest of the plan is made"
    world.schema("shop", **asked, destructive="Refuse", approvedPlan=left)
    refused(world, f"spec.destructive as well as {server}", "extension pgcrypto")
    world.schema("shop", **asked, destructive="Allow")
    refused(world, server, "extension pgcrypto")
    assert world.ask(there) == "new pgcrypto"

    world.server(policy={"destructive": "RequireApproval"})
    world.ready("DatabaseServer", "main")
    world.schema("shop", **asked, approvedPlan=left)
    world.ready("DatabaseSchema", "shop")
    assert world.ask(there) == "new"


def test_an_approved_plan_does_not_pass_the_floor_of_a_mongodb_server(mongo: World, mongodb: MongoEndpoint) -> None:
    def designs(*fields: str) -> dict[str, Any]:
        index = {"name": "userId", "keys": [{"field": field} for field in fields]}
        return {"collections": [{"name": "designs", "indexes": [index]}]}

    mongo.schema("shop", server="mongo", mongodb=designs("userId"))
    mongo.ready("DatabaseSchema", "shop")
    asked = designs("userId", "name")
    mongo.schema("shop", server="mongo", mongodb=asked)
    plan = mongo.until("DatabaseSchema", "shop", "False", "WaitingForApproval")["status"]["plan"]
    mongo.mongo_server(mongodb, **FLOOR)
    mongo.ready("DatabaseServer", "mongo")
    mongo.schema("shop", server="mongo", mongodb=asked, approvedPlan=plan["digest"])
    refused(mongo, f"spec.policy.destructive of DatabaseServer {mongo.namespace}/mongo", "index designs.userId")
    with mongodb.client() as client:
        keys = client[mongo.name].designs.index_information()["userId"]["key"]
    assert dict(keys) == {"userId": 1}


def test_an_approved_run_does_not_pass_the_floor_of_its_server(world: World) -> None:
    sources(world, {"20250101000000_a.sql": "-- migrate:up\nSELECT 1;\n-- migrate:down\nSELECT 2;\n"})
    shop(world)
    world.ready("DatabaseSchema", "shop")
    start(world, "asks", action="Down")
    digest = world.until("MigrationRun", "asks", "False", "WaitingForApproval")["status"]["plan"]
    world.server(**FLOOR)
    world.ready("DatabaseServer", "main")
    start(world, "back", action="Down", approvedPlan=digest)
    run = world.until("MigrationRun", "back", "False", "DestructiveRefused")
    assert f"spec.policy.destructive of DatabaseServer {world.namespace}/main is Refuse" in verdict(run)[2]
    assert run["status"]["phase"] == "Failed"
    assert versions(world) == ["20250101000000"]
