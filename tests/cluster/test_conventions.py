"""Conventions from `kubectl apply` on."""

from __future__ import annotations

from tests.cluster.world import World, wait_for

TABLES = """-- migrate:up
CREATE TABLE app.users (id int PRIMARY KEY, email text, updated_at timestamptz NOT NULL DEFAULT now(),
  version int NOT NULL DEFAULT 1, deleted_at timestamptz);
"""


def test_conventions_hold_and_are_repaired(world: World):
    data = {"20260101000000_tables.sql": TABLES}
    world.api.apply({"kind": "ConfigMap", "metadata": {"name": "migrations"}, "data": data})
    owner = world.role("owner")
    postgres = {
        "schemas": [{"name": "app", "owner": owner}],
        "roles": [{"name": owner}],
        "conventions": {
            "updatedAt": {"tablesIn": ["app"]},
            "version": {"tablesIn": ["app"]},
            "softDelete": {"tablesIn": ["app"]},
        },
    }
    migrations = {"autoApply": True, "role": owner, "source": {"configMaps": [{"name": "migrations"}]}}
    world.schema("shop", postgres=postgres, migrations=migrations)
    world.ready("DatabaseSchema", "shop", 40)

    world.sql("INSERT INTO app.users (id, email, updated_at) VALUES (1, 'a', '2001-01-01'), (2, 'b', '2001-01-01')")
    world.sql("UPDATE app.users SET email = 'c' WHERE id = 1")
    assert world.sql("SELECT version, updated_at > '2002-01-01' FROM app.users ORDER BY id") == [(2, True), (1, False)]
    world.sql("DELETE FROM app.active_users WHERE id = 1")
    assert world.sql("SELECT id FROM app.active_users") == [(2,)]
    assert world.ask("SELECT count(*) FROM app.users") == 2

    world.sql("ALTER TABLE app.users DISABLE TRIGGER selvedge_version; DROP VIEW app.active_users")
    world.now("DatabaseSchema", "shop")
    wait_for(lambda: world.ask("SELECT to_regclass('app.active_users') IS NOT NULL"))
    world.ready("DatabaseSchema", "shop")
    assert world.ask("SELECT tgenabled FROM pg_trigger WHERE tgname = 'selvedge_version'") == "O"
