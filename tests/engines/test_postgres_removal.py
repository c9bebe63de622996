"""``deletionPolicy: Delete`` takes away what the resource made, and nothing else; every step can be repeated."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sandbox import PostgresEndpoint
from selvedge.core.errors import SelvedgeError
from selvedge.engines.base import AccessRule, Member
from selvedge.engines.postgres.engine import PostgresEngine
from tests.engines.postgres_support import converge, engine, lead, member, ready, rows, run, unit

pytestmark = pytest.mark.engines


def spec(p: str, *, schema: str = "shared", role: str = "a") -> dict[str, Any]:
    name = f"{p}_{role}"
    return {
        "schemas": [{"name": schema}],
        "roles": [{"name": name}],
        "extensions": [{"name": "citext"}] if role == "a" else [],
        "grants": [
            {"name": "u", "privileges": ["USAGE"], "objects": {"schemas": [schema]}, "to": [name]},
            {"name": "d", "privileges": ["CREATE"], "objects": {"database": True}, "to": [name]},
        ],
    }


def quote(text: str) -> str:
    return f"'{text}'"


def deleting(one: Member) -> Member:
    return replace(one, deleting=True)


async def remove(server: PostgresEngine, one: Member, *others: Member) -> list[str]:
    result = await server.remove(unit(deleting(one), *others), lead)
    return [str(change.ref) for change in result.members[one.uid].applied]


def roles(postgres: PostgresEndpoint, prefix: str) -> list[str]:
    return [name for (name,) in rows(postgres, "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", prefix)]


def claims(postgres: PostgresEndpoint, like: str, dbname: str = "postgres") -> list[tuple[str, str]]:
    return rows(postgres, "SELECT object, resource FROM selvedge.claims WHERE object LIKE %s", like, dbname=dbname)


async def test_a_database_that_was_made_goes_with_its_roles(postgres: PostgresEndpoint, database_name: str) -> None:
    one = member(database_name, spec(database_name))
    async with engine(postgres) as server:
        await ready(server, one)
        run(postgres, f"CREATE TABLE shared.t (id int); ALTER TABLE shared.t OWNER TO {database_name}_a", database_name)
        found = await remove(server, one)
        assert f"database {database_name}" in found
        assert await remove(server, one) == [], "there is nothing left to do"
        assert roles(postgres, database_name) == []
        assert rows(postgres, "SELECT FROM pg_database WHERE datname = %s", database_name) == []
        assert claims(postgres, f"%{database_name}%") == []
        await ready(server, one)


async def test_what_was_adopted_stays(postgres: PostgresEndpoint, database: str) -> None:
    run(postgres, f"CREATE ROLE {database}_a")
    run(postgres, "CREATE SCHEMA old; CREATE TABLE old.t AS SELECT 1 AS id", database)
    wanted = spec(database)
    wanted["schemas"].append({"name": "old"})
    wanted["roles"].append({"name": f"{database}_new"})
    one = member(database, wanted, adoption="Allow")
    async with engine(postgres) as server:
        await ready(server, one)
        await remove(server, one)
        assert roles(postgres, database) == [f"{database}_a"]
        assert rows(postgres, "SELECT id FROM old.t", dbname=database) == [(1,)]
        query = "SELECT nspname FROM pg_namespace WHERE nspname IN ('shared', 'old')"
        assert rows(postgres, query, dbname=database) == [("old",)]
        assert rows(postgres, "SELECT FROM pg_extension WHERE extname = 'citext'", dbname=database) == []
        assert rows(postgres, "SELECT has_database_privilege(%s, %s, 'CREATE')", f"{database}_a", database) == [
            (False,)
        ]
        assert claims(postgres, "%", database) == []
    run(postgres, f"DROP ROLE {database}_a")


async def test_the_other_member_of_a_database_goes_on(postgres: PostgresEndpoint, database_name: str) -> None:
    old = member(database_name, spec(database_name), name="old")
    shared = spec(database_name, schema="avatar", role="b")
    shared["schemas"].append({"name": "shared"})
    shared["roles"].append({"name": f"{database_name}_a"})
    new = member(database_name, shared, name="new", created="2026-02-01T00:00:00Z")
    async with engine(postgres) as server:
        first = await converge(server, old, new)
        assert not first.members[new.uid].verified, "shared and the role belong to the elder"
        run(postgres, "CREATE TABLE shared.t AS SELECT 1 AS id", database_name)
        await remove(server, old, new)
        assert claims(postgres, f"database:{database_name}") == [(f"database:{database_name}", "shop/new")]
        assert rows(postgres, "SELECT id FROM shared.t", dbname=database_name) == [(1,)]
        result = await ready(server, new)
        assert result.applied == (), "what it wanted as well was handed over to it"
        assert (await ready(server, new)).applied == ()
        query = "SELECT has_schema_privilege(%s, 'shared', 'USAGE')"
        assert rows(postgres, query, f"{database_name}_a", dbname=database_name) == [(False,)]
        await remove(server, new)
        assert roles(postgres, database_name) == []
        assert rows(postgres, "SELECT FROM pg_database WHERE datname = %s", database_name) == []


@pytest.mark.parametrize("cluster", ["another", "mine"])
async def test_a_database_with_somebody_elses_objects_is_not_dropped(
    postgres: PostgresEndpoint, database_name: str, cluster: str
) -> None:
    """Another cluster's, those of a resource behind another DatabaseServer, or what Retain left: their data stays."""
    one = member(database_name, spec(database_name))
    async with engine(postgres) as server:
        await ready(server, one)
        run(
            postgres,
            "CREATE SCHEMA kept; CREATE TABLE kept.t AS SELECT 1 AS id;"
            "INSERT INTO selvedge.claims (object, cluster, resource, uid, detail)"
            f" SELECT 'schema:kept', {'cluster' if cluster == 'mine' else quote('another')}, 'shop/other', 'u', detail"
            " FROM selvedge.claims LIMIT 1",
            database_name,
        )
        found = await remove(server, one)
        assert f"database {database_name}" not in found
        assert "schema shared" in found
        assert rows(postgres, "SELECT id FROM kept.t", dbname=database_name) == [(1,)]
        assert claims(postgres, "%", database_name) == [("schema:kept", "shop/other")]


