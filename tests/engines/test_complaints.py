"""What users of comparable operators complained of, each as a test; most stand in the files of their subject."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox import PostgresEndpoint
from tests.engines.postgres_support import engine, lead, member, only, ready, reasons, rows, run, unit

pytestmark = pytest.mark.engines


def shop(p: str, **more: Any) -> dict[str, Any]:
    return {"schemas": [{"name": "app"}], "roles": [{"name": f"{p}_a"}, {"name": f"{p}_b"}], **more}


def read(name: str, to: str, *privileges: str) -> dict[str, Any]:
    return {"name": name, "privileges": list(privileges), "objects": {"tablesIn": ["app"]}, "to": [to]}


async def test_a_role_that_holds_more_than_is_declared_is_ready(postgres: PostgresEndpoint, database_name: str) -> None:
    """Crossplane's provider-sql#240: a Grant never became Ready where the role held more."""
    p = database_name
    one = member(p, shop(p, grants=[read("r", f"{p}_a", "SELECT")]))
    async with engine(postgres) as server:
        await ready(server, one)
        run(postgres, f"CREATE TABLE app.t (id int); GRANT ALL ON app.t TO {p}_a", p)
        await ready(server, one)
        assert (await ready(server, one)).applied == ()


async def test_two_entries_that_overlap_do_not_take_from_each_other(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    """Crossplane's provider-sql#432: two selectors looped for ever."""
    p = database_name
    grants = [read("one", f"{p}_a", "SELECT", "INSERT"), read("two", f"{p}_a", "SELECT", "UPDATE")]
    one = member(p, shop(p, grants=grants, grantMode="Authoritative"))
    async with engine(postgres) as server:
        await ready(server, one)
        run(postgres, "CREATE TABLE app.t (id int)", p)
        await ready(server, one)
        for _ in range(3):
            assert (await ready(server, one)).applied == ()
        # and when one of them leaves, what the other still asks for stays
        await ready(server, member(p, shop(p, grants=grants[1:], grantMode="Authoritative")))
    query = """SELECT string_agg(privilege_type, ' ' ORDER BY privilege_type) FROM pg_class, aclexplode(relacl)
      WHERE oid = 'app.t'::regclass AND grantee = %s::regrole"""
    assert rows(postgres, query, f"{p}_a", dbname=p) == [("SELECT UPDATE",)]


async def test_an_extension_of_somebody_else_is_never_dropped(postgres: PostgresEndpoint, database: str) -> None:
    """CloudNativePG's #9953 and #3033: it went on trying to drop extensions that it had not installed."""
    run(postgres, "CREATE EXTENSION pgcrypto; CREATE EXTENSION hstore", database)
    declared = {"extensions": [{"name": "pgcrypto"}]}
    async with engine(postgres) as server:
        await ready(server, member(database, declared, adoption="Allow"))
        result = await ready(server, member(database, {}, adoption="Allow", prune="Owned", destructive="Allow"))
        assert not any("EXTENSION" in change.statement for change in result.applied)
    found = rows(postgres, "SELECT extname FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY 1", dbname=database)
    assert found == [("hstore",), ("pgcrypto",)]


async def test_an_extension_dropped_by_hand_is_never_called_applied(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    """CloudNativePG's #10602: applied=true while the extension was gone."""
    p = database_name
    one = member(p, {"extensions": [{"name": "pgcrypto"}]}, drift="Report")
    known = member(p, {"extensions": [{"name": "pgcrypto"}]}, drift="Report", verified=True)
    async with engine(postgres) as server:
        await ready(server, one)
        run(postgres, "DROP EXTENSION pgcrypto", p)
        result = await only(server, known)
        assert not result.verified
        assert {str(ref) for ref in result.drift} == {"extension pgcrypto"}


async def test_the_loser_of_a_conflict_drops_nothing(postgres: PostgresEndpoint, database_name: str) -> None:
    """CloudNativePG's #10866: deleting a duplicate that was in conflict dropped the other one's database."""
    p = database_name
    older = member(p, shop(p), name="older", deletionPolicy="Delete")
    fields = {"name": "younger", "created": "2026-02-01T00:00:00Z", "deletionPolicy": "Delete"}
    async with engine(postgres) as server:
        await ready(server, older)
        loser = member(p, shop(p), **fields)
        assert set(reasons(await only(server, loser)).values()) == {"Conflict"}
        await server.remove(unit(member(p, shop(p), **fields, deleting=True)), lead)
        assert (await ready(server, older)).applied == ()
    assert rows(postgres, "SELECT count(*) FROM pg_database WHERE datname = %s", p) == [(1,)]
    assert rows(postgres, "SELECT count(*) FROM pg_roles WHERE starts_with(rolname, %s)", p) == [(2,)]


async def test_sessions_do_not_hold_up_the_end_of_a_database(postgres: PostgresEndpoint, database_name: str) -> None:
    """provider-sql#397, db-operator#110: DROP DATABASE hung on connections that were open."""
    p = database_name
    async with engine(postgres) as server:
        await ready(server, member(p, shop(p), deletionPolicy="Delete"))
        with postgres.connect(p) as idle, postgres.connect(p) as busy:
            busy.execute("BEGIN")
            busy.execute("CREATE TABLE app.t (id int)")
            idle.execute("SELECT 1")
            await server.remove(unit(member(p, shop(p), deletionPolicy="Delete", deleting=True)), lead)
            busy.close()
    assert rows(postgres, "SELECT FROM pg_database WHERE datname = %s", p) == []
