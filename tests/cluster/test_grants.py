"""Roles, grants and default privileges through the operator: what a user applies, what the database then allows."""

from __future__ import annotations

from typing import Any

from tests.cluster.world import World, verdict

MAKES_A_TABLE = {"20260101000000_t.sql": "-- migrate:up\nCREATE TABLE shared.t (id int);"}


def declared(world: World, *roles: dict[str, Any], **fields: Any) -> dict[str, Any]:
    owner, reader = world.role("owner"), world.role("reader")
    return {
        "owner": owner,
        "roles": [{"name": owner}, {"name": reader}, *roles],
        "schemas": [{"name": "shared"}],
        "defaultPrivileges": [
            {
                "name": "read",
                "creators": [owner],
                "schemas": ["shared"],
                "objectType": "Tables",
                "privileges": ["SELECT"],
                "to": [reader],
            }
        ],
        **fields,
    }


def test_a_migrations_table_is_born_with_its_privileges(world: World):
    world.schema("shop", postgres=declared(world))
    world.ready("DatabaseSchema", "shop")
    spec = {"schemaRef": {"name": "shop"}, "source": {"inline": {"files": MAKES_A_TABLE}}}
    world.api.apply({"kind": "MigrationRun", "metadata": {"name": "first"}, "spec": spec})
    world.ready("MigrationRun", "first")
    allowed = f"SELECT has_table_privilege('{world.role('reader')}', 'shared.t', 'SELECT')"
    assert world.ask(allowed) is True
    world.ready("DatabaseSchema", "shop")
    world.schema("shop", postgres=declared(world, defaultPrivileges=[]))
    world.ready("DatabaseSchema", "shop")
    assert world.ask(allowed) is False, "what left the declaration is revoked from what exists, too"


def test_a_role_is_renamed_and_goes_with_nothing_lost(world: World):
    old, new = world.role("old"), world.role("new")
    world.schema("shop", postgres=declared(world, {"name": old}))
    world.ready("DatabaseSchema", "shop")
    world.sql(f"GRANT CREATE ON SCHEMA shared TO {old}")
    world.sql(f"CREATE TABLE shared.kept AS SELECT 7 AS id; ALTER TABLE shared.kept OWNER TO {old}")
    world.schema("shop", postgres=declared(world, {"name": new, "renamedFrom": old}))
    world.ready("DatabaseSchema", "shop")
    owner = "SELECT tableowner FROM pg_tables WHERE tablename = 'kept'"
    assert world.ask(owner) == new
    world.schema("shop", postgres=declared(world))
    world.ready("DatabaseSchema", "shop")
    assert world.ask(owner) == world.role("owner")
    assert world.ask("SELECT id FROM shared.kept") == 7
    assert world.sql(f"SELECT FROM pg_roles WHERE rolname IN ('{old}', '{new}')") == []


def test_migrations_run_as_no_role_of_another_tenant(bare: World):
    mine, theirs = bare.role("mine"), f"{bare.name}x_theirs"
    bare.server(name="narrow", access=[{"databases": ["*"], "rolePrefixes": [bare.role("")], "extensions": []}])
    bare.sql(f"CREATE ROLE {theirs}", database="postgres")
    source = {"configMaps": [{"name": "none"}]}
    bare.schema(
        "shop",
        server="narrow",
        postgres={"owner": mine, "roles": [{"name": mine}]},
        migrations={"autoApply": False, "role": theirs, "source": source},
    )
    document = bare.until("DatabaseSchema", "shop", "False", "AccessDenied")
    assert verdict(document)[2] == (
        f"role {theirs} names role {theirs}, which the DatabaseServer's access does not give to namespace "
        f"{bare.namespace}: add its prefix to spec.access there"
    )
    spec = {
        "schemaRef": {"name": "shop"},
        "source": {"inline": {"files": {"20260101000000_x.sql": "-- migrate:up\nSELECT 1;"}}},
    }
    bare.api.apply({"kind": "MigrationRun", "metadata": {"name": "first"}, "spec": spec})
    bare.until("MigrationRun", "first", "False", "WaitingForSchema")
