"""Many units at once: they share a transaction where they can, and none of them pays for another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from sandbox import PostgresEndpoint
from sandbox.postgres import PostgresServer
from selvedge.core.errors import TransientError
from selvedge.core.reasons import Reason
from selvedge.core.unit import MemberResult
from selvedge.engines.base import Member
from tests.engines.postgres_support import engine, limits, member, only, ready, reasons, rows, run, unit
from tests.waiting import until

#: One process of pytest-xdist has all of them, so that their servers start once.
pytestmark = pytest.mark.xdist_group("counted-server")

COUNTED = {"shared_preload_libraries": "pg_stat_statements", "track_functions": "none"}
CALLS = """SELECT coalesce(sum(calls), 0)::int FROM pg_stat_statements s
  JOIN pg_database d ON d.oid = s.dbid JOIN pg_roles r ON r.oid = s.userid
  WHERE toplevel AND r.rolname = 'operator' AND datname LIKE %s AND query LIKE %s"""


@pytest.fixture(scope="module")
def counted() -> Iterator[PostgresEndpoint]:
    """A server of its own that counts the statements of the login ``operator``."""
    with PostgresServer.launch("15", settings=COUNTED) as server:
        run(server, "CREATE EXTENSION pg_stat_statements; CREATE ROLE operator SUPERUSER LOGIN PASSWORD 'operator'")
        yield server


def new(database: str, spec: dict[str, Any] | None = None, **fields: Any) -> Member:
    """A DatabaseSchema of its own name: one that has several databases would take the roles of the others away."""
    return member(database, declared(database) if spec is None else spec, **{"name": database, **fields})


def declared(p: str, **role: Any) -> dict[str, Any]:
    return {
        "owner": f"{p}_owner",
        "schemas": [{"name": "app", "owner": f"{p}_owner"}],
        "roles": [
            {"name": f"{p}_owner"},
            {"name": f"{p}_reader", **role},
            {"name": f"{p}_writer", "memberOf": [{"role": f"{p}_reader"}]},
        ],
        "grants": [
            {"name": "usage", "privileges": ["USAGE"], "objects": {"schemas": ["app"]}, "to": [f"{p}_reader"]},
            {"name": "create", "privileges": ["CREATE"], "objects": {"schemas": ["app"]}, "to": [f"{p}_writer"]},
        ],
    }


def calls(server: PostgresEndpoint, database: str = "%", query: str = "%") -> int:
    return int(rows(server, CALLS, database, query)[0][0])


def forget(server: PostgresEndpoint) -> None:
    run(server, "SELECT pg_stat_statements_reset()")


async def test_units_that_wait_together_share_a_transaction(counted: PostgresEndpoint) -> None:
    units = [new(f"many_{number}") for number in range(24)]
    async with engine(
        counted, username="operator", password="operator", limits=limits(max=7, acquire_timeout=60.0)
    ) as server:
        await ready(server, new("many_first"))
        forget(counted)
        await asyncio.gather(*(ready(server, one) for one in units))
        assert calls(counted, "postgres", "INSERT INTO%") <= 6
        assert calls(counted) <= 15 * len(units)
        assert server.connections()["active"] == 0
        owners = rows(counted, "SELECT count(*) FROM selvedge.claims WHERE object LIKE 'role:many_%'")
        assert owners == [(75,)]


async def test_a_pass_over_what_matches_is_one_statement(counted: PostgresEndpoint) -> None:
    one = new("still")
    async with engine(counted, username="operator", password="operator") as server:
        await ready(server, one)
        known = replace(one, verified=True)
        for _ in range(2):  # the first probes and passes learn what is there
            await server.probe()
            await ready(server, known)
        forget(counted)
        for _ in range(3):
            assert (await ready(server, known)).applied == ()
        assert calls(counted) == 3


async def test_one_that_is_refused_is_named_and_the_others_are_made(counted: PostgresEndpoint) -> None:
    good = [new(f"good_{number}") for number in range(6)]
    bad = new("bad", declared("bad", settings={"statement_timeout": "nonsense"}))
    run(counted, "CREATE DATABASE taken")
    async with engine(counted, limits=limits(max=7)) as server:
        results: list[MemberResult] = await asyncio.gather(*(only(server, one) for one in (*good[:3], bad, *good[3:])))
        refused = results.pop(3)
        assert all(result.verified for result in results), [reasons(result) for result in results]
        assert reasons(refused) == {"role bad_reader": "StatementFailed"}
        assert "22023" in refused.problems[0].message
        assert refused.provisioned is False
        taken = only(server, new("taken"))
        results = await asyncio.gather(taken, *(only(server, replace(one, generation=2)) for one in good))
        assert reasons(results[0]) == {"database taken": "AdoptionRequired"}
        assert all(result.verified for result in results[1:])


async def test_two_that_want_one_role_get_it_one_after_the_other(counted: PostgresEndpoint) -> None:
    """The role is there already: both could take it over without the server saying no."""
    run(counted, "CREATE ROLE wanted_by_two")
    pair = [
        new(f"pair_{number}", {"roles": [{"name": "wanted_by_two", "comment": f"of {number}"}]}, adoption="Allow")
        for number in range(2)
    ]
    async with engine(counted, limits=limits(max=7)) as server:
        results = await asyncio.gather(*(only(server, one) for one in pair))
    winner = next(number for number, result in enumerate(results) if result.verified)
    assert reasons(results[1 - winner]) == {"role wanted_by_two": "Conflict"}
    claim = rows(counted, "SELECT resource FROM selvedge.claims WHERE object = 'role:wanted_by_two'")
    assert claim == [(f"shop/pair_{winner}",)]
    comment = "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = 'wanted_by_two'"
    assert rows(counted, comment) == [(f"of {winner}",)]


async def test_one_that_may_not_write_any_more_keeps_all_of_its_batch_from_writing(counted: PostgresEndpoint) -> None:
    """They are of one process: none of them leads then."""
    units = [new(f"led_{number}") for number in range(4)]

    def deposed() -> None:
        raise TransientError(Reason.NOT_LEADING, "another operator leads")

    async with engine(counted, limits=limits(max=7)) as server:
        found = await asyncio.gather(*(server.converge(unit(one), deposed) for one in units), return_exceptions=True)
        assert {getattr(error, "reason", None) for error in found} == {Reason.NOT_LEADING}
    assert rows(counted, "SELECT FROM pg_roles WHERE rolname LIKE 'led%'") == []


async def test_a_waiting_unit_that_is_cancelled_leaves_the_others_alone(counted: PostgresEndpoint) -> None:
    units = [new(f"left_{number}") for number in range(8)]
    async with engine(counted, limits=limits(max=3, acquire_timeout=60.0)) as server:
        tasks = [asyncio.create_task(only(server, one)) for one in units]
        await asyncio.sleep(0)  # each task begins
        for task in tasks[::2]:
            task.cancel()
        for task in tasks[::2]:
            with suppress(asyncio.CancelledError):
                await task
        results = await asyncio.gather(*tasks[1::2])
        assert all(result.verified for result in results)
        await asyncio.gather(*(ready(server, one) for one in units))
        assert server.connections()["active"] == 0


async def test_where_all_are_cancelled_nothing_goes_on(counted: PostgresEndpoint) -> None:
    units = [new(f"none_{number}") for number in range(4)]
    async with engine(counted, limits=limits(max=3)) as server:
        await server.probe()
        with counted.connect() as holder:
            holder.execute("SELECT pg_advisory_lock(8315171542772508517)")
            tasks = [asyncio.create_task(only(server, one)) for one in units]
            waiting = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            await until(lambda: rows(counted, waiting))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert server.connections()["active"] == 0
        await asyncio.gather(*(ready(server, one) for one in units))


async def test_claims_that_another_session_changed_are_seen_after_a_probe(counted: PostgresEndpoint) -> None:
    one = new("stamped")
    known = replace(one, verified=True)
    async with engine(counted) as server:
        await ready(server, one)
        for _ in range(3):
            await server.probe()
            await ready(server, known)
        run(
            counted,
            "UPDATE selvedge.claims SET resource = 'shop/other' WHERE object = 'role:stamped_reader';"
            "SELECT pg_stat_force_next_flush()",
        )
        assert (await only(server, known)).verified, "believed until the next probe"
        await server.probe()
        assert reasons(await only(server, known)) == {"role stamped_reader": "Conflict"}


async def test_the_maintenance_connection_gives_way_to_no_other_database(counted: PostgresEndpoint) -> None:
    """It is asked for by each of them: logins cost more than statements."""
    units = [new(f"kept_{number}") for number in range(10)]
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'selvedge' AND datname = 'postgres'"
    async with engine(counted, limits=limits(max=4, acquire_timeout=60.0)) as server:
        await server.probe()
        first = rows(counted, query)
        await asyncio.gather(*(ready(server, one) for one in units))
        assert set(first) <= set(rows(counted, query))
    async with engine(counted, limits=limits(max=1, acquire_timeout=60.0)) as server:
        await server.probe()
        results = await asyncio.gather(*(only(server, replace(one, verified=True)) for one in units))
        assert all(result.verified for result in results), "where there is but one, it does"


async def test_a_login_that_may_not_use_query_to_xml() -> None:
    """A hardened server: then the claims are read by a statement of their own."""
    with PostgresServer.launch("18") as server:
        for database in ("template1", "postgres"):
            revoke = "REVOKE EXECUTE ON FUNCTION query_to_xml(text, boolean, boolean, text) FROM PUBLIC"
            run(server, revoke, database)
        run(server, "CREATE ROLE operator LOGIN CREATEROLE CREATEDB PASSWORD 'operator'")
        run(server, "CREATE DATABASE home OWNER operator")
        spec = {"schemas": [{"name": "app"}], "roles": [{"name": "plain_a", "comment": "a"}]}
        one = new("plain", spec)
        async with engine(server, username="operator", password="operator", maintenance_database="home") as selvedge:
            await ready(selvedge, one)
            assert selvedge.pool.shared.reads_xml is False
            run(server, "COMMENT ON ROLE plain_a IS 'x'")
            found = await ready(selvedge, replace(one, verified=True))
            assert {str(ref) for ref in found.drift} == {"role plain_a"}
            await ready(selvedge, new("plain", {"schemas": [{"name": "app"}]}, generation=2))
        assert rows(server, "SELECT FROM pg_roles WHERE rolname = 'plain_a'") == []
