"""Who asks to be told of drift hears of it before it is repaired, once, and not where nothing is repaired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from sandbox import PostgresEndpoint
from selvedge.core.unit import ObjectRef
from tests.engines.postgres_support import engine, lead, member, ready, rows, run, unit

pytestmark = pytest.mark.engines

Told = list[tuple[Mapping[str, frozenset[ObjectRef]], Any]]


def declared(p: str) -> dict[str, Any]:
    return {
        "schemas": [{"name": "shared", "comment": "all"}],
        "roles": [{"name": f"{p}_a", "comment": "a"}],
        "grants": [{"name": "u", "privileges": ["USAGE"], "objects": {"schemas": ["shared"]}, "to": [f"{p}_a"]}],
    }


LIVE = """SELECT (SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = 'shared'),
  (SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = %s),
  (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND
     database = (SELECT oid FROM pg_database WHERE datname = current_database())),
  (SELECT count(*) FROM pg_stat_activity WHERE application_name = 'selvedge' AND xact_start IS NOT NULL
     AND datname = current_database())"""

DAMAGE = {
    "inside": (["COMMENT ON SCHEMA shared IS 'x'"], {"schema shared"}, ("x", "a")),
    "server-wide": (["COMMENT ON ROLE {p}_a IS 'x'"], {"role {p}_a"}, ("all", "x")),
    "both": (
        ["COMMENT ON ROLE {p}_a IS 'x'", "COMMENT ON SCHEMA shared IS 'x'"],
        {"role {p}_a", "schema shared"},
        ("x", "x"),
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
async def test_drift_is_told_before_it_is_repaired(postgres: PostgresEndpoint, database_name: str, kind: str) -> None:
    statements, names, broken = DAMAGE[kind]
    one = member(database_name, declared(database_name))
    known = replace(one, verified=True)
    told: Told = []

    async def on_drift(drift: Mapping[str, frozenset[ObjectRef]]) -> None:
        told.append((drift, rows(postgres, LIVE, f"{database_name}_a", dbname=database_name)[0]))

    async with engine(postgres) as server:
        await server.converge(unit(one, on_drift=on_drift), lead)
        await server.converge(unit(known, on_drift=on_drift), lead)
        assert told == [], "nothing drifted yet"
        for statement in statements:
            run(postgres, statement.format(p=database_name), database_name)
        await server.plan(unit(known, on_drift=on_drift))
        assert told == [], "a plan tells nobody"
        result = await server.converge(unit(known, on_drift=on_drift), lead)
    assert len(told) == 1
    drift, live = told[0]
    assert {uid: {str(ref) for ref in refs} for uid, refs in drift.items()} == {
        one.uid: {name.format(p=database_name) for name in names}
    }
    assert live[:2] == broken, "it still stands as it was broken"
    assert live[2:] == (0, 0), "neither a lock nor a transaction is held meanwhile"
    assert result.members[one.uid].verified


async def test_a_database_that_is_gone_is_told_before_it_is_made_again(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    one = member(database_name, declared(database_name))
    there: list[list[tuple[Any, ...]]] = []

    async def on_drift(drift: Mapping[str, frozenset[ObjectRef]]) -> None:
        assert ObjectRef("database", database_name) in drift[one.uid]
        there.append(rows(postgres, "SELECT FROM pg_database WHERE datname = %s", database_name))

    async with engine(postgres) as server:
        await ready(server, one)
        run(postgres, f'DROP DATABASE "{database_name}" WITH (FORCE)')
        result = await server.converge(unit(replace(one, verified=True), on_drift=on_drift), lead)
    assert there == [[]]
    assert result.members[one.uid].verified


async def test_what_is_only_reported_is_not_told(postgres: PostgresEndpoint, database_name: str) -> None:
    one = member(database_name, declared(database_name), drift="Report")
    told: list[Any] = []

    async def on_drift(drift: Mapping[str, frozenset[ObjectRef]]) -> None:
        told.append(drift)

    async with engine(postgres) as server:
        await ready(server, one)
        run(postgres, "COMMENT ON SCHEMA shared IS 'x'", database_name)
        run(postgres, f"COMMENT ON ROLE {database_name}_a IS 'x'")
        result = await server.converge(unit(replace(one, verified=True), on_drift=on_drift), lead)
        assert len(result.members[one.uid].pending) == 2
    assert told == []


async def test_what_the_told_one_raises_ends_the_pass_before_the_repair(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    one = member(database_name, declared(database_name))
    known = replace(one, verified=True)

    async def on_drift(drift: Mapping[str, frozenset[ObjectRef]]) -> None:
        raise LookupError("the resource is gone")

    async with engine(postgres) as server:
        await ready(server, one)
        run(postgres, f"COMMENT ON ROLE {database_name}_a IS 'x'")
        with pytest.raises(LookupError):
            await server.converge(unit(known, on_drift=on_drift), lead)
        assert server.connections()["active"] == 0
        query = "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = %s"
        assert rows(postgres, query, f"{database_name}_a") == [("x",)]
        await ready(server, known)
        assert rows(postgres, query, f"{database_name}_a") == [("a",)]
