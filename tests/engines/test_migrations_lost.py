"""A run that lost its lock leaves the one that has it alone; and a server notices by itself that a runner is gone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from sandbox import PostgresEndpoint
from selvedge.core.errors import TransientError
from selvedge.engines.postgres.migrations import PostgresMigrations
from selvedge.engines.postgres.migrator import open_session
from tests.engines.migrations_support import SERVERS, Shop, fresh_shop, server


@pytest.fixture(params=SERVERS)
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    with fresh_shop(server(request)) as shop:
        yield shop


@asynccontextmanager
async def locked(shop: Shop) -> AsyncIterator[PostgresMigrations]:
    async def ignore(_: object) -> None:
        pass

    endpoint: PostgresEndpoint = shop.endpoint
    async with (
        await psycopg.AsyncConnection.connect(endpoint.conninfo(shop.database), autocommit=True) as admin,
        open_session(shop.target(), admin, database=shop.database, run_as=shop.run_as, owner=shop.owner) as session,
    ):
        await session.lock(30, ignore)
        yield session


async def test_who_lost_the_lock_does_not_end_the_session_of_who_has_it(shop: Shop) -> None:
    async with locked(shop) as first:
        assert first._lock is not None
        assert first._work is not None
        shop.query(
            "SELECT pg_terminate_backend(%s), pg_terminate_backend(%s)",
            first._lock.info.backend_pid,
            first._work.info.backend_pid,
        )
        async with locked(shop) as second:
            await first._drop_work()
            with pytest.raises(TransientError, match="the migrations' lock of database"):
                await first.drop_invalid_indexes(actor="ana", reason="none")
            async with second._working() as work:
                assert await (await work.execute("SELECT session_user::text")).fetchone() == (shop.login,)
            # nor has it taken the login from the other
        assert shop.query("SELECT rolcanlogin FROM pg_roles WHERE rolname = %s", shop.login) == [(False,)]


async def test_the_server_finds_out_that_a_runner_is_gone(shop: Shop) -> None:
    """A machine that is lost says no farewell: its lock would stay for as long as the kernel's own keepalive, hours."""
    async with locked(shop) as session:
        for connection in (session._lock, session._work):
            assert connection is not None
            for name, value in {"tcp_keepalives_idle": "30", "tcp_keepalives_interval": "10"}.items():
                assert await (await connection.execute(f"SHOW {name}".encode())).fetchone() == (value,)
