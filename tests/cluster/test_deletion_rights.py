"""``deletionPolicy: Delete`` asks what every change asks: the server's access, and its floor for what loses data."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.world import World, condition, wait_for

pytestmark = pytest.mark.cluster


def stays(world: World, name: str, reason: str) -> str:
    """The message of a resource that is being deleted and may not take its database along."""

    def told() -> Any:
        found = world.api.get("DatabaseSchema", name)
        assert found is not None
        return found if condition(found)["reason"] == reason else None

    found = wait_for(told)
    assert found["metadata"].get("deletionTimestamp")
    assert condition(found)["status"] == "False"
    return str(condition(found)["message"])


def test_a_schema_that_refuses_to_lose_data_keeps_it_at_its_end_too(world: World) -> None:
    world.schema("shop", deletionPolicy="Delete", destructive="Refuse", postgres={"schemas": [{"name": "app"}]})
    world.ready("DatabaseSchema", "shop")
    world.api.delete("DatabaseSchema", "shop")
    message = stays(world, "shop", "DestructiveRefused")
    assert "spec.destructive is Refuse" in message
    assert "set spec.deletionPolicy to Retain" in message
    assert world.ask("SELECT count(*) FROM pg_namespace WHERE nspname = 'app'") == 1
    world.api.patch("DatabaseSchema", "shop", {"spec": {"destructive": "RequireApproval"}})
    wait_for(lambda: world.api.get("DatabaseSchema", "shop") is None)
    names = world.sql("SELECT datname FROM pg_database", database="postgres")
    assert (world.name,) not in names


def test_a_floor_and_the_access_hold_for_a_deletion_as_well(world: World) -> None:
    world.schema("shop", deletionPolicy="Delete", postgres={"schemas": [{"name": "app"}]})
    world.ready("DatabaseSchema", "shop")
    world.sql("CREATE TABLE app.orders (id int); INSERT INTO app.orders VALUES (1)")
    world.server(policy={"destructive": "Refuse"})
    world.ready("DatabaseServer", "main")
    world.api.delete("DatabaseSchema", "shop")
    message = stays(world, "shop", "DestructiveRefused")
    assert f": spec.policy.destructive of DatabaseServer {world.namespace}/main is Refuse; loosen that" in message
    assert "set spec.deletionPolicy to Retain" in message
    assert world.ask("SELECT count(*) FROM app.orders") == 1

    world.server(access=[{"namespaces": {"from": "Same"}, "databases": ["other"]}])
    world.ready("DatabaseServer", "main")
    assert "use database" in stays(world, "shop", "AccessDenied")
    assert world.ask("SELECT count(*) FROM app.orders") == 1

    world.api.patch("DatabaseSchema", "shop", {"spec": {"deletionPolicy": "Retain"}})
    wait_for(lambda: world.api.get("DatabaseSchema", "shop") is None)
    assert world.ask("SELECT count(*) FROM app.orders") == 1, "the data stays"
