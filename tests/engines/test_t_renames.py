"""Renames of roles and schemas, on a real server: what hangs on the name stays, and what cannot be is named."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox import PostgresEndpoint
from selvedge.engines.base import AccessRule
from tests.engines.postgres_support import converge, engine, member, only, ready, reasons, rows, run, unit

pytestmark = pytest.mark.engines


async def test_a_role_is_renamed_with_all_that_hangs_on_it(postgres: PostgresEndpoint, database_name: str) -> None:
    old, new, other = f"{database_name}_old", f"{database_name}_new", f"{database_name}_other"

    def spec(name: str, **fields: Any) -> dict[str, Any]:
        grants = [
            {"name": "use", "privileges": ["USAGE"], "objects": {"schemas": ["shared"]}, "to": [name]},
            {"name": "read", "privileges": ["SELECT"], "objects": {"tablesIn": ["shared"]}, "to": [name]},
        ]
        roles = [
            {"name": name, "settings": {"work_mem": "8MB"}, **fields},
            {"name": other, "memberOf": [{"role": name}]},
        ]
        return {"schemas": [{"name": "shared", "owner": name}], "roles": roles, "grants": grants}

    oid = "SELECT oid FROM pg_roles WHERE rolname = %s"
    async with engine(postgres) as server:
        await ready(server, member(database_name, spec(old)))
        run(postgres, "CREATE TABLE shared.t (id int)", database_name)
        await ready(server, member(database_name, spec(old)))
        before = rows(postgres, oid, old)
        planned = await server.plan(unit(member(database_name, spec(new, renamedFrom=old))))
        statements = [change.statement for one in planned.members.values() for change in one.pending]
        assert statements == [f'ALTER ROLE "{old}" RENAME TO "{new}"']
        result = await ready(server, member(database_name, spec(new, renamedFrom=old)))
        assert [change.statement for change in result.applied] == statements
        assert rows(postgres, oid, new) == before
        assert (await ready(server, member(database_name, spec(new, renamedFrom=old)))).applied == ()
        assert (await ready(server, member(database_name, spec(new)))).applied == ()
        claims = rows(
            postgres, "SELECT object FROM selvedge.claims WHERE object = ANY (%s)", [f"role:{old}", f"role:{new}"]
        )
        assert claims == [(f"role:{new}",)]
        run(postgres, f"CREATE ROLE {old}")
        assert (await ready(server, member(database_name, spec(new, renamedFrom=old)))).applied == ()


async def test_what_cannot_be_renamed_is_named(postgres: PostgresEndpoint, database_name: str) -> None:
    old, new = f"{database_name}_old", f"{database_name}_new"
    renamed = {"roles": [{"name": new, "renamedFrom": old}]}
    async with engine(postgres) as server:
        await ready(server, member(database_name, {"roles": [{"name": old}]}))
        run(postgres, f"CREATE ROLE {new}")
        result = await only(server, member(database_name, renamed))
        assert set(reasons(result).values()) <= {"Conflict", "AdoptionRequired"}
        assert f"role {new}" in reasons(result)
        found = "SELECT count(*) FROM pg_roles WHERE rolname IN (%s, %s)"
        assert rows(postgres, found, old, new) == [(2,)], "neither is lost"
        run(postgres, f"DROP ROLE {new}")
        run(postgres, f"CREATE ROLE {database_name}_theirs")
        theirs = {"roles": [{"name": f"{database_name}_mine", "renamedFrom": f"{database_name}_theirs"}, {"name": old}]}
        result = await only(server, member(database_name, theirs))
        assert reasons(result) == {f"role {database_name}_mine": "AdoptionRequired"}
        outside = AccessRule(role_prefixes=(old, new))
        run(postgres, f"CREATE ROLE {database_name}_x")
        stolen = {"roles": [{"name": new, "renamedFrom": f"{database_name}_x"}]}
        result = await only(server, member(database_name, stolen, adoption="Allow"), access=lambda _: outside)
        assert reasons(result) == {f"role {new}": "AccessDenied"}


async def test_a_schema_is_renamed_with_its_tables_and_privileges(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    role = f"{database_name}_a"

    def spec(name: str, **fields: Any) -> dict[str, Any]:
        grants = [
            {"name": "use", "privileges": ["USAGE"], "objects": {"schemas": [name]}, "to": [role]},
            {"name": "read", "privileges": ["SELECT"], "objects": {"tablesIn": [name]}, "to": [role]},
            {"name": "run", "privileges": ["EXECUTE"], "objects": {"functions": [f"{name}.f()"]}, "to": [role]},
        ]
        return {"schemas": [{"name": name, "comment": "kept", **fields}], "roles": [{"name": role}], "grants": grants}

    async with engine(postgres) as server:
        await only(server, member(database_name, spec("before")))
        run(postgres, "CREATE TABLE before.t (id int); INSERT INTO before.t VALUES (7)", database_name)
        run(postgres, "CREATE FUNCTION before.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", database_name)
        await ready(server, member(database_name, spec("before")))
        result = await ready(server, member(database_name, spec("after", renamedFrom="before")))
        assert [change.statement for change in result.applied] == ['ALTER SCHEMA "before" RENAME TO "after"']
        assert rows(postgres, "SELECT id FROM after.t", dbname=database_name) == [(7,)]
        assert (await ready(server, member(database_name, spec("after", renamedFrom="before")))).applied == ()
        claims = rows(
            postgres, "SELECT object FROM selvedge.claims WHERE object LIKE 'schema:%%'", dbname=database_name
        )
        assert claims == [("schema:after",)]
        reader = rows(postgres, "SELECT has_table_privilege(%s, 'after.t', 'SELECT')", role, dbname=database_name)
        assert reader == [(True,)]


async def test_two_who_want_to_rename_one_role(postgres: PostgresEndpoint, database_name: str) -> None:
    old = f"{database_name}_old"
    spec = {"roles": [{"name": f"{database_name}_x", "renamedFrom": old}]}
    second = {"roles": [{"name": f"{database_name}_y", "renamedFrom": old}]}
    async with engine(postgres) as server:
        await ready(server, member(database_name, {"roles": [{"name": old}]}, name="old"))
        result = await converge(
            server,
            member(database_name, spec, name="old"),
            member(database_name, second, name="new", created="2026-02-01T00:00:00Z"),
        )
        told = {name: reasons(found) for name, found in result.members.items()}
        assert sorted(map(str, told.values())) == ["{'role " + database_name + "_y': 'Conflict'}", "{}"]
