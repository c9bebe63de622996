"""Who owns what on a server: claims, adoption, conflicts, and names that nobody may declare."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from psycopg import sql

from sandbox import PostgresEndpoint
from selvedge.engines.base import AccessRule
from tests.engines.postgres_support import converge, engine, member, only, ready, reasons, rows, run, unit

pytestmark = pytest.mark.engines


@pytest.fixture
def second(postgres: PostgresEndpoint) -> Iterator[str]:
    """The name of one more database."""
    name = f"db_{uuid.uuid4().hex[:12]}"
    yield name
    with postgres.connect() as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def tables(postgres: PostgresEndpoint, database: str) -> list[tuple[Any, ...]]:
    return rows(postgres, "SELECT FROM pg_namespace WHERE nspname IN ('selvedge', 'shared')", dbname=database)


async def test_a_database_that_was_there_is_not_touched(postgres: PostgresEndpoint, database: str) -> None:
    spec = {"schemas": [{"name": "shared"}], "settings": {"work_mem": "8MB"}}
    async with engine(postgres) as server:
        for adoption in ("RequireApproval", "Refuse"):
            result = await only(server, member(database, spec, adoption=adoption))
            assert reasons(result) == {f"database {database}": "AdoptionRequired"}
            assert "spec.adoption" in result.problems[0].message
            assert not result.provisioned
            assert tables(postgres, database) == []
        result = await ready(server, member(database, spec, adoption="Allow"))
        assert {str(change.ref) for change in result.applied} == {f"database {database}", "schema shared"}
        assert (await ready(server, member(database, spec))).applied == (), "it is ours from now on"


async def test_a_role_that_was_there_is_not_touched(postgres: PostgresEndpoint, database_name: str) -> None:
    role = f"{database_name}_old"
    run(postgres, f"CREATE ROLE {role}")
    spec = {"roles": [{"name": role, "comment": "ours"}], "schemas": [{"name": "shared"}]}
    comment = "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = %s"
    async with engine(postgres) as server:
        result = await only(server, member(database_name, spec))
        assert reasons(result) == {f"role {role}": "AdoptionRequired"}
        assert rows(postgres, comment, role) == [(None,)]
        assert len(tables(postgres, database_name)) == 2, "the rest goes on"
        await ready(server, member(database_name, spec, adoption="Allow"))
        assert rows(postgres, comment, role) == [("ours",)]


async def test_a_role_is_claimed_once_on_a_server(postgres: PostgresEndpoint, database_name: str, second: str) -> None:
    role = f"{database_name}_app"
    a = member(database_name, {"roles": [{"name": role, "comment": "a"}]}, name="a")
    b = member(second, {"roles": [{"name": role, "comment": "b"}]}, name="b", adoption="Allow")
    async with engine(postgres) as server, engine(postgres) as other:
        await ready(server, a)
        for one in (server, other):
            result = await only(one, b)
            assert reasons(result) == {f"role {role}": "Conflict"}
            assert "shop/a" in result.problems[0].message
        gone = await only(server, b, alive=lambda resource: resource != "shop/a")
        assert gone.verified, "the claim of a resource that is gone binds nobody"
        again = await only(server, a)
        assert reasons(again) == {f"role {role}": "Conflict"}


async def test_what_another_cluster_claims_is_not_touched(postgres: PostgresEndpoint, database_name: str) -> None:
    one = member(database_name, {"schemas": [{"name": "shared"}]}, adoption="Allow")
    async with engine(postgres) as server, engine(postgres) as other:
        await ready(server, one)
        result = await only(other, one, cluster="other-cluster", alive=lambda _: False)
        assert reasons(result) == {f"database {database_name}": "Conflict"}
        assert "another cluster" in result.problems[0].message
        assert "gone for good" in result.problems[0].message
        assert result.applied == ()
        delete = "DELETE FROM selvedge.claims WHERE object LIKE %s || '%%' AND cluster <> 'other-cluster'"
        for database, key in (("postgres", f"database:{database_name}"), (database_name, "")):
            with postgres.connect(database) as connection:
                connection.execute(delete, [key])
        result = await only(other, one, cluster="other-cluster", alive=lambda _: False)
        assert result.verified, reasons(result)


async def test_the_maintenance_database_can_be_declared(postgres: PostgresEndpoint, database_name: str) -> None:
    """Its claims stand in the same table as those of the whole server."""
    run(postgres, f"CREATE DATABASE {database_name}")
    role = f"{database_name}_app"
    one = member(
        database_name,
        {
            "schemas": [{"name": "shared"}],
            "roles": [{"name": role}],
            "grants": [{"name": "g", "privileges": ["USAGE"], "objects": {"schemas": ["shared"]}, "to": [role]}],
        },
        adoption="Allow",
    )
    async with engine(postgres, maintenance_database=database_name) as server:
        await ready(server, one)
        assert (await ready(server, one)).applied == ()
        claims = rows(postgres, "SELECT object FROM selvedge.claims ORDER BY 1", dbname=database_name)
        assert (f"role:{role}",) in claims
        await ready(server, member(database_name, {"schemas": [{"name": "shared"}]}))
    assert rows(postgres, "SELECT FROM pg_roles WHERE rolname = %s", role) == []


async def test_two_processes_that_want_one_database_make_it_once(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    a = member(database_name, {"schemas": [{"name": "shared"}]}, name="a")
    b = member(database_name, {"schemas": [{"name": "shared"}]}, name="b")
    async with engine(postgres) as first, engine(postgres) as second:
        results = await asyncio.gather(only(first, a), only(second, b))
    assert sorted(result.verified for result in results) == [False, True]
    loser = next(result for result in results if not result.verified)
    assert reasons(loser) == {f"database {database_name}": "Conflict"}


async def test_a_role_moves_from_one_member_of_a_database_to_the_other(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    role = f"{database_name}_app"
    with_it, without = {"roles": [{"name": role, "comment": "x"}]}, {"schemas": [{"name": "shared"}]}
    later = {"name": "new", "created": "2026-02-01T00:00:00Z"}
    async with engine(postgres) as server:
        await converge(server, member(database_name, with_it, name="old"), member(database_name, {}, **later))
        result = await converge(
            server, member(database_name, without, name="old"), member(database_name, with_it, **later)
        )
        assert all(one.verified for one in result.members.values())
        claim = rows(postgres, "SELECT resource FROM selvedge.claims WHERE object = %s", f"role:{role}")
        assert claim == [("shop/new",)]


async def test_what_the_access_refuses_by_now_is_left_as_it_is(postgres: PostgresEndpoint, database_name: str) -> None:
    role = f"{database_name}_app"
    spec = {
        "schemas": [{"name": "shared"}],
        "roles": [{"name": role}],
        "grants": [{"name": "u", "privileges": ["USAGE"], "objects": {"schemas": ["shared"]}, "to": [role]}],
    }
    one = member(database_name, spec)
    async with engine(postgres) as server:
        await ready(server, one)
        for rule in (AccessRule(role_prefixes=("other_",)), AccessRule(databases=("other",))):
            result = await only(server, one, access=lambda _, rule=rule: rule)
            assert not result.verified
            assert result.applied == ()
    query = "SELECT has_schema_privilege(%s, 'shared', 'USAGE')"
    assert rows(postgres, query, role, dbname=database_name) == [(True,)]


FORBIDDEN = {
    "schema pg_catalog": {"schemas": [{"name": "pg_catalog"}]},
    "schema information_schema": {"schemas": [{"name": "information_schema"}]},
    "schema selvedge": {"schemas": [{"name": "selvedge"}]},
    "grant claims": {
        "grants": [
            {"name": "claims", "privileges": ["SELECT"], "objects": {"tablesIn": ["selvedge"]}, "to": ["PUBLIC"]}
        ]
    },
    "grant files": {
        "grants": [
            {
                "name": "files",
                "privileges": ["EXECUTE"],
                "objects": {"functions": ["pg_catalog.pg_read_file(text)"]},
                "to": ["PUBLIC"],
            }
        ]
    },
    "grant secrets": {
        "grants": [
            {
                "name": "secrets",
                "privileges": ["SELECT"],
                "objects": {"tables": ["pg_catalog.pg_authid"]},
                "to": ["PUBLIC"],
            }
        ]
    },
    "grant member": {
        "grants": [{"name": "member", "privileges": ["CONNECT"], "objects": {"database": True}, "to": ["pg_monitor"]}]
    },
    "role {p}_a": {"roles": [{"name": "{p}_a", "memberOf": [{"role": "pg_read_all_data"}]}]},
    "role {p}_b": {"roles": [{"name": "{p}_b", "memberOf": [{"role": "postgres"}]}]},
    "role {p}_c": {"roles": [{"name": "{p}_c", "memberOf": [{"role": "{p}_indirect"}]}]},
    "role postgres": {"roles": [{"name": "postgres"}]},
}


@pytest.mark.parametrize("ref", FORBIDDEN)
async def test_what_nobody_may_declare_is_refused(postgres: PostgresEndpoint, database_name: str, ref: str) -> None:
    run(postgres, f"CREATE ROLE {database_name}_indirect; GRANT postgres TO {database_name}_indirect")
    spec = _named(FORBIDDEN[ref], database_name)
    acl = "SELECT relname, relacl::text FROM pg_class WHERE relname IN ('pg_authid', 'claims') ORDER BY 1"
    async with engine(postgres) as server:
        await ready(server, member(database_name, {"schemas": [{"name": "shared"}]}))
        before = rows(postgres, acl, dbname=database_name)
        result = await only(server, member(database_name, spec, adoption="Allow"))
        assert reasons(result) == {ref.format(p=database_name): "ForbiddenName"}
        assert rows(postgres, acl, dbname=database_name) == before
    query = "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s) AND pg_has_role(oid, 'postgres', 'MEMBER')"
    assert rows(postgres, query, database_name) == [(f"{database_name}_indirect",)]


def _named(spec: Any, prefix: str) -> Any:
    if isinstance(spec, dict):
        return {key: _named(value, prefix) for key, value in spec.items()}
    if isinstance(spec, list):
        return [_named(value, prefix) for value in spec]
    return spec.replace("{p}", prefix) if isinstance(spec, str) else spec


async def test_access_bounds_databases_roles_owners_and_extensions(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    spec = {
        "owner": "postgres",
        "roles": [{"name": f"{database_name}_app"}, {"name": "other_app"}],
        "schemas": [{"name": "shared", "owner": "postgres"}],
        "extensions": [{"name": "pgcrypto"}, {"name": "dblink"}],
    }
    rule = AccessRule((f"{database_name}",), (f"{database_name}_",), ("pgcrypto",))
    one = member(database_name, spec)
    async with engine(postgres) as server:
        result = await only(server, one, access=lambda _: rule)
        assert reasons(result) == dict.fromkeys(
            (f"database {database_name}", "role other_app", "schema shared", "extension dblink"), "AccessDenied"
        )
        closed = await only(server, one, access=lambda _: AccessRule(("elsewhere_*",)))
        assert reasons(closed) == {f"database {database_name}": "AccessDenied"}
        assert closed.applied == ()


async def test_default_privileges_do_not_open_the_claims(postgres: PostgresEndpoint, database: str) -> None:
    """Who may use the schema to read the migrations' history could rewrite them."""
    role = f"{database}_app"
    run(postgres, f"CREATE ROLE {role}; ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {role}, PUBLIC", database)
    async with engine(postgres) as server:
        await ready(server, member(database, {"schemas": [{"name": "shared"}]}, adoption="Allow"))
    grantees = """SELECT DISTINCT a.grantee::regrole::text FROM pg_class c, aclexplode(c.relacl) a
                  WHERE c.oid = 'selvedge.claims'::regclass"""
    assert rows(postgres, grantees, dbname=database) == [(postgres.username,)]
    run(postgres, f"DROP OWNED BY {role}; DROP ROLE {role}", database)


