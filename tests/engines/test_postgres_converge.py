"""A Postgres database becomes what is declared, is proved to be so, and a second look costs one statement."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox import PostgresEndpoint
from sandbox.postgres import PostgresServer
from tests.engines.postgres_support import (
    Count,
    afresh,
    converge,
    count,
    engine,
    member,
    only,
    ready,
    reasons,
    rows,
    run,
)

pytestmark = pytest.mark.engines


#: Nothing but our own statements writes to the log.
QUIET = {"autovacuum": "off", "checkpoint_timeout": "1h", "wal_level": "minimal", "max_wal_senders": "0"}


def wallet(prefix: str) -> dict[str, Any]:
    return {
        "owner": f"{prefix}_owner",
        "settings": {"statement_timeout": "30s", "search_path": ["shared", "$user", "Select", "user", "a,b"]},
        "extensions": [{"name": "pgcrypto"}, {"name": "no_such_extension", "optional": True}],
        "schemas": [{"name": "shared", "comment": "data of all services"}, {"name": "avatar"}],
        "roles": [
            {"name": f"{prefix}_owner"},
            {"name": f"{prefix}_ro", "comment": "may read"},
            {"name": f"{prefix}_rw", "memberOf": [{"role": f"{prefix}_ro"}], "settings": {"timezone": "UTC"}},
            {"name": f"{prefix}_mig", "memberOf": [{"role": f"{prefix}_owner", "inherit": False, "set": True}]},
        ],
        "grantMode": "Authoritative",
        "grants": [
            {"name": "connect", "privileges": ["CONNECT"], "objects": {"database": True}, "to": [f"{prefix}_ro"]},
            {"name": "usage", "privileges": ["USAGE"], "objects": {"schemas": ["shared"]}, "to": [f"{prefix}_ro"]},
            {"name": "read", "privileges": ["SELECT"], "objects": {"tablesIn": ["shared"]}, "to": [f"{prefix}_ro"]},
            {
                "name": "write",
                "privileges": ["INSERT", "UPDATE"],
                "objects": {"tables": ["shared.users"]},
                "to": [f"{prefix}_rw"],
            },
            {
                "name": "no-public",
                "privileges": ["CONNECT", "TEMPORARY"],
                "objects": {"database": True},
                "to": ["PUBLIC"],
                "ensure": "Absent",
            },
        ],
    }


async def test_a_database_is_made_and_waits_for_its_tables_and_is_then_verified(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    one = member(database_name, wallet(database_name))
    async with engine(postgres) as server:
        first = await only(server, one)
        assert first.provisioned
        assert reasons(first) == {"grant write": "WaitingForObjects"}
        assert "shared.users" in first.problems[0].message
        assert "no_such_extension" in " ".join(first.advice)
        run(postgres, "CREATE TABLE shared.users (id int)", database_name)
        second = await ready(server, one)
        assert {str(change.ref) for change in second.applied} == {"grant read", "grant write"}
        third = await ready(server, one)
        assert third.applied == ()
        assert third.ready == 1 + 4 + 2 + 2 + 5
    query = (
        "SELECT has_table_privilege(%s, 'shared.users', 'SELECT'), has_table_privilege(%s, 'shared.users', 'DELETE')"
    )
    assert rows(postgres, query, f"{database_name}_rw", f"{database_name}_rw", dbname=database_name) == [(True, False)]


@pytest.mark.parametrize("version", ["15", "18"])
async def test_a_pass_over_what_matches_is_one_statement_and_writes_nothing(version: str) -> None:
    """On a server of its own, where the write-ahead log moves for nobody else."""
    one = member("quiet", wallet("quiet"))
    with PostgresServer.launch(version, settings=QUIET) as server:
        async with engine(server) as selvedge:
            await only(selvedge, one)
            run(server, "CREATE TABLE shared.users (id int)", "quiet")
            await ready(selvedge, one)
            run(server, "CHECKPOINT")
            await ready(selvedge, one)
            await afresh(selvedge)
            logins = rows(server, "SELECT sessions FROM pg_stat_database WHERE datname = 'quiet'")
            before = lsn(server)
            for _ in range(10):
                assert (await ready(selvedge, one)).applied == ()
                assert count(selvedge).taken() == ["snapshot"]
            assert lsn(server) == before
            assert rows(server, "SELECT sessions FROM pg_stat_database WHERE datname = 'quiet'") == logins
            assert sum(selvedge.connections().values()) <= 2


def lsn(server: PostgresEndpoint) -> str:
    return str(rows(server, "SELECT pg_current_wal_insert_lsn()")[0][0])


@pytest.mark.own_postgres
async def test_a_new_process_finds_what_matches_and_writes_nothing(postgres: PostgresEndpoint, database: str) -> None:
    one = member(database, {"schemas": [{"name": "shared"}]}, adoption="Allow")
    async with engine(postgres) as server:
        await ready(server, one)
    async with engine(postgres) as server:
        result = await ready(server, one)
        assert result.applied == ()
        assert count(server).taken() == ["snapshot", "snapshot"], "the claims of the server, then the database"


async def test_two_members_of_one_database_are_one_unit(postgres: PostgresEndpoint, database_name: str) -> None:
    old = member(database_name, {"roles": [{"name": f"{database_name}_a"}], "schemas": [{"name": "a"}]}, name="old")
    new = member(
        database_name,
        {"roles": [{"name": f"{database_name}_a"}, {"name": f"{database_name}_b"}], "schemas": [{"name": "a"}]},
        name="new",
        created="2026-02-01T00:00:00Z",
    )
    async with engine(postgres) as server:
        result = await converge(server, new, old)
        assert result.members[old.uid].verified
        assert reasons(result.members[new.uid]) == {f"role {database_name}_a": "Conflict", "schema a": "Conflict"}
        assert "shop/old" in result.members[new.uid].problems[0].message
    assert isinstance(count(server), Count)
    assert rows(postgres, "SELECT count(*) FROM pg_roles WHERE rolname = %s", f"{database_name}_b") == [(1,)]


async def test_the_database_itself_is_the_elder_ones_to_declare(postgres: PostgresEndpoint, database_name: str) -> None:
    """Of two, the younger says what it does not get; what both say is no conflict, and the rest of it goes on."""
    role, other = f"{database_name}_a", f"{database_name}_b"
    spec = {"owner": role, "settings": {"app.tenant": "one"}}
    old = member(database_name, {**spec, "roles": [{"name": role}]}, name="old")
    young = {"name": "new", "created": "2026-02-01T00:00:00Z"}
    async with engine(postgres) as server:
        agreed = member(database_name, {**spec, "schemas": [{"name": "a"}]}, **young)
        result = await converge(server, old, agreed)
        assert result.members[agreed.uid].verified
        settings = {"App.Tenant": "two", "app.more": "three"}
        theirs = {"owner": other, "settings": settings, "schemas": [{"name": "a", "owner": role}, {"name": "b"}]}
        new = member(database_name, {**theirs, "roles": [{"name": other}]}, **young)
        result = await converge(server, old, new)
        assert result.members[old.uid].verified
        conflicts = dict.fromkeys(
            (f"databaseOwner {other}", "databaseSetting app.more", "databaseSetting app.tenant"), "Conflict"
        )
        assert reasons(result.members[new.uid]) == conflicts
        assert result.members[new.uid].provisioned
        assert all("DatabaseSchema shop/old, the first on it" in p.message for p in result.members[new.uid].problems)
    found = rows(postgres, "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'b'", dbname=database_name)
    assert found == [(other,)]


@pytest.mark.own_postgres
async def test_what_left_the_declaration_loses_its_access(postgres: PostgresEndpoint, database_name: str) -> None:
    before = member(
        database_name,
        {
            "schemas": [{"name": "shared"}, {"name": "old"}],
            "roles": [{"name": f"{database_name}_a"}, {"name": f"{database_name}_b"}],
            "grants": [
                {"name": "old", "privileges": ["USAGE"], "objects": {"schemas": ["old"]}, "to": [f"{database_name}_b"]},
                {
                    "name": "all",
                    "privileges": ["USAGE"],
                    "objects": {"schemas": ["shared"]},
                    "to": [f"{database_name}_a"],
                },
            ],
        },
    )
    after = member(database_name, {"schemas": [{"name": "shared"}], "roles": [{"name": f"{database_name}_a"}]})
    async with engine(postgres) as server:
        await ready(server, before)
        assert (await ready(server, after)).applied
        assert (await ready(server, after)).applied == ()
        await afresh(server)
        await ready(server, after)
        assert count(server).taken() == ["snapshot"]
    assert rows(postgres, "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", database_name) == [
        (f"{database_name}_a",)
    ]
    query = (
        "SELECT nspname, has_schema_privilege(%s, oid, 'USAGE') FROM pg_namespace WHERE nspname IN ('shared', 'old')"
    )
    found = rows(postgres, query + " ORDER BY 1", f"{database_name}_a", dbname=database_name)
    assert found == [("old", False), ("shared", False)], "a schema holds data and stays"
