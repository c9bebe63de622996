"""An index that is not valid: left by a build that broke off, or being built by somebody right now."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from selvedge.core.errors import TransientError
from selvedge.core.reasons import Reason
from selvedge.migrate import RunResult, Timeouts
from tests.engines.migrations_support import SERVERS, Shop, fresh_shop, server
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

A, B = "20250101000000_a.sql", "20250102000000_b.sql"
TABLE = {A: "CREATE TABLE shop.a (id int); INSERT INTO shop.a VALUES (1);"}
BUILD = "CREATE INDEX CONCURRENTLY a_id ON shop.a (id);"
BUILDS = "SELECT 1 FROM pg_stat_progress_create_index WHERE datname = current_database() AND pid <> pg_backend_pid()"


@pytest.fixture(params=SERVERS)
async def shop(request: pytest.FixtureRequest) -> AsyncIterator[Shop]:
    with fresh_shop(server(request)) as shop:
        assert (await shop.up(TABLE)).error is None
        yield shop


def indexes(shop: Shop) -> list[tuple[str, bool]]:
    return shop.query(
        "SELECT indexrelid::regclass::text, indisvalid FROM pg_index WHERE indrelid = 'shop.a'::regclass ORDER BY 1"
    )


def row(shop: Shop) -> tuple[str, bool, str]:
    return shop.query("SELECT state, started, cursor_hash FROM selvedge.history WHERE version = 20250102000000")[0]


@asynccontextmanager
async def writing(shop: Shop) -> AsyncIterator[None]:
    """Somebody writes to the table, so that every build of an index waits."""
    with shop.endpoint.connect(shop.database) as writer, writer.transaction():
        writer.execute("INSERT INTO shop.a VALUES (1)")
        yield


@asynccontextmanager
async def building(shop: Shop, text: str) -> AsyncIterator[None]:
    """Somebody builds the index, behind a writer."""
    with shop.endpoint.connect(shop.database) as other:
        async with writing(shop):
            build = asyncio.create_task(asyncio.to_thread(other.execute, text))
            await until(lambda: shop.query(BUILDS), build)
            yield
        await build


async def broken_off(shop: Shop) -> None:
    """The session goes in the middle of the build, which leaves an index that is not valid."""
    async with writing(shop):
        run = asyncio.create_task(shop.up({**TABLE, B: BUILD}))
        await until(lambda: shop.query(BUILDS), run)
        # others build on this server, too
        mine = "datname = current_database() AND starts_with(query, %s)"
        shop.query(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {mine}", BUILD[:-1])
        assert isinstance((await run).error, TransientError)
    assert (indexes(shop), row(shop)[:2]) == ([("shop.a_id", False)], ("Partial", True))


async def up(shop: Shop, text: str, timeouts: Timeouts = Timeouts()) -> RunResult:  # noqa: B008 - frozen
    return await shop.up({**TABLE, B: text}, timeouts=timeouts)


async def refused(shop: Shop, text: str) -> RunResult:
    """Not by the other's lock, for which it does not wait itself."""
    async with asyncio.timeout(30):
        return await up(shop, text, Timeouts(lock_wait=1.0))


async def test_an_index_that_somebody_is_building_is_not_dropped(shop: Shop) -> None:
    """It is invalid until it is built: its builder is known to be one."""
    text = BUILD.replace("CONCURRENTLY", "CONCURRENTLY IF NOT EXISTS")
    async with building(shop, BUILD):
        left = shop.value("SELECT 'shop.a_id'::regclass::oid")
        assert "may be building it" in str((await refused(shop, text)).error)
        assert row(shop)[:2] == ("Partial", False), "nothing was sent"
    assert (await up(shop, text)).error is None
    assert shop.value("SELECT 'shop.a_id'::regclass::oid") == left
    assert indexes(shop) == [("shop.a_id", True)]


async def test_a_build_that_broke_off_waits_for_whoever_builds_it_now(shop: Shop) -> None:
    await broken_off(shop)
    before = row(shop)
    async with building(shop, "REINDEX INDEX CONCURRENTLY shop.a_id"):
        for text in (BUILD, BUILD.replace("(id)", "(id DESC)")):
            result = await refused(shop, text)
            assert isinstance(result.error, TransientError), result.error
            assert result.error.reason is Reason.WAITING_FOR_LOCK
            assert "may be building it" in str(result.error)
            assert row(shop) == before, "no more is known of the statement that was sent"
    assert (await up(shop, BUILD)).error is None
    assert indexes(shop) == [("shop.a_id", True)]


async def test_a_build_that_broke_off_is_made_again_while_the_table_is_vacuumed(shop: Shop) -> None:
    """VACUUM and ANALYZE lock the table as a build does, and build nothing."""
    await broken_off(shop)
    with shop.endpoint.connect(shop.database) as other, other.transaction():
        other.execute("LOCK TABLE shop.a IN SHARE UPDATE EXCLUSIVE MODE")
        run = asyncio.create_task(up(shop, BUILD))
        drops = "SELECT 1 FROM pg_stat_activity WHERE starts_with(query, 'DROP INDEX') AND wait_event_type = 'Lock'"
        await until(lambda: shop.query(f"{drops} AND datname = current_database()"), run)
    result = await run
    assert result.error is None, result.error
    assert indexes(shop) == [("shop.a_id", True)]
