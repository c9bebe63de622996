"""The audit from `kubectl apply` on: rows that say who changed what, and triggers that come back."""

from __future__ import annotations

from contextlib import closing

import psycopg
import pytest

from tests.cluster.world import World, wait_for

TABLES = """-- migrate:up
CREATE TABLE app.users (id int PRIMARY KEY, email text, password_hash text);
"""
LOG = "SELECT operation, user_id, session_role, new_values FROM audit.database_operations ORDER BY executed_at"


def test_changes_are_written_down_and_nobody_rewrites_them(world: World):
    data = {"20260101000000_tables.sql": TABLES}
    world.api.apply({"kind": "ConfigMap", "metadata": {"name": "migrations"}, "data": data})
    owner, app, login = world.role("owner"), world.role("app"), world.role("login")
    postgres = {
        "schemas": [{"name": "app", "owner": owner}],
        "roles": [{"name": owner}, {"name": app}],
        "grants": [
            {"name": "use", "privileges": ["USAGE"], "objects": {"schemas": ["app"]}, "to": [app]},
            {
                "name": "write",
                "privileges": ["SELECT", "INSERT", "UPDATE"],
                "objects": {"tablesIn": ["app"]},
                "to": [app],
            },
        ],
        "audit": {
            "schema": "audit",
            "actorSetting": "app.current_user_id",
            "retention": "365d",
            "tables": [{"table": "app.users", "exclude": ["password_hash"]}],
            "applicationLog": True,
        },
    }
    migrations = {"autoApply": True, "role": owner, "source": {"configMaps": [{"name": "migrations"}]}}
    world.schema("shop", postgres=postgres, migrations=migrations)
    world.ready("DatabaseSchema", "shop", 40)

    world.sql(f"CREATE ROLE {login} LOGIN PASSWORD 'x' IN ROLE {app}")
    with closing(
        psycopg.connect(world.endpoint.conninfo(world.name, user=login, password="x"), autocommit=True)
    ) as one:
        one.execute("SET app.current_user_id = 'anna'")
        one.execute("INSERT INTO app.users VALUES (1, 'a@b', 'secret')")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            one.execute("DELETE FROM audit.database_operations")
    assert world.sql(LOG) == [("INSERT", "anna", login, {"id": 1, "email": "a@b"})]

    world.sql("DROP TRIGGER selvedge_audit_update ON app.users")
    world.now("DatabaseSchema", "shop")
    there = "SELECT count(*) FROM pg_trigger WHERE tgname = 'selvedge_audit_update' AND tgenabled = 'A'"
    wait_for(lambda: world.ask(there) == 1)
    world.ready("DatabaseSchema", "shop")
    assert world.operator.value("selvedge_drift_repaired_total", kind="audit") >= 1
