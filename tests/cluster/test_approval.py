"""A plan that waits: read as a whole, approved by its digest, refused where it is another one by now."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from tests.cluster.kube_api import Document
from tests.cluster.plugin import Plugin
from tests.cluster.world import World, condition, wait_for


@pytest.fixture
def plugin(kubeconfig: Path, namespace: str) -> Plugin:
    return Plugin(kubeconfig, namespace)


def plan_of(schema: Document) -> Document:
    found: Document = schema["status"]["plan"]
    return found


def test_a_plan_is_read_as_a_whole_and_approved_by_its_digest(world: World, plugin: Plugin) -> None:
    roles = [{"name": world.role(f"r{i:02}")} for i in range(12)]
    world.schema("shop", apply="OnApproval", postgres={"roles": roles, "schemas": [{"name": "app"}]})
    schema = world.until("DatabaseSchema", "shop", "False", "WaitingForApproval")
    plan = plan_of(schema)
    assert len(plan["statements"]) == 10
    assert plan["changes"] == 14
    assert plan["digest"] in condition(schema)["message"]

    held = world.api.get("ConfigMap", plan["configMap"])
    assert held is not None
    assert held["immutable"] is True
    document = json.loads(held["data"]["plan.json"])
    assert len(document["changes"]) == 14
    assert all(role["name"] in held["data"]["plan.txt"] for role in roles)
    assert held["metadata"]["ownerReferences"][0]["uid"] == schema["metadata"]["uid"]

    shown = plugin("plan", "shop")
    assert (shown.returncode, shown.stderr) == (2, "")
    assert plan["digest"] in shown.stdout
    assert "CREATE DATABASE" in shown.stdout

    refused = plugin("approve", "shop", "--yes")
    assert (refused.returncode, "--yes needs --digest" in refused.stderr) == (1, True)
    other = "sha256:" + "0" * 64
    refused = plugin("approve", "shop", "--yes", "--digest", other)
    assert (refused.returncode, "another plan waits by now" in refused.stderr) == (1, True)
    with closing(world.endpoint.connect()) as connection:
        query = "SELECT count(*) FROM pg_database WHERE datname = %s"
        assert connection.execute(query, [world.name]).fetchall() == [(0,)]

    approved = plugin("approve", "shop", "--yes", "--digest", plan["digest"])
    assert (approved.returncode, approved.stderr) == (0, "")
    ready = world.ready("DatabaseSchema", "shop")
    assert "plan" not in ready["status"]
    wait_for(lambda: world.api.get("ConfigMap", plan["configMap"]) is None)
    assert plugin("plan", "shop").stdout == "databaseschema shop: nothing waits\n"


def test_an_approval_does_not_reach_another_plan(world: World, plugin: Plugin) -> None:
    spec = {"schemas": [{"name": "app"}]}
    world.schema("shop", apply="OnApproval", postgres=spec)
    first = plan_of(world.until("DatabaseSchema", "shop", "False", "WaitingForApproval"))
    more = {"schemas": [{"name": "app"}, {"name": "audit"}]}
    world.schema("shop", apply="OnApproval", approvedPlan=first["digest"], postgres=more)
    schema = world.until("DatabaseSchema", "shop", "False", "Superseded")
    second = plan_of(schema)
    assert second["digest"] != first["digest"]
    assert second["digest"] in condition(schema)["message"]
    wait_for(lambda: world.api.get("ConfigMap", first["configMap"]) is None)
    assert plugin("approve", "shop", "--yes", "--digest", second["digest"]).returncode == 0
    world.ready("DatabaseSchema", "shop")


def test_what_no_approval_allows_is_not_said_to_be_approved(world: World, plugin: Plugin) -> None:
    world.schema("shop", postgres={"schemas": [{"name": "app"}, {"name": "old"}], "extensions": [{"name": "pgcrypto"}]})
    world.ready("DatabaseSchema", "shop")
    asked = {"prune": "Owned", "destructive": "Refuse"}
    world.schema("shop", **asked, postgres={"schemas": [{"name": "app"}]})
    both = plan_of(world.until("DatabaseSchema", "shop", "False", "DestructiveRefused"))
    assert both["changes"] == 2
    approved = plugin("approve", "shop", "--yes", "--digest", both["digest"])
    assert (approved.returncode, approved.stderr) == (0, "")
    assert "1 of 2 changes stays undone: extension pgcrypto is not changed" in approved.stdout
    left = wait_for(lambda: _alone(world, both["digest"]))
    refused = plugin("approve", "shop", "--yes", "--digest", left)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "nothing was approved, since nothing would be done: extension pgcrypto is not changed" in refused.stderr


def _alone(world: World, before: str) -> str:
    """The digest of what is left of the plan, once the rest was made."""
    schema = world.api.get("DatabaseSchema", "shop") or {}
    shown = (schema.get("status") or {}).get("plan") or {}
    return shown["digest"] if shown.get("digest") not in (None, before) else ""


def test_a_forged_plan_is_not_approved(world: World, plugin: Plugin) -> None:
    world.schema("shop", apply="OnApproval", postgres={"schemas": [{"name": "app"}]})
    plan = plan_of(world.until("DatabaseSchema", "shop", "False", "WaitingForApproval"))
    held = world.api.get("ConfigMap", plan["configMap"])
    assert held is not None
    harmless = json.loads(held["data"]["plan.json"])
    harmless["changes"] = harmless["changes"][:1]
    world.api.delete("ConfigMap", plan["configMap"])
    world.api.apply(
        {
            "kind": "ConfigMap",
            "metadata": {"name": plan["configMap"]},
            "data": {"plan.json": json.dumps(harmless)},
        }
    )
    refused = plugin("approve", "shop", "--yes", "--digest", plan["digest"])
    assert refused.returncode == 1
    assert "does not hold the plan that waits" in refused.stderr


def test_an_approval_does_not_reach_what_was_changed_by_hand_since(world: World, plugin: Plugin) -> None:
    owner, other = world.role("owner"), world.role("other")
    roles = [{"name": owner}, {"name": other}]
    world.schema("shop", postgres={"roles": roles, "schemas": [{"name": "app", "owner": owner, "comment": "old"}]})
    world.ready("DatabaseSchema", "shop")
    asked = {"roles": roles, "schemas": [{"name": "app", "owner": owner, "comment": "new"}]}
    world.schema("shop", apply="OnApproval", postgres=asked)
    first = plan_of(world.until("DatabaseSchema", "shop", "False", "WaitingForApproval"))
    held = world.api.get("ConfigMap", first["configMap"])
    assert held is not None
    assert "--   replaces: comment old" in held["data"]["plan.txt"]
    world.sql("COMMENT ON SCHEMA app IS 'do not touch, says the auditor'")
    world.schema("shop", apply="OnApproval", approvedPlan=first["digest"], postgres=asked)
    second = plan_of(world.until("DatabaseSchema", "shop", "False", "Superseded"))
    assert second["statements"] == first["statements"]
    assert second["digest"] != first["digest"]
    assert world.ask("SELECT obj_description('app'::regnamespace)") == "do not touch, says the auditor"
    assert plugin("approve", "shop", "--yes", "--digest", second["digest"]).returncode == 0
    world.ready("DatabaseSchema", "shop")
    assert world.ask("SELECT obj_description('app'::regnamespace)") == "new"


def test_a_plan_whose_configmap_was_taken_away_is_written_again(world: World, plugin: Plugin) -> None:
    world.schema("shop", apply="OnApproval", postgres={"schemas": [{"name": "app"}]})
    plan = plan_of(world.until("DatabaseSchema", "shop", "False", "WaitingForApproval"))
    world.api.delete("ConfigMap", plan["configMap"])
    world.api.patch("DatabaseSchema", "shop", {"metadata": {"annotations": {"selvedge.dev/reconcile-now": "1"}}})
    wait_for(lambda: world.api.get("ConfigMap", plan["configMap"]) is not None)
    assert plugin("approve", "shop", "--yes", "--digest", plan["digest"]).returncode == 0
    world.ready("DatabaseSchema", "shop")


def test_status_shows_servers_schemas_and_what_is_wrong(world: World, plugin: Plugin) -> None:
    world.schema("good", postgres={"schemas": [{"name": "app"}]})
    world.ready("DatabaseSchema", "good")
    shown = plugin("status")
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert lines[0].startswith("DatabaseServer ")
    assert lines[1].startswith("  DatabaseSchema ")
    assert lines[1].endswith(": Ready, Verified")

    world.schema("waits", database=world.name + "_w", apply="OnApproval", postgres={"schemas": [{"name": "app"}]})
    world.until("DatabaseSchema", "waits", "False", "WaitingForApproval")
    shown = plugin("status", "-o", "json")
    assert shown.returncode == 2
    (server,) = json.loads(shown.stdout)
    assert {schema["name"]: schema["reason"] for schema in server["schemas"]} == {
        "good": "Verified",
        "waits": "WaitingForApproval",
    }
    assert "kubectl selvedge plan waits" in plugin("status").stdout


def test_an_annotation_asks_for_a_pass_now(world: World) -> None:
    document = world.schema_document("shop", postgres={"schemas": [{"name": "app"}]})
    document["spec"]["interval"] = "1h"
    world.api.apply(document)
    world.ready("DatabaseSchema", "shop")
    world.sql("DROP SCHEMA app")
    world.api.patch("DatabaseSchema", "shop", {"metadata": {"annotations": {"selvedge.dev/reconcile-now": "1"}}})
    wait_for(lambda: world.ask("SELECT count(*) FROM pg_namespace WHERE nspname = 'app'") == 1)
