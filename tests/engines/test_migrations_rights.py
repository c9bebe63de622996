"""What an administrator who is no superuser needs, and what a broken build leaves behind."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql

from selvedge.core.errors import NotPermittedError, TransientError
from selvedge.engines.postgres.migrator import open_session
from selvedge.migrate import RunResult, Timeouts, load, make_plan, run
from tests.engines.migrations_support import Shop
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox import PostgresEndpoint

FILES = {"20250101000000_a.sql": "CREATE TABLE shop.a (id int);"}


@pytest.fixture
def shop(postgres: PostgresEndpoint, database: str) -> Iterator[Shop]:
    shop = Shop(postgres, database)
    shop.create()
    return shop


def _admin(shop: Shop, *, may_grant: bool) -> str:
    """An administrator as clouds give him: CREATEROLE, CREATE on the database, no superuser."""
    name = f"{shop.database}_admin"
    names = {"admin": sql.Identifier(name), "run": sql.Identifier(shop.run_as), "db": sql.Identifier(shop.database)}
    with shop.endpoint.connect(shop.database) as connection:
        statements = [
            "CREATE ROLE {admin} LOGIN CREATEROLE PASSWORD 'admin'",
            "GRANT CREATE, CONNECT ON DATABASE {db} TO {admin} WITH GRANT OPTION",
        ]
        if may_grant:
            statements.append("GRANT {run} TO {admin} WITH ADMIN OPTION")
        for text in statements:
            connection.execute(sql.SQL(text).format(**names))
    return name


async def _up(shop: Shop, admin: str) -> RunResult:
    async def ignore(_: object) -> None:
        pass

    target = shop.target(username=admin, password="admin")
    dsn = shop.endpoint.conninfo(shop.database, user=admin, password="admin")
    async with (
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection,
        open_session(target, connection, database=shop.database, run_as=shop.run_as, owner=shop.owner) as session,
    ):
        plan = make_plan(load(FILES), await session.history())
        return await run(
            session, plan, timeouts=Timeouts(), on_progress=ignore, stop=asyncio.Event(), may_write=lambda: None
        )


async def test_an_administrator_without_superuser(shop: Shop) -> None:
    result = await _up(shop, _admin(shop, may_grant=True))
    assert result.error is None, result.error
    assert shop.value("SELECT tableowner FROM pg_tables WHERE tablename = 'a'") == shop.owner
    row = shop.query("SELECT rolsuper, rolbypassrls, rolcanlogin FROM pg_roles WHERE rolname = %s", shop.login)
    assert row == [(False, False, False)]


async def test_an_administrator_who_may_not_grant_is_told_what_he_lacks(shop: Shop) -> None:
    if int(shop.value("SHOW server_version_num")) < 160000:
        pytest.skip("before 16, CREATEROLE may grant every role")
    admin = _admin(shop, may_grant=False)
    result = await _up(shop, admin)
    assert isinstance(result.error, NotPermittedError)
    assert f'GRANT "{shop.run_as}" TO "{admin}" WITH ADMIN OPTION' in result.error.statements
    assert shop.query("SELECT 1 FROM pg_roles WHERE rolname = %s", shop.login) == []


async def test_a_killed_index_build_is_repaired(shop: Shop) -> None:
    files = {
        **FILES,
        "20250102000000_b.sql": "INSERT INTO shop.a SELECT generate_series(1, 10);\n"
        "CREATE INDEX CONCURRENTLY a_id ON shop.a (id);\nINSERT INTO shop.a VALUES (11);",
    }
    assert (await shop.up(FILES)).error is None
    with shop.endpoint.connect(shop.database) as holder:
        holder.execute("BEGIN")
        holder.execute("LOCK shop.a IN ROW EXCLUSIVE MODE")
        task = asyncio.create_task(shop.up(files))
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_progress_create_index WHERE relid = 'shop.a'::regclass"
        await until(lambda: shop.query(query), task)
        result = await task
        assert isinstance(result.error, TransientError)
        assert shop.query("SELECT indisvalid FROM pg_index WHERE indrelid = 'shop.a'::regclass") == [(False,)]
    result = await shop.up(files)
    assert result.error is None, result.error
    assert shop.query("SELECT indisvalid FROM pg_index WHERE indrelid = 'shop.a'::regclass") == [(True,)]
    assert shop.value("SELECT count(*) FROM shop.a") == 11


async def test_who_blocks_an_index_build_is_shown(shop: Shop) -> None:
    assert (await shop.up(FILES)).error is None
    files = {**FILES, "20250102000000_b.sql": "CREATE INDEX CONCURRENTLY a_id ON shop.a (id);"}
    with shop.endpoint.connect(shop.database, application_name="importer") as holder:
        holder.execute("BEGIN")
        holder.execute("LOCK shop.a IN ROW EXCLUSIVE MODE")
        task = asyncio.create_task(shop.up(files, timeouts=Timeouts(lock=0.2, lock_wait=1)))
        # a CONCURRENTLY that waits blocks nobody: lock_timeout does not end it
        await until(lambda: any("importer" in row.waiting_for for row in shop.rows), task)
    assert (await task).error is None


async def test_a_deadlock_is_tried_again(shop: Shop) -> None:
    files = {**FILES, "20250102000000_b.sql": "LOCK shop.a; SELECT pg_sleep(0.5); LOCK shop.b;"}
    assert (await shop.up(FILES)).error is None
    shop.query("CREATE TABLE shop.b (id int); ")
    shop.query(f'ALTER TABLE shop.b OWNER TO "{shop.owner}"')
    with shop.endpoint.connect(shop.database) as other:
        other.execute("SET deadlock_timeout = '60s'")  # so that the migration is the one that finds it
        other.execute("BEGIN")
        other.execute("LOCK shop.b")
        task = asyncio.create_task(shop.up(files, timeouts=Timeouts(lock=0, lock_wait=30)))
        sleeping = (
            "SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(0.5)' AND state = 'active' "
            "AND datname = current_database()"
        )
        await until(lambda: shop.query(sleeping), task)
        await asyncio.to_thread(other.execute, "LOCK shop.a")
        other.execute("COMMIT")
    result = await task
    assert result.error is None, result.error
    assert any("40P01" in row.waiting_for or "lock held" in row.waiting_for for row in shop.rows)
