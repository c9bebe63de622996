"""The end of a DatabaseUser: what is dropped, handed over or kept."""

from __future__ import annotations

import psycopg
import pytest

from tests.cluster.user_support import binding, bound, connect, logs_in, shop, user
from tests.cluster.world import World, verdict, wait_for

pytestmark = pytest.mark.cluster


def test_deletion_ends_sessions_hands_objects_over_and_drops_the_login(world: World):
    make = {"name": "make", "privileges": ["USAGE", "CREATE"], "objects": {"schemas": ["avatar"]}}
    shop(world, "rw", schemas=[{"name": "avatar"}], grants=[{**make, "to": [world.role("rw")]}])
    user(world, "app", roles=[{"role": world.role("rw")}])
    data = bound(world, "app")
    world.ready("DatabaseSchema", "shop")
    session = connect(world, data)
    session.execute("CREATE TABLE avatar.t (id int); INSERT INTO avatar.t VALUES (7)")
    world.api.delete("DatabaseUser", "app")
    wait_for(lambda: world.api.get("DatabaseUser", "app") is None)
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")
    assert world.sql("SELECT tableowner::text FROM pg_tables WHERE tablename = 't'") == [(world.role("owner"),)]
    assert world.ask("SELECT id FROM avatar.t") == 7
    assert world.sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{world.role('app')}'") == []


def test_retain_keeps_login_and_secret_and_a_new_resource_finds_them(world: World):
    shop(world)
    user(world, "app", deletionPolicy="Retain")
    data = bound(world, "app")
    world.api.delete("DatabaseUser", "app")
    wait_for(lambda: world.api.get("DatabaseUser", "app") is None)
    assert logs_in(world, data)
    assert binding(world, "app-db") == data
    user(world, "app")
    assert bound(world, "app") == data


def test_with_the_server_gone_the_resource_is_let_go_with_an_event(world: World):
    shop(world)
    user(world, "app")
    bound(world, "app")
    world.api.delete("DatabaseServer", "main")
    wait_for(lambda: world.api.get("DatabaseServer", "main") is None)
    world.until("DatabaseUser", "app", "False", "WaitingForServer")  # the operator has seen it
    world.api.delete("DatabaseUser", "app")
    wait_for(lambda: world.api.get("DatabaseUser", "app") is None)
    wait_for(lambda: any(event["reason"] == "LoginRetained" for event in world.api.list("Event")))
    assert world.sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{world.role('app')}'", database="postgres") == [(1,)]


def test_while_the_secret_of_the_server_is_missing_the_removal_waits_and_says_so(world: World):
    shop(world)
    user(world, "app")
    bound(world, "app")
    world.api.delete("Secret", "main-admin")
    world.now("DatabaseServer", "main")
    world.until("DatabaseServer", "main", "False", "SecretNotFound")
    world.api.delete("DatabaseUser", "app")
    waiting = world.until("DatabaseUser", "app", "False", "WaitingForServer")
    assert "DatabaseServer" in verdict(waiting)[2]
    assert "see its status" in verdict(waiting)[2]
    world.credentials(world.endpoint, "main")
    world.now("DatabaseServer", "main")
    wait_for(lambda: world.api.get("DatabaseUser", "app") is None)
    assert world.sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{world.role('app')}'", database="postgres") == []


def test_the_schema_may_go_before_the_user(world: World):
    shop(world)
    user(world, "app")
    bound(world, "app")
    world.api.delete("DatabaseSchema", "shop")
    wait_for(lambda: world.api.get("DatabaseSchema", "shop") is None)
    world.api.delete("DatabaseUser", "app")
    wait_for(lambda: world.api.get("DatabaseUser", "app") is None)
    assert world.sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{world.role('app')}'", database="postgres") == []
