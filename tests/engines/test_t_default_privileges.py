"""Default privileges end to end (T8): whose new objects, in which schemas, what exists already, and who is left out."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox import PostgresEndpoint
from tests.engines.postgres_support import engine, member, only, ready, reasons, rows, run

pytestmark = pytest.mark.engines


def default(to: str, privileges: list[str], *creators: str, **fields: Any) -> dict[str, Any]:
    known = {"name": "read", "objectType": "Tables", "creators": list(creators), "privileges": privileges, "to": [to]}
    return {**known, **fields}


def may(postgres: PostgresEndpoint, database: str, role: str, name: str, privilege: str, what: str = "table") -> bool:
    query = f"SELECT has_{what}_privilege(%s, %s, %s)"
    return bool(rows(postgres, query, role, name, privilege, dbname=database)[0][0])


def spec(owner: str, reader: str, *defaults: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "owner": owner,
        "roles": [{"name": owner}, {"name": reader}],
        "schemas": [{"name": "shared"}, {"name": "other"}],
        "defaultPrivileges": list(defaults),
        **fields,
    }


async def test_t8_new_objects_of_a_creator_and_those_that_exist(postgres: PostgresEndpoint, database_name: str) -> None:
    owner, reader = f"{database_name}_owner", f"{database_name}_reader"
    read = default(reader, ["SELECT"], owner, schemas=["shared"])
    async with engine(postgres) as server:
        await ready(server, member(database_name, spec(owner, reader)))
        run(
            postgres,
            f"SET ROLE {owner}; CREATE TABLE shared.old (id int); CREATE TABLE other.old (id int)",
            database_name,
        )
        run(postgres, "CREATE TABLE shared.theirs (id int)", database_name)
        one = member(database_name, spec(owner, reader, read))
        await ready(server, one)
        assert (await ready(server, one)).applied == ()
        run(
            postgres,
            f"SET ROLE {owner}; CREATE TABLE shared.new (id int); CREATE TABLE other.new (id int)",
            database_name,
        )
        again = await ready(server, member(database_name, spec(owner, reader, read), verified=True))
        assert (again.applied, again.drift) == ((), ()), "a table of a declared creator is born right"
        names = ("shared.old", "shared.new", "shared.theirs", "other.old", "other.new")
        found = [may(postgres, database_name, reader, name, "SELECT") for name in names]
        assert found == [True, True, False, False, False]
        run(postgres, f"REVOKE SELECT ON shared.new FROM {reader}", database_name)
        drifted = await ready(server, member(database_name, spec(owner, reader, read), verified=True))
        assert [str(ref) for ref in drifted.drift] == ["defaultPrivilege read"]
        gone = member(database_name, spec(owner, reader))
        await ready(server, gone)
        assert not any(may(postgres, database_name, reader, name, "SELECT") for name in names)
        assert rows(postgres, "SELECT FROM pg_default_acl", dbname=database_name) == []
        assert (await ready(server, gone)).applied == ()


async def test_t8_the_global_form_reaches_every_schema(postgres: PostgresEndpoint, database_name: str) -> None:
    owner, reader = f"{database_name}_owner", f"{database_name}_reader"
    closed = default("PUBLIC", ["EXECUTE"], owner, name="closed", objectType="Functions", ensure="Absent")
    usage = default(reader, ["USAGE"], owner, name="usage", objectType="Schemas")
    one = member(database_name, spec(owner, reader, closed, usage))
    async with engine(postgres) as server:
        await ready(server, member(database_name, spec(owner, reader)))
        make = "CREATE FUNCTION {}() RETURNS int LANGUAGE sql AS 'SELECT 1'"
        run(postgres, f"SET ROLE {owner}; {make.format('shared.old')}", database_name)
        await ready(server, one)
        assert (await ready(server, one)).applied == ()
        run(
            postgres,
            f"SET ROLE {owner}; {make.format('other.new')}; CREATE SCHEMA late; {make.format('late.f')}",
            database_name,
        )
        names = ("shared.old()", "other.new()", "late.f()")
        assert [may(postgres, database_name, reader, name, "EXECUTE", "function") for name in names] == [False] * 3
        for schema in ("shared", "other", "late"):
            assert may(postgres, database_name, reader, schema, "USAGE", "schema"), schema


async def test_t8_a_schema_cannot_take_away_what_is_given_globally(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    owner, reader = f"{database_name}_owner", f"{database_name}_reader"
    closed = default("PUBLIC", ["EXECUTE"], owner, objectType="Functions", ensure="Absent", schemas=["shared"])
    async with engine(postgres) as server:
        result = await only(server, member(database_name, spec(owner, reader, closed)))
        assert reasons(result) == {"defaultPrivilege read": "InvalidSpec"}
        assert "leave schemas out" in result.problems[0].message


async def test_t8_creators_outside_of_the_list_are_advice(postgres: PostgresEndpoint, database_name: str) -> None:
    owner, reader, login = f"{database_name}_owner", f"{database_name}_reader", f"{database_name}_login"
    read = default(reader, ["SELECT"], owner, schemas=["shared"])
    async with engine(postgres) as server:
        quiet = await ready(server, member(database_name, spec(owner, reader, read)))
        assert quiet.advice == ()
        run(postgres, f"CREATE ROLE {login} LOGIN; GRANT {owner} TO {login}")
        told = await ready(server, member(database_name, spec(owner, reader, read)))
        assert len(told.advice) == 1
        assert f"login {login} may create tables in schema shared" in told.advice[0]
        run(postgres, f"ALTER ROLE {login} SET role = {owner}")
        assert (await ready(server, member(database_name, spec(owner, reader, read)))).advice == ()


async def test_defaults_wait_for_their_roles_and_schemas(postgres: PostgresEndpoint, database_name: str) -> None:
    owner, reader, late = f"{database_name}_owner", f"{database_name}_reader", f"{database_name}_late"
    read = default(reader, ["SELECT"], owner, late, schemas=["shared", "nowhere"])
    async with engine(postgres) as server:
        result = await only(server, member(database_name, spec(owner, reader, read)))
        assert set(reasons(result)) == {"defaultPrivilege read"}
        assert result.provisioned
        run(postgres, f"CREATE ROLE {late}")
        run(postgres, "CREATE SCHEMA nowhere", database_name)
        await ready(server, member(database_name, spec(owner, reader, read)))


async def test_entries_of_two_members_and_changed_ones(postgres: PostgresEndpoint, database_name: str) -> None:
    owner, reader = f"{database_name}_owner", f"{database_name}_reader"
    wide = default(reader, ["SELECT", "INSERT"], owner, schemas=["shared", "other"], grantOption=True)
    narrow = default(reader, ["SELECT"], owner, schemas=["shared"])
    async with engine(postgres) as server:
        await ready(server, member(database_name, spec(owner, reader, wide)))
        run(postgres, f"SET ROLE {owner}; CREATE TABLE shared.t (id int); CREATE TABLE other.t (id int)", database_name)
        await ready(server, member(database_name, spec(owner, reader, narrow)))
        asked = (
            ("shared.t", "SELECT"),
            ("shared.t", "SELECT WITH GRANT OPTION"),
            ("shared.t", "INSERT"),
            ("other.t", "SELECT"),
        )
        assert [may(postgres, database_name, reader, *one) for one in asked] == [True, False, False, False]
        run(postgres, f"SET ROLE {owner}; CREATE TABLE shared.u (id int)", database_name)
        assert may(postgres, database_name, reader, "shared.u", "SELECT")
        assert not may(postgres, database_name, reader, "shared.u", "INSERT")
