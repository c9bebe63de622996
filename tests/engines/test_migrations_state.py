"""A way back's digest names one state of the history, by the time when each migration ran; a plan writes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from selvedge.engines.postgres.migrator import open_session
from selvedge.migrate import load, make_plan
from tests.engines import migrations_support as postgres
from tests.engines import mongo_migrations_support as mongodb
from tests.engines.mongo_migrations_support import opened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox import MongoEndpoint, PostgresEndpoint

SQL = {
    "1_a.sql": "-- migrate:up\nCREATE TABLE shop.a (id int);\n-- migrate:down\nDROP TABLE shop.a;\n",
    "2_b.sql": "-- migrate:up\nCREATE TABLE shop.b (id int);\n-- migrate:down transaction:false\n"
    "DROP TABLE shop.b;\nSELECT 1 / 0;\n",
}
JSON = {
    "1_a.json": mongodb.both([{"create": "a"}], [{"drop": "a"}]),
    "2_b.json": mongodb.both([{"create": "b"}], [{"drop": "b"}, {"drop": "nothing"}]),
}


@pytest.fixture
def shop(postgres18: PostgresEndpoint) -> Iterator[postgres.Shop]:
    with postgres.fresh_shop(postgres18) as shop:
        yield shop


@pytest.fixture
def documents(mongodb: MongoEndpoint, mongo_database: str) -> Iterator[mongodb.Shop]:
    with opened(mongodb, mongo_database) as one:
        yield one


async def test_postgres(shop: postgres.Shop) -> None:
    async def digest() -> str:
        async with (
            await psycopg.AsyncConnection.connect(shop.endpoint.conninfo(shop.database), autocommit=True) as admin,
            open_session(shop.target(), admin, database=shop.database, run_as=shop.run_as, owner=shop.owner) as session,
        ):
            return make_plan(load(SQL), await session.history(), "To", "0").digest

    assert (await shop.up(SQL)).error is None
    first = await digest()
    assert await digest() == first
    result = await shop.do(SQL, "Down")
    assert "division by zero" in str(result.error)
    assert shop.query("SELECT state, direction FROM selvedge.history WHERE key = '2'") == [("Partial", "down")]
    assert await digest() == first, "the rest of what was approved"
    mended = {**SQL, "2_b.sql": SQL["2_b.sql"].replace("SELECT 1 / 0", "SELECT 1")}
    assert (await shop.do(mended, "Down")).error is None
    assert (await shop.up(SQL)).error is None
    assert await digest() != first


_WRITTEN = """
SELECT 'history', key, xmin::text FROM selvedge.history UNION ALL SELECT 'event', id::text, xmin::text
FROM selvedge.events UNION ALL SELECT 'relation', oid::regclass::text, xmin::text FROM pg_class
UNION ALL SELECT 'schema', nspname, xmin::text FROM pg_namespace UNION ALL SELECT 'role', rolname, xmin::text
FROM pg_authid WHERE starts_with(rolname, current_database()) ORDER BY 1, 2
"""


async def test_a_plan_writes_nothing(shop: postgres.Shop) -> None:
    """Not one row of the history, of the catalogue or of the roles was written anew."""

    async def nobody(_: str) -> None:
        raise AssertionError("a plan waits for nobody")

    assert (await shop.up(SQL)).error is None
    more = {**SQL, "3_c.sql": "CREATE TABLE shop.c (id int);"}
    before = shop.query(_WRITTEN)
    for action, target, steps in (("Up", None, 1), ("Down", None, 1), ("To", "0", 2), ("Redo", None, 2)):
        async with (
            await psycopg.AsyncConnection.connect(shop.endpoint.conninfo(shop.database), autocommit=True) as admin,
            open_session(shop.target(), admin, database=shop.database, run_as=shop.run_as, owner=shop.owner) as session,
        ):
            plan = make_plan(load(more), await session.history(), action, target)
            assert len(plan.steps) == steps
            assert await session.preflight(plan.steps, nobody) is None
    assert shop.query(_WRITTEN) == before


async def test_mongodb(documents: mongodb.Shop) -> None:
    async def digest() -> str:
        async with documents.session() as session:
            return make_plan(load(JSON, "MongoDB"), await session.history(), "To", "0", engine="MongoDB").digest

    await documents.ok(JSON)
    first = await digest()
    assert await digest() == first
    result = await documents.run(JSON, "Down")
    assert result.error is not None
    assert await digest() == first, "the rest of what was approved"
    mended = {**JSON, "2_b.json": mongodb.both([{"create": "b"}], [{"drop": "b"}, {"ping": 1}])}
    await documents.ok(mended, "Down")
    await documents.ok(JSON)
    assert await digest() != first
