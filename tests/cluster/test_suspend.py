"""What is suspended is neither looked at nor changed, and says so; nothing is lost by it."""

from __future__ import annotations

import pytest

from tests.cluster.user_support import binding, bound, logs_in, user
from tests.cluster.world import World, condition, wait_for

pytestmark = pytest.mark.cluster


def suspended(world: World, kind: str, name: str) -> None:
    """Wait until Ready is Unknown for the present generation, since the resource is suspended."""
    world.until(kind, name, "Unknown", "Suspended")


def test_a_suspended_schema_is_left_alone_and_goes_on_later(world: World):
    role, gone = world.role("app"), world.role("gone")
    comment = f"SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = '{role}'"
    roles = [{"name": role, "comment": "ours"}, {"name": gone}]
    world.schema("shop", postgres={"roles": roles})
    world.ready("DatabaseSchema", "shop")
    # neither drift nor what the declaration says by now
    world.schema("shop", postgres={"roles": roles[:1]}, suspend=True)
    suspended(world, "DatabaseSchema", "shop")
    world.sql(f"COMMENT ON ROLE {role} IS 'by hand'", database="postgres")
    passes = world.operator.value("selvedge_reconcile_total", kind="DatabaseSchema")
    world.now("DatabaseSchema", "shop")
    wait_for(lambda: world.operator.value("selvedge_reconcile_total", kind="DatabaseSchema") > passes)
    assert world.ask(comment) == "by hand"
    assert world.sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{gone}'") == [(1,)]
    assert condition(world.api.get("DatabaseSchema", "shop"))["status"] == "Unknown"
    world.schema("shop", postgres={"roles": roles[:1]})
    world.ready("DatabaseSchema", "shop")
    assert world.ask(comment) == "ours"
    assert world.sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{gone}'") == []


def test_a_suspended_user_keeps_its_login(world: World):
    world.schema("shop", postgres={})
    user(world, "app")
    data = bound(world, "app")
    user(world, "app", suspend=True, connectionLimit=3)
    suspended(world, "DatabaseUser", "app")
    limit = f"SELECT rolconnlimit FROM pg_roles WHERE rolname = '{data['username']}'"
    world.now("DatabaseUser", "app")
    assert (world.ask(limit), binding(world, "app-db")) == (-1, data)
    assert logs_in(world, data)
    user(world, "app", connectionLimit=3)
    wait_for(lambda: world.ask(limit) == 3)
    assert bound(world, "app") == data
