"""Figures that a probe brings, beside what the server itself says; and what a login without rights cannot see."""

from __future__ import annotations

import time
from contextlib import closing

import pytest

from sandbox import PostgresEndpoint, PostgresServer
from selvedge.core.figures import ReplicaLag, ServerFigures
from tests.engines.postgres_support import engine, run

#: Figures are those of a whole server.
pytestmark = pytest.mark.own_postgres


async def figures(endpoint: PostgresEndpoint, **options: object) -> ServerFigures:
    async with engine(endpoint, **options) as server:
        return (await server.probe()).figures


async def test_a_server_states_connections_counters_and_age(postgres: PostgresEndpoint) -> None:
    with closing(postgres.connect()) as one, closing(postgres.connect()) as other:
        one.execute("BEGIN")
        one.execute("SELECT 1")
        usable = other.execute("SHOW max_connections").fetchone()
        found = await figures(postgres)
    assert found.connections["idle_in_transaction"] >= 1
    assert found.connections["active"] >= 1
    assert usable is not None
    assert found.connection_limit is not None
    assert 0 < found.connection_limit < int(usable[0])
    assert found.counters["commits"] > 0
    assert found.counters["blocks_hit"] > 0
    assert found.xid_age_ratio is not None
    assert 0 < found.xid_age_ratio < 0.1
    assert found.replicas_expected is None
    assert (await figures(postgres)).counted_by == found.counted_by


async def test_a_session_that_waits_for_a_lock_is_waiting(postgres: PostgresEndpoint, database_name: str) -> None:
    before = (await figures(postgres)).connections.get("waiting", 0)
    with closing(postgres.connect()) as holder, closing(postgres.connect()) as waiter:
        holder.execute("SELECT pg_advisory_lock(hashtext(%s))", [database_name])
        waiter.pgconn.send_query(f"SELECT pg_advisory_lock(hashtext('{database_name}'))".encode())
        async with engine(postgres) as server:
            deadline = time.monotonic() + 30
            while (await server.probe()).figures.connections.get("waiting", 0) <= before:
                assert time.monotonic() < deadline
        holder.execute("SELECT pg_advisory_unlock_all()")
        waiter.pgconn.get_result()


async def test_a_dropped_database_and_a_reset_are_seen(own_postgres18: PostgresEndpoint, database_name: str) -> None:
    run(own_postgres18, f"CREATE DATABASE {database_name}")
    try:
        with closing(own_postgres18.connect(database_name)) as connection:
            first = (await figures(own_postgres18)).counted_by
            connection.execute("SELECT pg_stat_reset()")
        second = (await figures(own_postgres18)).counted_by
        assert second != first
    finally:
        run(own_postgres18, f"DROP DATABASE {database_name} WITH (FORCE)")
    assert (await figures(own_postgres18)).counted_by not in (first, second)


async def test_a_login_that_sees_nothing_states_nothing_of_others(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    login = f"{database_name}_login"
    run(postgres, f"CREATE ROLE {login} LOGIN PASSWORD 'not-for-any-text'")
    try:
        found = await figures(postgres, username=login, password="not-for-any-text")
    finally:
        run(postgres, f"DROP ROLE {login}")
    assert set(found.connections) == {"unknown"}
    assert found.connections["unknown"] >= 1
    assert found.replicas_connected is None
    assert found.lags == ()
    assert found.counters["blocks_hit"] > 0


async def test_lag_is_stated_by_primary_and_standby_and_rises_when_it_is_cut_off() -> None:
    with PostgresServer.launch("18") as primary, PostgresServer.standby_of(primary) as standby:
        run(primary, "CREATE TABLE t AS SELECT 1")
        run(primary, "SELECT pg_create_physical_replication_slot('kept', true)")
        own = f"{standby.host}:{standby.port}"
        async with (
            engine(primary, read_replicas=((standby.host, standby.port),)) as server,
            engine(standby) as behind,
        ):
            deadline = time.monotonic() + 60
            while True:
                found = (await server.probe()).figures
                lags = {lag.replica: lag for lag in found.lags}
                seconds = [lag.seconds for lag in found.lags]
                if found.replicas_connected == 1 and len(lags) == 2 and seconds == [0, 0]:
                    break
                assert time.monotonic() < deadline, found
            assert lags[own] == ReplicaLag(own, 0)
            (by_primary,) = set(lags) - {own}
            assert lags[by_primary].bytes == 0
            assert found.replicas_expected == 1
            assert "kept" in found.slots
            # replay stands still: the primary sees the bytes, and the standby its age
            run(standby, "SELECT pg_wal_replay_pause()")
            run(primary, "INSERT INTO t SELECT generate_series(1, 10000)")
            while True:
                found = (await server.probe()).figures
                lags = {lag.replica: lag for lag in found.lags}
                if (lags[by_primary].bytes or 0) > 100_000 and (lags[own].seconds or 0) > 0:
                    break
                assert time.monotonic() < deadline, found
            run(standby, "SELECT pg_wal_replay_resume()")
            while (await behind.probe()).figures.lags != (ReplicaLag(own, 0),):
                assert time.monotonic() < deadline
            # all that it has is replayed, and yet it lies further behind with every second
            primary.stop()
            ages = []
            while len(ages) < 3:
                assert time.monotonic() < deadline
                (lag,) = (await behind.probe()).figures.lags
                assert lag.seconds is not None
                if lag.seconds > 0:
                    ages.append(lag.seconds)
            assert ages == sorted(set(ages))