async def test_a_schema_with_a_table_that_another_guards_is_not_dropped(
    postgres: PostgresEndpoint, database: str
) -> None:
    one = member(database, spec(database), adoption="Allow")
    async with engine(postgres) as server:
        await ready(server, one)
        run(
            postgres,
            "CREATE TABLE shared.t AS SELECT 1 AS id;"
            "INSERT INTO selvedge.claims (object, cluster, resource, uid, detail)"
            " SELECT 'rowLevelSecurity:shared.t', cluster, 'shop/other', 'u', detail FROM selvedge.claims LIMIT 1",
            database,
        )
        with pytest.raises(SelvedgeError, match=r"schema shared is not dropped: rowLevelSecurity shared\.t in it is"):
            await remove(server, one)
        assert rows(postgres, "SELECT id FROM shared.t", dbname=database) == [(1,)]
        run(postgres, "DELETE FROM selvedge.claims WHERE resource = 'shop/other'", database)
        assert "schema shared" in await remove(server, one)


async def test_a_strangers_login_with_the_name_of_one_of_ours_stays(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    one = member(database_name, spec(database_name))
    run(postgres, f"CREATE ROLE {database_name}_probe LOGIN")
    async with engine(postgres) as server:
        await ready(server, one)
        await remove(server, one)
    assert roles(postgres, database_name) == [f"{database_name}_probe"]
    run(postgres, f"DROP ROLE {database_name}_probe")


async def test_removal_goes_on_where_it_was_broken_off(postgres: PostgresEndpoint, database: str) -> None:
    """``may_write`` stops it before each of its writes in turn, as the loss of the Lease or a crash would."""
    one = member(database, spec(database), adoption="Allow")

    class StoppedError(Exception):
        pass

    async with engine(postgres) as server:
        for stop in range(1, 6):
            await ready(server, one)
            left = stop

            def stopping() -> None:
                nonlocal left
                left -= 1
                if left == 0:
                    raise StoppedError

            try:
                await server.remove(unit(deleting(one)), stopping)
            except StoppedError:
                await remove(server, one)
            assert roles(postgres, database) == []
            assert claims(postgres, "%", database) == []
            assert claims(postgres, f"%{database}%") == []


async def test_what_somebody_dropped_by_hand_is_no_obstacle(postgres: PostgresEndpoint, database: str) -> None:
    one = member(database, spec(database), adoption="Allow")
    async with engine(postgres) as server:
        for statement in (
            "DROP SCHEMA shared CASCADE",
            "DROP EXTENSION citext",
            f"DROP OWNED BY {database}_a; DROP ROLE {database}_a",
        ):
            await ready(server, one)
            run(postgres, statement, database)
            await remove(server, one)
            assert roles(postgres, database) == []
        await ready(server, one)
        run(postgres, f"DROP DATABASE {database} WITH (FORCE)")
        await remove(server, one)
        assert roles(postgres, database) == []


@pytest.mark.parametrize("made", [True, False], ids=["database goes", "database stays"])
async def test_a_role_is_freed_in_the_other_databases_that_it_may_use(
    postgres: PostgresEndpoint, database: str, database_name: str, made: bool
) -> None:
    """What it owns there lives on; a database that access does not give is named, with the next step."""
    if not made:
        run(postgres, f"CREATE DATABASE {database_name}")
    one = member(database_name, spec(database_name), adoption="Allow")
    role, owner = f"{database_name}_a", f"{database_name}_owner"
    run(postgres, f"CREATE ROLE {owner}; ALTER DATABASE {database} OWNER TO {owner}")
    async with engine(postgres) as server:
        await ready(server, one)
        run(postgres, f"GRANT CREATE ON SCHEMA public TO {role}", database)
        run(postgres, f"SET ROLE {role}; CREATE TABLE public.t AS SELECT 1 AS id", database)
        mine = unit(deleting(one), access=lambda _: AccessRule(databases=(database_name,)))
        with pytest.raises(SelvedgeError, match=f"role {role} is not dropped: .* database {database}, .* run REASSIGN"):
            await server.remove(mine, lead)
        assert rows(postgres, "SELECT FROM pg_database WHERE datname = %s", database_name) == [()], "nothing went"
        found = await remove(server, one)
        assert f"role {role}" in found
        assert await remove(server, one) == []
    assert roles(postgres, database_name) == [owner]
    assert rows(postgres, "SELECT id, tableowner::text FROM t, pg_tables WHERE tablename = 't'", dbname=database) == [
        (1, owner)
    ]
    run(postgres, f"ALTER DATABASE {database} OWNER TO CURRENT_USER; DROP TABLE t", database)
