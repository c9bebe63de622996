"""Tables that are closed in the transaction that makes them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest
from psycopg import sql

from sandbox import PostgresEndpoint
from selvedge.engines.postgres.rls_birth import close_at_birth
from tests.engines.rls_support import ANNA, Shop, shop

pytestmark = pytest.mark.engines


@asynccontextmanager
async def migrator(one: Shop) -> AsyncIterator[psycopg.AsyncConnection]:
    """A session of a login that may become the owner, as the runner has it."""
    login = f"{one.name}_migrator"
    with one.endpoint.connect(one.name) as connection:
        connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN NOINHERIT PASSWORD 'x'; GRANT {} TO {}").format(
                sql.Identifier(login), sql.Identifier(one.owner), sql.Identifier(login)
            )
        )
        connection.execute(
            sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA shared GRANT ALL ON TABLES TO {}").format(
                sql.Identifier(one.owner), sql.Identifier(one.app)
            )
        )
    info = one.endpoint.conninfo(one.name, user=login, password="x")
    async with await psycopg.AsyncConnection.connect(info, autocommit=True) as connection:
        yield connection


async def migrate(one: Shop, connection: psycopg.AsyncConnection, statements: str, *tables: str) -> tuple[str, ...]:
    await connection.execute("BEGIN")
    await connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(one.owner)))
    await connection.execute(statements.encode())
    await connection.execute("RESET ROLE")
    closed = await close_at_birth(connection, [(name.split(".")[0], name.split(".")[1]) for name in tables])
    await connection.execute("COMMIT")
    return closed


async def test_a_new_table_is_never_open(postgres: PostgresEndpoint, database: str) -> None:
    async with shop(postgres, database) as one, migrator(one) as connection:
        create = f"CREATE TABLE shared.orders (id uuid); INSERT INTO shared.orders VALUES ('{ANNA}')"
        assert await migrate(one, connection, create, "shared.orders", "shared.later") == ("shared.orders",)
        assert one.rows("SELECT count(*) FROM shared.orders", role=one.app) == [(0,)]
        assert one.rows("SELECT count(*) FROM shared.orders", role=one.owner) == [(1,)]
        # Later migrations of the same run fill it as its owner.
        assert (
            await migrate(one, connection, "INSERT INTO shared.orders SELECT id FROM shared.orders", "shared.orders")
            == ()
        )


async def test_what_is_not_named_or_was_there_before_is_left_alone(postgres: PostgresEndpoint, database: str) -> None:
    """A table that is in use is not closed by the way: its policies come with the pass, in one step."""
    async with shop(postgres, database) as one, migrator(one) as connection:
        create = "CREATE TABLE shared.orders (id uuid); ALTER TABLE shared.users ADD COLUMN more text"
        assert await migrate(one, connection, create, "shared.users") == ()
        enabled = "SELECT bool_or(relrowsecurity) FROM pg_class WHERE relname IN ('orders', 'users')"
        assert one.rows(enabled) == [(False,)]
        assert await migrate(one, connection, "SELECT 1") == ()


async def test_a_table_of_a_block_with_an_exception_handler(postgres: PostgresEndpoint, database: str) -> None:
    """What a subtransaction makes has another transaction's number."""
    async with shop(postgres, database) as one, migrator(one) as connection:
        create = (
            "CREATE TABLE shared.first (id int); DO $$ BEGIN CREATE TABLE shared.orders (id uuid);"
            "EXCEPTION WHEN division_by_zero THEN NULL; END $$"
        )
        assert await migrate(one, connection, create, "shared.orders") == ("shared.orders",)


async def test_a_table_that_is_attached(postgres: PostgresEndpoint, database: str) -> None:
    async with shop(postgres, database) as one, migrator(one) as connection:
        await migrate(
            one,
            connection,
            "CREATE TABLE shared.old (at date); CREATE TABLE shared.log (at date) PARTITION BY RANGE (at)",
            "shared.log",
        )
        attach = "ALTER TABLE shared.log ATTACH PARTITION shared.old FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')"
        assert await migrate(one, connection, attach, "shared.log") == ("shared.old",)
        grantees = (
            "SELECT DISTINCT e.grantee::regrole::text FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) e "
            "WHERE c.relname = 'old'"
        )
        assert one.rows(grantees) == [(one.owner,)]


async def test_new_partitions_are_closed_and_lose_what_was_granted_on_them(
    postgres: PostgresEndpoint, database: str
) -> None:
    async with shop(postgres, database) as one, migrator(one) as connection:
        parent = "CREATE TABLE shared.events (id uuid, at date) PARTITION BY RANGE (at);"
        part = (
            "CREATE TABLE shared.events_{n} PARTITION OF shared.events "
            "FOR VALUES FROM ('202{n}-01-01') TO ('202{n}-12-31');"
        )
        await migrate(one, connection, parent + part.format(n=1), "shared.events")
        closed = await migrate(one, connection, part.format(n=2), "shared.events")
        assert closed == ("shared.events_2",)
        found = one.rows(
            "SELECT c.relname, c.relrowsecurity, "
            "(SELECT count(*) FROM aclexplode(c.relacl) e WHERE e.grantee <> c.relowner) "
            "FROM pg_class c WHERE c.relname LIKE 'events%' ORDER BY 1"
        )
        assert [(name, secured) for name, secured, _ in found] == [
            ("events", True),
            ("events_1", True),
            ("events_2", True),
        ]
        assert [grants > 0 for _, _, grants in found] == [True, False, False]


async def test_a_table_of_somebody_else_fails_nothing(postgres: PostgresEndpoint, database: str) -> None:
    async with shop(postgres, database) as one, migrator(one) as connection:
        one.sql("ALTER TABLE shared.users OWNER TO CURRENT_USER")
        assert await migrate(one, connection, "SELECT 1", "shared.users") == ()
