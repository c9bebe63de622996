"""All migrations of a run in one transaction, and hooks around them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from selvedge.core.errors import InvalidError
from selvedge.migrate import MigrationState, Timeouts
from tests.engines.migrations_support import SERVERS, Shop, fresh_shop, server
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

A, B, C = "20250101000000_a.sql", "20250102000000_b.sql", "20250103000000_c.sql"
VERSIONS = {name: name[:14] for name in (A, B, C)}
FILES = {
    A: "-- migrate:up\nCREATE TABLE shop.a (id int);\n-- migrate:down\nDROP TABLE shop.a;\n",
    B: "-- migrate:up\nCREATE TABLE shop.b (id int);\nINSERT INTO shop.b SELECT generate_series(1, 100);\n"
    "-- migrate:down\nDROP TABLE shop.b;\n",
    C: "-- migrate:up\nCREATE INDEX CONCURRENTLY b_id ON shop.b (id);\nCREATE TABLE shop.c (id int);\n"
    "-- migrate:down\nDROP TABLE shop.c;\nDROP INDEX CONCURRENTLY shop.b_id;\n",
}


@pytest.fixture(params=SERVERS)
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    with fresh_shop(server(request)) as shop:
        yield shop


async def test_all_in_one_transaction(shop: Shop) -> None:
    files = {
        A: "CREATE TABLE shop.a (id int PRIMARY KEY); SET search_path = shop; CREATE TEMP TABLE t (x int);\n"
        "CREATE TABLE shop.r (id int REFERENCES shop.a DEFERRABLE INITIALLY DEFERRED);\n"
        "INSERT INTO r VALUES (1); INSERT INTO a VALUES (1);",
        B: "CREATE TEMP TABLE t (y int); INSERT INTO shop.r VALUES (2); INSERT INTO shop.a VALUES (2);\n"
        "SELECT 1 / (current_setting('search_path') = '\"$user\", public')::int;\n"
        "SELECT 1 / (current_user <> session_user)::int;",
    }
    broken = {**files, C: "SELECT 1;\nSELECT 1 / 0;"}
    result = await shop.up(broken, running={"transaction": "All"})
    assert isinstance(result.error, InvalidError), result.error
    assert [row.state for row in result.migrations] == [MigrationState.PENDING] * 2 + [MigrationState.FAILED]
    assert result.migrations[2].error is not None
    assert result.migrations[2].error.line == 2
    assert (shop.tables(), shop.history()) == ([], [])
    result = await shop.up(files, running={"transaction": "All"})
    assert result.error is None, result.error
    assert shop.query("SELECT DISTINCT xmin::text, transaction_mode FROM selvedge.history") == [
        (shop.value("SELECT xmin::text FROM selvedge.history LIMIT 1"), "All")
    ]
    assert shop.value("SELECT count(*) FROM shop.r") == 2


async def test_all_in_one_names_the_migration_whose_deferred_constraint_fails(shop: Shop) -> None:
    files = {
        A: "CREATE TABLE shop.a (id int PRIMARY KEY);\n"
        "CREATE TABLE shop.r (id int REFERENCES shop.a DEFERRABLE INITIALLY DEFERRED);",
        B: "INSERT INTO shop.r VALUES (2);",
        C: "SELECT 1;",
    }
    result = await shop.up(files, running={"transaction": "All"})
    assert result.migrations[1].error is not None
    assert result.migrations[1].error.sqlstate == "23503"
    assert shop.tables() == []


async def test_all_in_one_is_refused_before_anything_runs(shop: Shop) -> None:
    with pytest.raises(InvalidError, match=f"{C} runs without a transaction"):
        await shop.up(FILES, running={"transaction": "All"})
    assert shop.value("SELECT to_regclass('selvedge.history')") is None


async def test_all_in_one_waits_for_a_lock_and_runs_everything_again(shop: Shop) -> None:
    assert (await shop.up({A: FILES[A]})).error is None
    files = {A: FILES[A], B: FILES[B], C: "ALTER TABLE shop.a ADD COLUMN x int;"}
    with shop.endpoint.connect(shop.database) as holder:
        holder.execute("BEGIN")
        holder.execute("SELECT * FROM shop.a")
        limits = Timeouts(lock=0.3, lock_wait=30)
        task = asyncio.create_task(shop.up(files, timeouts=limits, running={"transaction": "All"}))
        await until(lambda: any("55P03" in row.waiting_for for row in shop.rows), task)
        holder.execute("COMMIT")
    result = await task
    assert result.error is None, result.error
    assert shop.value("SELECT count(*) FROM shop.b") == 100


async def test_all_down_in_one_transaction(shop: Shop) -> None:
    files = {A: FILES[A], B: FILES[B]}
    assert (await shop.up(files)).error is None
    result = await shop.do(files, "To", "0", running={"transaction": "All"})
    assert result.error is None
    assert (shop.tables(), shop.history()) == ([], [])
    assert len(shop.query("SELECT DISTINCT xmin::text FROM selvedge.events WHERE event = 'Undone'")) == 1


HOOKS = {
    "beforeRun.sql": "CREATE TABLE IF NOT EXISTS shop.log (n int GENERATED ALWAYS AS IDENTITY, what text);\n"
    "INSERT INTO shop.log (what) VALUES ('beforeRun ' || current_user);",
    "beforeEach.sql": "INSERT INTO shop.log (what) VALUES ('beforeEach');",
    "afterEach.sql": "INSERT INTO shop.log (what) VALUES ('afterEach');",
    "afterRun.sql": "INSERT INTO shop.log (what) VALUES ('afterRun');",
}


@pytest.mark.parametrize("mode", ["PerMigration", "All"])
async def test_hooks(shop: Shop, mode: str) -> None:
    files = {**HOOKS, A: "INSERT INTO shop.log (what) VALUES ('a');", B: "INSERT INTO shop.log (what) VALUES ('b');"}
    result = await shop.up(files, running={"transaction": mode})
    assert result.error is None, result.error
    each = [["beforeEach", name, "afterEach"] for name in "ab"]
    expected = [f"beforeRun {shop.owner}", *each[0], *each[1], "afterRun"]
    assert [row[0] for row in shop.query("SELECT what FROM shop.log ORDER BY n")] == expected
    assert shop.history() == [VERSIONS[A], VERSIONS[B]]
    assert (await shop.up(files)).error is None
    assert shop.value("SELECT count(*) FROM shop.log") == 8, "nothing to do, so no hook either"


async def test_hooks_around_a_migration_without_a_transaction(shop: Shop) -> None:
    files = {**HOOKS, A: "INSERT INTO shop.log (what) VALUES ('a');\nCREATE INDEX CONCURRENTLY i ON shop.log (n);"}
    assert (await shop.up(files)).error is None
    log = [row[0] for row in shop.query("SELECT what FROM shop.log ORDER BY n")]
    assert log[1:] == ["beforeEach", "a", "afterEach", "afterRun"]


async def test_a_hook_that_fails(shop: Shop) -> None:
    files = {A: FILES[A], "afterEach.sql": "SELECT 1;\nSELECT 1 / 0;"}
    result = await shop.up(files)
    assert result.migrations[0].error is not None
    assert (result.migrations[0].error.file, result.migrations[0].error.line) == ("afterEach.sql", 2)
    assert shop.tables() == []
    result = await shop.up({A: FILES[A], "beforeRun.sql": "SELECT nope;"})
    assert result.error is not None
    assert result.error.message.startswith("beforeRun.sql, line 1: ")
    assert shop.tables() == []


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("SELECT count(*) = 2 FROM shop.a", "the verification says f, and only true is good"),
        ("SELECT true FROM shop.a WHERE false", "the verification says no row"),
        ("SELECT null", "the verification says null"),
        ("WITH x AS (INSERT INTO shop.a VALUES (7) RETURNING 1) SELECT true FROM x", "read-only transaction"),
        ("SELECT nope", 'column "nope" does not exist'),
    ],
)
async def test_a_verification_that_fails_takes_the_migration_back(shop: Shop, query: str, why: str) -> None:
    text = "CREATE TABLE shop.a (id int);\nINSERT INTO shop.a VALUES (1);"
    good = f"-- verify: SELECT count(*) = 1 FROM shop.a\n-- verify: SELECT current_user = '{shop.owner}'\n"
    result = await shop.up({A: f"{good}-- verify: {query}\n{text}"})
    assert result.migrations[0].error is not None
    assert why in result.migrations[0].error.message
    assert query[:20] in result.migrations[0].error.statement
    assert (shop.tables(), shop.history()) == ([], [])
    assert (await shop.up({A: good + text}, running={"transaction": "All"})).error is None


async def test_a_verification_of_what_runs_without_a_transaction(shop: Shop) -> None:
    valid = "-- verify: SELECT indisvalid FROM pg_index WHERE indexrelid = 'shop.i'::regclass\n"
    text = "CREATE TABLE shop.a (id int);\nCREATE INDEX CONCURRENTLY i ON shop.a (id);"
    result = await shop.up({A: valid + "-- verify: SELECT false\n" + text})
    assert result.migrations[0].error is not None
    assert shop.query("SELECT state, statements_done FROM selvedge.history") == [("Partial", 1)]
    result = await shop.up({A: valid + text})
    assert result.error is None, result.error


async def test_what_is_no_query_is_no_verification(shop: Shop) -> None:
    with pytest.raises(InvalidError, match="is not one query"):
        await shop.up({A: "-- verify: SELECT 1; SELECT 2\nSELECT 1;"})
    assert (await shop.up({A: "-- verify: that the table is there\nSELECT 1;"})).error is None