async def test_settings_of_a_database_do_not_change_what_the_operator_does(
    postgres: PostgresEndpoint, database: str
) -> None:
    role = f"{database}_app"
    hostile = {
        "search_path": "hostile",
        "role": "pg_monitor",
        "default_transaction_read_only": "on",
        "lock_timeout": "1ms",
        "statement_timeout": "1ms",
        "idle_session_timeout": "1ms",
        "DateStyle": "German",
        "standard_conforming_strings": "off",
        "quote_all_identifiers": "on",
        "default_transaction_isolation": "serializable",
    }
    if int(postgres.version) >= 17:
        hostile["transaction_timeout"] = "1ms"
    for name, value in hostile.items():
        run(postgres, f"ALTER DATABASE {database} SET \"{name}\" TO '{value}'")
    one = member(
        database,
        {
            "schemas": [{"name": "shared", "comment": "back\\slash"}],
            "roles": [{"name": role}],
            "grants": [{"name": "u", "privileges": ["USAGE"], "objects": {"schemas": ["shared"]}, "to": [role]}],
        },
        adoption="Allow",
    )
    async with engine(postgres) as server:
        await ready(server, one)
        await asyncio.sleep(0.01)  # longer than the database's own timeouts for idle sessions
        assert (await ready(server, one)).applied == ()
    query = "SELECT obj_description(oid), pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'shared'"
    run(postgres, f"ALTER DATABASE {database} RESET ALL")
    assert rows(postgres, query, dbname=database) == [("back\\slash", "postgres")]


