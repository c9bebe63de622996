"""A plan that is asked to look beforehand names the data migration that forced row-level security will refuse."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from selvedge.engines.postgres import migration_forced
from selvedge.engines.postgres.migrator import open_session
from selvedge.migrate import load, make_plan
from selvedge.migrate.operation import Operation, Source, advice_of, foreseen, prepare
from selvedge.migrate.tokens import Token, tokens
from tests.engines.migrations_support import SERVERS, Shop, fresh_shop, server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sandbox import PostgresEndpoint
    from selvedge.engines.postgres.migrations import PostgresMigrations
    from selvedge.migrate.protocol import Failure

TABLES = "20250101000000_tables.sql"
DATA = "20250102000000_data.sql"
FILES = {
    TABLES: "CREATE TABLE shop.t (id int PRIMARY KEY, note text);\nALTER TABLE shop.t ENABLE ROW LEVEL SECURITY;\n"
    "ALTER TABLE shop.t FORCE ROW LEVEL SECURITY;\nCREATE TABLE shop.free (id int);\n"
    "CREATE TABLE shop.enabled (id int);\nALTER TABLE shop.enabled ENABLE ROW LEVEL SECURITY;\n"
}
REFUSED = [
    "INSERT INTO shop.t VALUES (1)",
    "UPDATE ONLY shop.t SET note = ''",
    'DELETE FROM "shop"."t" WHERE id = 1',
    "WITH x AS (DELETE FROM Shop.T RETURNING *) SELECT count(*) FROM x",
    "MERGE INTO shop.t USING shop.free f ON f.id = t.id WHEN MATCHED THEN UPDATE SET note = ''",
    "COPY shop.t FROM stdin;\n1\tx\n\\.\n",
]
RUNS = [
    "INSERT INTO shop.free VALUES (1)",
    "UPDATE shop.enabled SET id = 2",
    "TRUNCATE shop.t",
    "ALTER TABLE shop.t NO FORCE ROW LEVEL SECURITY; UPDATE shop.t SET note = ''",
    "SET LOCAL row_security = on; UPDATE shop.t SET note = ''",
    "DROP TABLE shop.t; CREATE TABLE shop.t (id int); INSERT INTO shop.t VALUES (1)",
]


@pytest.fixture(params=SERVERS)
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    with fresh_shop(server(request)) as shop:
        yield shop


@asynccontextmanager
async def opened(shop: Shop) -> AsyncIterator[PostgresMigrations]:
    async with (
        await psycopg.AsyncConnection.connect(shop.endpoint.conninfo(shop.database), autocommit=True) as connection,
        open_session(
            shop.target(), connection, database=shop.database, run_as=shop.run_as, owner=shop.owner
        ) as session,
    ):
        yield session


async def preflight(shop: Shop, files: dict[str, str]) -> Failure | None:
    async def ignore(_: str) -> None:
        pass

    async with opened(shop) as session:
        plan = make_plan(load(files), await session.history())
        return await session.preflight(plan.steps, ignore)


async def test_what_is_refused_is_named_beforehand_and_what_is_not_is_not(shop: Shop) -> None:
    assert (await shop.up(FILES)).error is None
    for text in REFUSED:
        files = {**FILES, DATA: f"SELECT 1;\n{text}"}
        failure = await preflight(shop, files)
        assert failure is not None, text
        assert (failure.file, failure.line) == (DATA, 2)
        assert failure.message == (
            f"table shop.t forces row-level security, which applies to role {shop.owner} (ForcedRLSBlocksMigrations)"
        )
        assert "give the migrations' role BYPASSRLS" in failure.hint
        assert (await shop.up(files)).migrations[0].error is not None, "the server does refuse it"
    for text in RUNS:
        assert await preflight(shop, {**FILES, DATA: text}) is None, text
    shop.query(f'ALTER ROLE "{shop.owner}" BYPASSRLS')
    assert await preflight(shop, {**FILES, DATA: REFUSED[0]}) is None
    assert (await shop.up({**FILES, DATA: REFUSED[0]})).error is None


async def test_names_as_they_may_be_written(postgres18: PostgresEndpoint) -> None:
    with fresh_shop(postgres18) as shop:
        for name in ('"Or""der"', "Größe"):
            shop.query(f"CREATE TABLE shop.{name} (id int)")
            shop.query(f"ALTER TABLE shop.{name} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        for name in ('"Or""der"', "GRößE", '"größe"'):
            assert await preflight(shop, {DATA: f"UPDATE shop.{name} SET id = 1;"}) is not None, name


async def test_megabytes_are_looked_through_beside_the_event_loop(
    postgres18: PostgresEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And of their statements only those that may name a table of which rows are filtered."""
    looked: list[tuple[str, bool]] = []

    def look(text: str) -> tuple[Token, ...]:
        looked.append((text, threading.current_thread() is threading.main_thread()))
        return tokens(text)

    with fresh_shop(postgres18) as shop:
        shop.query(
            "CREATE TABLE shop.hidden (id int);"
            "ALTER TABLE shop.hidden ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
        )
        monkeypatch.setattr(migration_forced, "tokens", look)
        text = "UPDATE shop.free SET id = 2;\n" * 500
        failure = await preflight(shop, {DATA: f"{text}UPDATE shop.Hidden SET id = 3;"})
        assert failure is not None
        assert failure.line == 501
        assert looked == [("UPDATE shop.Hidden SET id = 3", False)]


async def test_it_is_advice_in_every_plan(shop: Shop) -> None:
    """Nobody has to ask for it, and no approval is asked for again because of it."""
    assert (await shop.up(FILES)).error is None
    source = Source(load({**FILES, DATA: "UPDATE shop.t SET note = '';"}))
    async with opened(shop) as session:
        plain = await prepare(session, source, Operation())
        told = await foreseen(session, plain)
        assert told.digest == plain.digest
        (first, *_) = advice_of(told, session.server_version)
    assert first.startswith(
        f"warning: would fail: {DATA}, line 1: table shop.t forces row-level security, which applies to role "
        f"{shop.owner} (ForcedRLSBlocksMigrations) in: UPDATE shop.t SET note = ''; the table forces"
    )
    assert not [line for line in advice_of(plain, 18) if "would fail" in line]
