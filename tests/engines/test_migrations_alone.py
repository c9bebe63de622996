"""``-- transaction: false``: procedures that commit by themselves, and what some tables forbid in a transaction."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from selvedge.core.errors import InvalidError, TransientError
from selvedge.core.reasons import Reason
from selvedge.engines.postgres.migration_ledger import fingerprint
from selvedge.migrate import MigrationState, load
from tests.engines.migrations_support import SERVERS, Shop, fresh_shop, server
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox import PostgresEndpoint

NAME = "20250102000000_call.sql"
PROCEDURE = """
CREATE TABLE shop.log (n int, at bigint);
CREATE PROCEDURE shop.fill(upto int) LANGUAGE plpgsql AS $$
BEGIN
  FOR i IN 1..upto LOOP
    INSERT INTO shop.log VALUES (i, txid_current());
    COMMIT;
    PERFORM 1 / (4 - i);
  END LOOP;
END $$;
CREATE TABLE shop.parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE shop.part PARTITION OF shop.parts DEFAULT;
"""
SLEEPING = "DO $$ BEGIN COMMIT; PERFORM pg_sleep(60); END $$;"
FILES = {"20250101000000_procedure.sql": PROCEDURE}


@pytest.fixture(params=SERVERS)
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    with fresh_shop(server(request)) as shop:
        yield shop


@pytest.fixture
def newest(postgres18: PostgresEndpoint) -> Iterator[Shop]:
    with fresh_shop(postgres18) as shop:
        yield shop


async def cut(shop: Shop, files: dict[str, str]) -> None:
    """Run these, and take the connection away as soon as something sleeps."""
    running = asyncio.create_task(shop.up(files))
    query = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event = 'PgSleep'"
    )
    await until(lambda: shop.query(query), running)
    result = await running
    assert isinstance(result.error, TransientError), result.error


def partial(shop: Shop) -> list[tuple[object, ...]]:
    return shop.query("SELECT state, statements_done, started FROM selvedge.history WHERE version = 20250102000000")


@pytest.mark.parametrize(
    "call",
    [
        "CALL shop.fill(3)",
        "DO $$ BEGIN FOR i IN 1..3 LOOP INSERT INTO shop.log VALUES (i, txid_current()); COMMIT; END LOOP; END $$",
        "DO $$ BEGIN CALL shop.fill(3); END $$",
    ],
)
async def test_a_procedure_that_commits(shop: Shop, call: str) -> None:
    result = await shop.up({**FILES, NAME: f"{call};"})
    assert result.error is not None
    assert "invalid transaction termination (2D000)" in result.error.message
    assert "-- transaction: false" in result.error.message
    result = await shop.up({**FILES, NAME: f"-- transaction: false\n{call};\nINSERT INTO shop.log VALUES (9, 0);"})
    assert result.error is None, result.error
    assert shop.value("SELECT count(DISTINCT at) FROM shop.log WHERE n < 9") == 3
    assert partial(shop) == [("Applied", 2, False)]
    assert shop.query("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'shop'") == [(shop.owner,)]


@pytest.mark.parametrize(
    "statement",
    ["REINDEX TABLE shop.parts", "REINDEX INDEX shop.parts_pkey", "CLUSTER shop.parts USING parts_pkey"],
)
async def test_what_a_partitioned_table_forbids(shop: Shop, statement: str) -> None:
    result = await shop.up({**FILES, NAME: f"{statement};"})
    assert result.error is not None
    assert "(25001)" in result.error.message
    result = await shop.up({**FILES, NAME: f"-- transaction: false\n{statement};"})
    assert result.error is None, result.error


async def test_a_block_that_commits_nothing_is_still_one_with_its_cursor(shop: Shop) -> None:
    text = "-- transaction: false\nDO $$ BEGIN INSERT INTO shop.log VALUES (1, txid_current()); END $$;"
    assert (await shop.up({**FILES, NAME: text})).error is None
    query = "SELECT count(*) FROM shop.log l, selvedge.history h WHERE h.xmin = l.xmin"
    assert shop.value(query) == 1, "the block and the history's row are one transaction"


async def test_a_procedure_that_fails_is_not_called_again_by_itself(shop: Shop) -> None:
    text = "-- transaction: false\nCALL shop.fill({});\nINSERT INTO shop.log VALUES (9, 0);"
    result = await shop.up({**FILES, NAME: text.format(5)})
    row = result.migrations[-1]
    assert row.state is MigrationState.FAILED
    assert row.error is not None
    assert (row.error.line, row.error.sqlstate) == (2, "22012")
    assert row.error.hint == "what it committed before stays: see to it that it may be called again, then run Up"
    assert shop.query("SELECT n FROM shop.log ORDER BY n") == [(1,), (2,), (3,), (4,)]
    assert partial(shop) == [("Partial", 0, False)]
    assert (await shop.up({**FILES, NAME: text.format(2)})).error is None


async def test_a_procedure_that_waits_in_vain_for_a_lock_is_not_called_again_by_itself(shop: Shop) -> None:
    body = "CREATE PROCEDURE shop.two() LANGUAGE sql AS 'INSERT INTO shop.log VALUES (1, 0)';"
    text = "-- transaction: false\n-- lock-timeout: 100ms\nDO $$ BEGIN {} COMMIT; {} END $$;"
    first = "INSERT INTO shop.log VALUES (1, 0);"
    blocked = "LOCK TABLE shop.part;"
    files = {"20250101000000_procedure.sql": PROCEDURE + body, NAME: text.format(first, blocked)}
    assert (await shop.up({"20250101000000_procedure.sql": files["20250101000000_procedure.sql"]})).error is None
    with shop.endpoint.connect(shop.database) as other, other.transaction():
        other.execute("LOCK TABLE shop.part")
        result = await shop.up(files)
    assert result.error is not None
    assert "(55P03)" in result.error.message
    assert shop.value("SELECT count(*) FROM shop.log") == 1


async def test_nobody_knows_whether_a_procedure_ended_whose_answer_was_lost(shop: Shop) -> None:
    """It is not called again before somebody looked; a statement that was changed since is another one."""
    text = "-- transaction: false\nINSERT INTO shop.log VALUES (8, 0);\nCALL shop.fill(3);\n{}"
    files = {**FILES, NAME: text.format(SLEEPING)}
    await cut(shop, files)
    assert partial(shop) == [("Partial", 2, True)]
    with pytest.raises(InvalidError) as raised:
        await retried(shop, files)
    assert raised.value.reason is Reason.PARTLY_APPLIED
    assert str(raised.value) == (
        f"{NAME}, line 4: DO was sent and its answer was lost; what it committed stays, and nobody can tell whether it "
        "ended: look, then remove the statement from the file if it did (leave a comment where it was the only one), "
        "or change its text (a space will do) to run it again"
    )
    changed = text.format("DO $$ BEGIN INSERT INTO shop.log VALUES (7, 0); COMMIT; END $$;")
    assert (await shop.up({**FILES, NAME: changed})).error is None
    assert shop.query("SELECT n FROM shop.log ORDER BY n") == [(1,), (2,), (3,), (7,), (8,)]


async def test_a_procedure_is_removed_from_the_file_where_it_did_end(shop: Shop) -> None:
    text = "-- transaction: false\nINSERT INTO shop.log VALUES (8, 0);\n"
    await cut(shop, {**FILES, NAME: text + SLEEPING})
    assert partial(shop) == [("Partial", 1, True)]
    assert (await shop.up({**FILES, NAME: text})).error is None
    assert partial(shop) == [("Applied", 1, False)]


@pytest.mark.parametrize("text", ["-- migrate:up transaction:false\n{}\n-- migrate:down\nSELECT 1;\n", "{}"])
async def test_a_comment_stands_where_the_only_statement_did_end(newest: Shop, text: str) -> None:
    await cut(newest, {**FILES, NAME: f"-- transaction: false\n{text.format(SLEEPING)}"})
    assert partial(newest) == [("Partial", 0, True)]
    assert (await newest.up({**FILES, NAME: text.format("-- was run")})).error is None
    assert partial(newest) == [("Applied", 0, False)]


CALL = "-- transaction: false\n{}INSERT INTO shop.log VALUES (8, 0);\nCALL shop.fill(3);\n"
EACH = "afterEach.sql"


async def _once(shop: Shop, files: dict[str, str]) -> None:
    """The next run ends what is left, and calls nothing twice."""
    assert partial(shop) == [("Partial", 2, False)]
    assert (await shop.up(files)).error is None
    assert partial(shop) == [("Applied", 2, False)]
    assert shop.query("SELECT n FROM shop.log ORDER BY n") == [(1,), (2,), (3,), (8,)]


async def test_a_procedure_that_ended_while_the_run_was_to_stop(newest: Shop) -> None:
    shop = newest
    asked = asyncio.Event()
    body = "CREATE PROCEDURE shop.slow() LANGUAGE plpgsql AS $$ BEGIN CALL shop.fill(3); PERFORM pg_sleep(2); END $$;"
    files = {"20250101000000_procedure.sql": PROCEDURE + body, NAME: CALL.format("").replace("fill(3)", "slow()")}
    files[EACH] = "SELECT 1;"
    running = asyncio.create_task(shop.do(files, "Up", stop=asked))
    query = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    await until(lambda: shop.query(query), running)
    asked.set()
    assert (await running).stopped
    await _once(shop, files)


async def test_a_procedure_that_ended_before_a_hook_waited_in_vain_for_a_lock(newest: Shop) -> None:
    shop = newest
    files = {**FILES, NAME: CALL.format("-- lock-timeout: 100ms\n")}
    assert (await shop.up(FILES)).error is None
    hooked = {**files, EACH: "LOCK TABLE shop.part;"}
    with shop.endpoint.connect(shop.database) as other, other.transaction():
        other.execute("LOCK TABLE shop.part")
        running = asyncio.create_task(shop.up(hooked))
        await until(lambda: any(row.waiting_for for row in shop.rows), running)
        assert partial(shop) == [("Partial", 2, False)]
    result = await running
    assert result.error is None, result.error
    assert partial(shop) == [("Applied", 2, False)]
    assert shop.query("SELECT n FROM shop.log ORDER BY n") == [(1,), (2,), (3,), (8,)]


async def test_a_procedure_that_ended_before_a_verification_said_no(newest: Shop) -> None:
    shop = newest
    files = {**FILES, NAME: CALL.format("-- verify: SELECT count(*) = 5 FROM shop.log\n")}
    for _ in range(2):
        result = await shop.up(files)
        assert result.error is not None
        assert "the verification says f" in result.error.message
    await _once(shop, {**FILES, NAME: CALL.format("-- verify: SELECT count(*) = 4 FROM shop.log\n")})


async def retried(shop: Shop, files: dict[str, str]) -> None:
    result = await shop.up(files)
    if result.error is not None:
        raise result.error


async def test_the_cursor_knows_which_statement_was_sent(shop: Shop) -> None:
    """An index that is there is the work of the statement that was sent, and not of another in its place."""
    text = "CREATE TABLE shop.t (a int, b int);\nCREATE INDEX CONCURRENTLY t_i ON shop.t ({});"
    files = {NAME: text.format("a")}
    assert (await shop.up(files)).error is None
    (migration,) = load(files)
    first, second = migration.script.statements
    shop.query(
        "UPDATE selvedge.history SET state = 'Partial', statements_done = 1, started = true, cursor_hash = %s",
        f"{fingerprint([first])}+{fingerprint([second])}",
    )
    result = await shop.up({NAME: text.format("b")})
    assert result.error is not None
    assert 'relation "t_i" already exists (42P07)' in result.error.message
    shop.query(
        "UPDATE selvedge.history SET started = true, cursor_hash = %s",
        f"{fingerprint([first])}+{fingerprint([second])}",
    )
    assert (await shop.up(files)).error is None, "as it was sent, it is done"
    assert partial(shop) == [("Applied", 2, False)]
