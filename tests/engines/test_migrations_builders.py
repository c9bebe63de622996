"""Who builds an index, and that nobody's is dropped: not one that our own statement met, nor where none is seen."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from selvedge.migrate import Timeouts
from tests.engines.migrations_support import SERVERS, Shop, fresh_shop, server
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

A, B = "20250101000000_a.sql", "20250102000000_b.sql"
TABLE = {A: "CREATE TABLE shop.a (id int); INSERT INTO shop.a VALUES (1);"}
BUILD = "CREATE INDEX CONCURRENTLY a_id ON shop.a (id)"
WAITS = (
    "SELECT 1 FROM pg_locks WHERE locktype = 'virtualxid' AND NOT granted "
    "AND pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database())"
)
DROPS = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND starts_with(query, 'DROP INDEX')"
STATE = "SELECT indexrelid::regclass::text, indisvalid FROM pg_index WHERE indrelid = 'shop.a'::regclass"


@pytest.fixture(params=SERVERS)
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    with fresh_shop(server(request)) as shop:
        yield shop


async def test_an_index_that_another_builds_while_ours_waits_is_not_dropped(shop: Shop) -> None:
    """Ours waits for the table until its time is over; a DROP behind theirs would end it as a deadlock."""
    assert (await shop.up(TABLE)).error is None
    with shop.endpoint.connect(shop.database) as other:
        other.execute("SET deadlock_timeout = '50ms'")  # theirs finds it first, as behind a DROP that has waited long
        async with asyncio.timeout(30):
            with shop.endpoint.connect(shop.database) as writer, writer.transaction():
                writer.execute("INSERT INTO shop.a VALUES (1)")
                build = asyncio.create_task(asyncio.to_thread(other.execute, BUILD))
                await until(lambda: shop.query(WAITS), build)
                run = asyncio.create_task(shop.up({**TABLE, B: f"{BUILD};"}, timeouts=Timeouts(statement=1.0)))
                await until(lambda: run.done() or shop.query(DROPS))
            await build
            result = await run
    assert "(57014)" in str(result.error)
    assert shop.query(STATE) == [("shop.a_id", True)]


async def test_who_builds_is_waited_for_also_where_the_server_does_not_tell(shop: Shop) -> None:
    """With track_activities off no progress is seen: whoever locks the table as a build does may be building."""
    shop.query(f'ALTER DATABASE "{shop.database}" SET track_activities = off')
    assert (await shop.up(TABLE)).error is None
    text = BUILD.replace("CONCURRENTLY", "CONCURRENTLY IF NOT EXISTS")
    with shop.endpoint.connect(shop.database) as other:
        async with asyncio.timeout(30):
            with shop.endpoint.connect(shop.database) as writer, writer.transaction():
                writer.execute("INSERT INTO shop.a VALUES (1)")
                build = asyncio.create_task(asyncio.to_thread(other.execute, BUILD))
                await until(lambda: shop.query(WAITS), build)
                refused = await shop.up({**TABLE, B: f"{text};"}, timeouts=Timeouts(lock_wait=1.0))
                run = shop.do(TABLE, "Repair", repair="DropInvalidIndexes", running={"actor": "ana", "reason": "none"})
                repaired = await run
            await build
    assert "may be building it" in str(refused.error)
    assert (repaired.error, repaired.dropped) == (None, ())
    assert shop.query(STATE) == [("shop.a_id", True)]
