"""The traps of roles and memberships, by their number in the project's list of facts, end to end on a real server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from sandbox import PostgresEndpoint
from selvedge.core.errors import RefusedError
from selvedge.engines.base import AccessRule
from tests.engines.postgres_support import ended, engine, lead, member, only, ready, reasons, rows, run, unit

pytestmark = pytest.mark.engines


@pytest.fixture
def elsewhere(postgres: PostgresEndpoint) -> Iterator[list[str]]:
    """Two more databases."""
    names = [f"db_{uuid.uuid4().hex[:12]}" for _ in range(2)]
    for name in names:
        run(postgres, f"CREATE DATABASE {name}")
    yield names
    for name in names:
        with postgres.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def login(postgres: PostgresEndpoint, name: str, dbname: str = "postgres") -> psycopg.Connection[Any]:
    run(postgres, f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
    return psycopg.connect(postgres.conninfo(dbname, user=name, password="x"), autocommit=True)


def version(postgres: PostgresEndpoint) -> int:
    return int(rows(postgres, "SELECT current_setting('server_version_num')::int")[0][0])


async def test_t9_the_admin_option_is_taken_back(postgres: PostgresEndpoint, database_name: str) -> None:
    a, b = f"{database_name}_a", f"{database_name}_b"
    admin = {"roles": [{"name": a}, {"name": b, "memberOf": [{"role": a, "admin": True}]}]}
    plain = {"roles": [{"name": a}, {"name": b, "memberOf": [{"role": a}]}]}
    query = "SELECT admin_option FROM pg_auth_members WHERE roleid = %s::regrole AND member = %s::regrole"
    async with engine(postgres) as server:
        await ready(server, member(database_name, admin))
        assert rows(postgres, query, a, b) == [(True,)]
        await ready(server, member(database_name, plain))
        assert rows(postgres, query, a, b) == [(False,)]
        run(postgres, f"GRANT {a} TO {b} WITH ADMIN OPTION")
        again = await ready(server, member(database_name, plain, verified=True))
        assert [str(ref) for ref in again.drift] == [f"role {b}"]
        assert rows(postgres, query, a, b) == [(False,)]


async def test_t16_a_role_with_objects_in_three_databases(
    postgres: PostgresEndpoint, database_name: str, elsewhere: list[str]
) -> None:
    owner, old, reader = f"{database_name}_owner", f"{database_name}_old", f"{database_name}_reader"
    two, three = elsewhere
    spec = {"owner": owner, "schemas": [{"name": "shared"}], "roles": [{"name": owner}, {"name": reader}]}
    grants = [
        {"name": "use", "privileges": ["USAGE", "CREATE"], "objects": {"schemas": ["shared"]}, "to": [old]},
        {"name": "read", "privileges": ["SELECT"], "objects": {"tablesIn": ["shared"]}, "to": [old]},
    ]
    async with engine(postgres) as server:
        await ready(server, member(database_name, {**spec, "roles": [*spec["roles"], {"name": old}], "grants": grants}))
        run(
            postgres,
            f"SET ROLE {old}; CREATE TABLE shared.t (id int); INSERT INTO shared.t VALUES (7); RESET ROLE; "
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {old} GRANT SELECT ON TABLES TO {reader}",
            database_name,
        )
        run(
            postgres,
            f"CREATE TABLE u (id int); CREATE POLICY p ON u TO {old} USING (true); GRANT SELECT ON u TO {old}",
            two,
        )
        run(postgres, f"ALTER DATABASE {three} OWNER TO {old}; GRANT CONNECT ON DATABASE {two} TO {old}")
        run(postgres, f"CREATE SCHEMA s AUTHORIZATION {old}", three)
        result = await ready(server, member(database_name, spec))
        assert any("REASSIGN OWNED" in change.statement for change in result.applied)
        assert rows(postgres, "SELECT FROM pg_roles WHERE rolname = %s", old) == []
        found = rows(
            postgres, "SELECT id, tableowner FROM shared.t, pg_tables WHERE tablename = 't'", dbname=database_name
        )
        assert found == [(7, owner)]
        assert (await ready(server, member(database_name, spec))).applied == ()
        run(postgres, f"SET ROLE {owner}; CREATE TABLE shared.later (id int)", database_name)
        query = "SELECT has_table_privilege(%s, 'shared.later', 'SELECT')"
        assert rows(postgres, query, reader, dbname=database_name) == [(False,)], "the role had no say in that"
        found = rows(postgres, "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 's'", dbname=three)
        assert found == [(f"{old}_retired",)], "that database has a superuser for its owner by now"


async def test_t16_what_stands_in_somebody_elses_database_is_named(
    postgres: PostgresEndpoint, database_name: str, elsewhere: list[str]
) -> None:
    old = f"{database_name}_old"
    mine, other = AccessRule(databases=(database_name,)), elsewhere[0]
    async with engine(postgres) as server:
        await ready(server, member(database_name, {"roles": [{"name": old}]}), access=lambda _: mine)
        run(postgres, f"GRANT CREATE ON SCHEMA public TO {old}", other)
        result = await only(server, member(database_name), access=lambda _: mine)
        assert reasons(result) == {f"role {old}": "AccessDenied"}
        assert other in result.problems[0].message
        assert rows(postgres, "SELECT FROM pg_roles WHERE rolname = %s", old) == [()]
        run(postgres, f"REVOKE CREATE ON SCHEMA public FROM {old}", other)
        await ready(server, member(database_name), access=lambda _: mine)
        assert rows(postgres, "SELECT FROM pg_roles WHERE rolname = %s", old) == []


async def test_t17_a_restrictive_policy_of_that_role_alone_keeps_it(
    postgres: PostgresEndpoint, database_name: str, elsewhere: list[str]
) -> None:
    """DROP OWNED would delete the policy, and everybody else would see more."""
    old = f"{database_name}_old"
    async with engine(postgres) as server:
        await ready(server, member(database_name, {"roles": [{"name": old}]}))
        for database in (database_name, elsewhere[0]):
            run(
                postgres,
                f"CREATE TABLE public.t (id int); CREATE POLICY alone ON t AS RESTRICTIVE TO {old} USING (id > 1)",
                database,
            )
        for database in (database_name, elsewhere[0]):
            result = await only(server, member(database_name))
            assert reasons(result) == {f"role {old}": "DestructiveRefused"}
            assert "public.t.alone" in result.problems[0].message
            assert database in result.problems[0].message
            run(postgres, "DROP POLICY alone ON t", database)
        await ready(server, member(database_name))
        assert rows(postgres, "SELECT FROM pg_roles WHERE rolname = %s", old) == []


async def test_t18_sessions_that_would_keep_a_role_are_ended(postgres: PostgresEndpoint, database_name: str) -> None:
    """A session keeps a role that it became, after REVOKE and after DROP ROLE."""
    a, b, person, other = (f"{database_name}_{name}" for name in ("a", "b", "person", "other"))
    both = {"roles": [{"name": a}, {"name": b, "memberOf": [{"role": a}]}]}
    revoked = {"roles": [{"name": a}, {"name": b}]}
    async with engine(postgres) as server:
        await ready(server, member(database_name, both))
        with login(postgres, person) as connection, login(postgres, other) as bystander:
            run(postgres, f"GRANT {b} TO {person}; GRANT {a} TO {other}")
            connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(a)))
            bystander.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(a)))
            await ready(server, member(database_name, revoked))
            assert ended(connection)
            bystander.execute("SELECT 1")
        with psycopg.connect(postgres.conninfo("postgres", user=person, password="x"), autocommit=True) as connection:
            connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(b)))
            run(postgres, f"REVOKE {b} FROM {person}; GRANT {b} TO {person}")
            await ready(server, member(database_name, {"roles": [{"name": a}]}))
            assert ended(connection)


async def test_t18_a_group_that_was_made_a_login_is_closed(postgres: PostgresEndpoint, database_name: str) -> None:
    role = f"{database_name}_a"
    spec = {"roles": [{"name": role}]}
    async with engine(postgres) as server:
        await ready(server, member(database_name, spec))
        run(postgres, f"ALTER ROLE {role} LOGIN PASSWORD 'x'")
        with psycopg.connect(postgres.conninfo("postgres", user=role, password="x"), autocommit=True) as connection:
            again = await ready(server, member(database_name, spec, verified=True))
            assert [str(ref) for ref in again.drift] == [f"role {role}"]
            assert ended(connection)
        assert rows(postgres, "SELECT rolcanlogin FROM pg_roles WHERE rolname = %s", role) == [(False,)]


async def test_t19_only_attributes_that_differ_are_altered(postgres: PostgresEndpoint, database_name: str) -> None:
    role = f"{database_name}_a"
    spec = {
        "roles": [{"name": role, "connectionLimit": 7, "inherit": False, "validUntil": "2031-02-03T04:05:06+01:00"}]
    }
    one = member(database_name, spec)
    until = "rolvaliduntil AT TIME ZONE 'UTC' = '2031-02-03 03:05:06'"
    query = f"SELECT rolconnlimit, rolinherit, {until} FROM pg_roles WHERE rolname = %s"
    async with engine(postgres) as server:
        await ready(server, one)
        assert rows(postgres, query, role) == [(7, False, True)]
        assert (await ready(server, one)).applied == ()
        run(postgres, f"ALTER ROLE {role} CONNECTION LIMIT 9 CREATEROLE BYPASSRLS CREATEDB")
        again = await ready(server, member(database_name, spec, verified=True))
        words = " ".join(change.statement for change in again.applied)
        for word in ("CONNECTION LIMIT 7", "NOCREATEROLE", "NOBYPASSRLS", "NOCREATEDB"):
            assert word in words
        for word in ("INHERIT", "VALID UNTIL", "SUPERUSER", "REPLICATION", "LOGIN"):
            assert word not in words
        await ready(server, member(database_name, {"roles": [{"name": role}]}))
        assert rows(postgres, query, role)[0][:2] == (-1, True), "what left the declaration goes back"
        until = "SELECT rolvaliduntil::text FROM pg_roles WHERE rolname = %s"
        assert rows(postgres, until, role) == [("infinity",)]


async def test_an_adopted_login_stays_one(postgres: PostgresEndpoint, database_name: str) -> None:
    role = f"{database_name}_a"
    with login(postgres, role) as connection:
        async with engine(postgres) as server:
            await ready(server, member(database_name, {"roles": [{"name": role}]}, adoption="Allow"))
            connection.execute("SELECT 1")
            run(postgres, f"ALTER ROLE {role} SUPERUSER")
            await ready(server, member(database_name, {"roles": [{"name": role}]}))
    query = "SELECT rolcanlogin, rolsuper FROM pg_roles WHERE rolname = %s"
    assert rows(postgres, query, role) == [(True, False)]


async def test_t20_two_grantors_of_one_membership(postgres: PostgresEndpoint, database_name: str) -> None:
    """From 16 on a membership has a row for each grantor, and a REVOKE takes one of them."""
    a, b, third = (f"{database_name}_{name}" for name in ("a", "b", "third"))
    both = {"roles": [{"name": a}, {"name": b, "memberOf": [{"role": a}]}]}
    async with engine(postgres) as server:
        await ready(server, member(database_name, both))
        run(
            postgres, f"CREATE ROLE {third}; GRANT {a} TO {third} WITH ADMIN OPTION; SET ROLE {third}; GRANT {a} TO {b}"
        )
        assert (await ready(server, member(database_name, both))).applied == ()
        await ready(server, member(database_name, {"roles": [{"name": a}, {"name": b}]}))
        query = "SELECT count(*) FROM pg_auth_members WHERE roleid = %s::regrole AND member = %s::regrole"
        assert rows(postgres, query, a, b) == [(0,)]
        assert rows(postgres, query, a, third) == [(1,)], "who is a member of ours is not ours to say"


async def test_t20_the_options_of_a_membership_are_spelled_out(postgres: PostgresEndpoint, database_name: str) -> None:
    if version(postgres) < 160000:
        pytest.skip("inherit and set of a membership exist from Postgres 16 on")
    a, b, third = (f"{database_name}_{name}" for name in ("a", "b", "third"))
    spec = {"roles": [{"name": a}, {"name": b, "memberOf": [{"role": a, "inherit": False, "set": True}]}]}
    query = (
        "SELECT bool_or(inherit_option), bool_or(set_option), bool_or(admin_option) FROM pg_auth_members "
        "WHERE roleid = %s::regrole AND member = %s::regrole"
    )
    async with engine(postgres) as server:
        await ready(server, member(database_name, spec))
        assert rows(postgres, query, a, b) == [(False, True, False)]
        run(postgres, f"CREATE ROLE {third}; GRANT {a} TO {third} WITH ADMIN OPTION; SET ROLE {third}; "
                      f"GRANT {a} TO {b} WITH INHERIT TRUE, ADMIN TRUE")  # fmt: skip
        again = await ready(server, member(database_name, spec, verified=True))
        assert [str(ref) for ref in again.drift] == [f"role {b}"]
        assert rows(postgres, query, a, b) == [(False, True, False)]
        assert (await ready(server, member(database_name, spec))).applied == ()


async def test_settings_of_a_role_on_the_server_and_in_the_database(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    role = f"{database_name}_a"
    both = {
        "roles": [{"name": role, "settings": {"work_mem": "8MB"}, "databaseSettings": {"search_path": ["a", "$user"]}}]
    }
    query = "SELECT setdatabase <> 0, setconfig FROM pg_db_role_setting WHERE setrole = %s::regrole ORDER BY 1"
    async with engine(postgres) as server:
        await ready(server, member(database_name, both))
        assert (await ready(server, member(database_name, both))).applied == ()
        assert rows(postgres, query, role) == [(False, ["work_mem=8MB"]), (True, ['search_path=a, "$user"'])]
        run(postgres, f"ALTER ROLE {role} IN DATABASE {database_name} SET search_path = x; "
                      f"ALTER ROLE {role} IN DATABASE {database_name} SET app.theirs = 'x'")  # fmt: skip
        again = await ready(server, member(database_name, both, verified=True))
        assert [str(ref) for ref in again.drift] == [f"role {role}"]
        await ready(server, member(database_name, {"roles": [{"name": role}]}))
        assert rows(postgres, query, role) == [(True, ["app.theirs=x"])], "what was never declared stays"


async def test_deletion_leaves_no_default_and_hands_over_what_a_role_owned(
    postgres: PostgresEndpoint, database: str, database_name: str
) -> None:
    """With deletionPolicy: Delete in a database that stays."""
    maker, reader = f"{database_name}_maker", f"{database_name}_reader"
    known = {"objectType": "Tables", "privileges": ["SELECT"], "to": [reader]}
    entry = {"name": "d", "creators": [maker, "postgres"], **known}
    spec = {"roles": [{"name": maker}, {"name": reader}], "schemas": [{"name": "shared"}], "defaultPrivileges": [entry]}
    one = member(database, spec, adoption="Allow")
    gone = member(database, spec, adoption="Allow", deletionPolicy="Delete", deleting=True)
    async with engine(postgres) as server:
        await ready(server, one)
        run(postgres, f"GRANT CREATE ON SCHEMA public TO {maker}", database)
        run(postgres, f"SET ROLE {maker}; CREATE TABLE public.t (id int); INSERT INTO public.t VALUES (7)", database)
        run(postgres, f"CREATE POLICY alone ON public.t AS RESTRICTIVE TO {reader} USING (id > 1)", database)
        with pytest.raises(RefusedError, match=r"public\.t\.alone"):
            await server.remove(unit(gone), lead)
        there = rows(postgres, "SELECT count(*) FROM pg_namespace WHERE nspname = 'shared'", dbname=database)
        assert there == [(1,)], "refused before anything was dropped"
        run(postgres, "DROP POLICY alone ON public.t", database)
        await server.remove(unit(gone), lead)
    assert rows(postgres, "SELECT FROM pg_default_acl", dbname=database) == []
    assert rows(postgres, "SELECT FROM pg_roles WHERE rolname IN (%s, %s)", maker, reader) == []
    found = rows(postgres, "SELECT id, tableowner FROM public.t, pg_tables WHERE tablename = 't'", dbname=database)
    assert found == [(7, f"{maker}_retired")], "the database's owner is a superuser, who inherits nothing"
    run(postgres, f"DROP OWNED BY {maker}_retired", database)
    run(postgres, f"DROP ROLE {maker}_retired")