NAMES = ["ünïcødé", "with space", "per%cent", "semi;colon", "quo'te", "$dollar$", "back\\slash", "a" * 63, "ü" * 31]


@pytest.mark.parametrize("name", NAMES)
async def test_any_name_that_postgres_can_hold(postgres: PostgresEndpoint, name: str) -> None:
    spec = {
        "owner": name,
        "settings": {"search_path": [name, "public"], "app.note": name},
        "schemas": [{"name": name, "comment": name}],
        "roles": [
            {"name": name, "comment": name, "settings": {"application_name": name}},
            {"name": name[:29] + "_2", "memberOf": [{"role": name}]},
        ],
        "grants": [
            {"name": "u", "privileges": ["USAGE"], "objects": {"schemas": [name]}, "to": [name[:29] + "_2"]},
            {
                "name": "t",
                "privileges": ["SELECT"],
                "objects": {"tables": [f"{name}.{name}"]},
                "to": [name[:29] + "_2"],
            },
            {
                "name": "c",
                "privileges": ["UPDATE"],
                "objects": {"columns": [{"table": f"{name}.{name}", "columns": [name]}]},
                "to": [name[:29] + "_2"],
            },
            {
                "name": "f",
                "privileges": ["EXECUTE"],
                "objects": {"functions": [f"{name}.{name}(text, numeric)"]},
                "to": [name[:29] + "_2"],
            },
        ],
    }
    one = member(name, spec, deletionPolicy="Delete")
    async with engine(postgres) as server:
        try:
            assert set(reasons(await only(server, one))) == {"grant t", "grant c", "grant f"}
            with postgres.connect(name) as connection:
                i = sql.Identifier(name)
                connection.execute(sql.SQL("CREATE TABLE {0}.{0} ({0} int)").format(i))
                body = sql.SQL("CREATE FUNCTION {0}.{0}(text, numeric) RETURNS int LANGUAGE sql AS 'SELECT 1'")
                connection.execute(body.format(i))
            await ready(server, one)
            assert (await ready(server, one)).applied == ()
        finally:
            await server.remove(unit(member(name, spec, deletionPolicy="Delete", deleting=True)), lambda: None)
    assert rows(postgres, "SELECT FROM pg_roles WHERE starts_with(rolname, %s)", name[:29]) == []
    assert rows(postgres, "SELECT FROM pg_database WHERE datname = %s", name) == []
