"""What was measured about migrations on Postgres, line by line: what the server does, what the runner makes of it."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import psycopg
import pytest

from selvedge.core.errors import InvalidError, TransientError
from selvedge.core.reasons import Reason
from selvedge.engines.postgres.migrations import LOCK
from selvedge.migrate import MigrationState, Timeouts
from tests.engines.migrations_support import SERVERS, Shop, fresh_shop, server
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

A, B, C = "20250101000000_a.sql", "20250102000000_b.sql", "20250103000000_c.sql"
TABLE = {A: "CREATE TABLE shop.a (id int); INSERT INTO shop.a VALUES (1);"}
BUILD = "CREATE INDEX CONCURRENTLY a_id ON shop.a (id);"


@pytest.fixture(params=SERVERS)
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    with fresh_shop(server(request)) as shop:
        yield shop


def valid(shop: Shop, index: str = "shop.a_id") -> list[tuple[bool, bool]]:
    return shop.query("SELECT indisvalid, indisready FROM pg_index WHERE indexrelid = to_regclass(%s)", index)


def waits(shop: Shop, text: str) -> bool:
    query = (
        "SELECT 1 FROM pg_stat_activity WHERE starts_with(query, %s) AND wait_event_type = 'Lock' "
        "AND datname = current_database()"
    )
    return bool(shop.query(query, text))


# -- the lock and CONCURRENTLY ----------------------------------------------------------------------------------------


async def test_waiting_in_pg_advisory_lock_deadlocks_with_concurrently(shop: Shop) -> None:
    shop.query("CREATE TABLE shop.a (id int)")
    with shop.endpoint.connect(shop.database) as holder, shop.endpoint.connect(shop.database) as waiter:
        holder.execute("SELECT pg_advisory_lock(7)")
        task = asyncio.create_task(asyncio.to_thread(waiter.execute, "SELECT pg_advisory_lock(7)"))
        await until(lambda: waits(shop, "SELECT pg_advisory_lock(7)"))
        errors: list[BaseException] = []
        try:
            await asyncio.to_thread(holder.execute, BUILD)
            holder.execute("SELECT pg_advisory_unlock(7)")
        except psycopg.errors.DeadlockDetected as error:
            errors.append(error)
            holder.execute("SELECT pg_advisory_unlock_all()")
        try:
            await task
        except psycopg.errors.DeadlockDetected as error:
            errors.append(error)
    assert len(errors) == 1, "one of the two is the victim"


async def test_a_runner_that_polls_the_lock_does_not_stop_concurrently(shop: Shop) -> None:
    first, second = Shop(shop.endpoint, shop.database), Shop(shop.endpoint, shop.database)
    files = {**TABLE, B: "SELECT pg_sleep(1);\n" + BUILD}
    one = asyncio.create_task(first.up(files))
    await until(lambda: any(row.version == 20250102000000 and row.state == "Running" for row in first.rows))
    two = asyncio.create_task(second.up(files))
    await until(lambda: any("run of migrations in session" in row.waiting_for for row in second.rows))
    results = [await one, await two]
    assert [result.error for result in results] == [None, None]
    assert [row.state for row in results[1].migrations] == [MigrationState.SKIPPED]
    assert valid(shop) == [(True, True)]


async def test_an_idle_read_committed_holder_does_not_block_concurrently_and_a_repeatable_read_one_does(
    shop: Shop,
) -> None:
    shop.query("CREATE TABLE shop.a (id int)")
    with shop.endpoint.connect(shop.database) as holder:
        holder.execute("BEGIN")
        holder.execute("SELECT pg_advisory_lock(7)")
        await asyncio.to_thread(shop.query, BUILD)
        holder.execute("COMMIT")
        holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT count(*) FROM shop.a")
        task = asyncio.create_task(asyncio.to_thread(shop.query, BUILD.replace("a_id", "a_again")))
        await until(lambda: waits(shop, BUILD[:25]))
        holder.execute("COMMIT")
        await task


# -- indexes that are left behind -------------------------------------------------------------------------------------


async def test_a_build_that_times_out_leaves_an_invalid_index_that_if_not_exists_skips_and_reindex_repairs(
    shop: Shop,
) -> None:
    shop.query("CREATE TABLE shop.a (id int)")
    with shop.endpoint.connect(shop.database) as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO shop.a VALUES (1)")
        with shop.endpoint.connect(shop.database) as builder:
            builder.execute("SET lock_timeout = '300ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                builder.execute(BUILD)
            assert valid(shop) == [(False, False)]
            notices: list[str] = []
            builder.add_notice_handler(lambda diagnostic: notices.append(str(diagnostic.message_primary)))
            builder.execute(BUILD.replace("CONCURRENTLY", "CONCURRENTLY IF NOT EXISTS"))
            assert notices == ['relation "a_id" already exists, skipping']
            assert valid(shop) == [(False, False)]
    shop.query("REINDEX INDEX CONCURRENTLY shop.a_id")
    assert valid(shop) == [(True, True)]


async def test_a_build_whose_session_is_killed_is_invalid_and_the_next_run_builds_it(shop: Shop) -> None:
    assert (await shop.up(TABLE)).error is None
    files = {**TABLE, B: BUILD}
    with shop.endpoint.connect(shop.database) as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO shop.a VALUES (1)")
        task = asyncio.create_task(shop.up(files))
        kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_progress_create_index WHERE relid = 'shop.a'::regclass"
        await until(lambda: shop.query(kill))
        assert isinstance((await task).error, TransientError)
        assert valid(shop) == [(False, False)]
    assert (await shop.up(files)).error is None
    assert valid(shop) == [(True, True)]


async def test_a_build_that_waits_is_not_ended_by_lock_timeout_and_says_for_whom(shop: Shop) -> None:
    assert (await shop.up(TABLE)).error is None
    with shop.endpoint.connect(shop.database, application_name="importer") as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO shop.a VALUES (1)")
        task = asyncio.create_task(shop.up({**TABLE, B: BUILD}, timeouts=Timeouts(lock=0.2)))
        await until(lambda: any("importer" in row.waiting_for for row in shop.rows))
        shown = next(row.waiting_for for row in shop.rows if "importer" in row.waiting_for)
        assert shown.startswith(
            "index build: waiting for writers before build, 1 transactions to wait for, now session"
        )
        writer.execute("COMMIT")
        assert (await task).error is None


async def test_if_not_exists_over_an_invalid_index_builds_it_anew_and_over_a_valid_one_leaves_it(shop: Shop) -> None:
    assert (await shop.up(TABLE)).error is None
    shop.query("INSERT INTO shop.a VALUES (1)")
    with pytest.raises(psycopg.errors.UniqueViolation):
        shop.query("CREATE UNIQUE INDEX CONCURRENTLY a_id ON shop.a (id)")
    shop.query("DELETE FROM shop.a")
    shop.query("CREATE INDEX good ON shop.a (id)")
    good = shop.value("SELECT 'shop.good'::regclass::oid")
    text = BUILD.replace("CONCURRENTLY", "CONCURRENTLY IF NOT EXISTS")
    result = await shop.up({**TABLE, B: text + text.replace("a_id", "good")})
    assert result.error is None, result.error
    assert valid(shop) == [(True, True)]
    assert shop.value("SELECT 'shop.good'::regclass::oid") == good


# -- transactions that a script ends ----------------------------------------------------------------------------------


def test_the_server_only_warns_of_begin_and_commit_inside_a_transaction(shop: Shop) -> None:
    with shop.endpoint.connect(shop.database) as connection:
        notices: list[str] = []
        connection.add_notice_handler(lambda diagnostic: notices.append(str(diagnostic.severity)))
        for text in ("BEGIN", "BEGIN", "CREATE TABLE shop.a (id int)", "COMMIT"):
            connection.execute(text)
        assert notices == ["WARNING"]
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE shop.b (id int)")
        connection.execute("COMMIT")
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 1 / 0")
    assert shop.tables() == ["a", "b"]


@pytest.mark.parametrize(
    "text",
    [
        "CREATE TABLE shop.a ();\nCOMMIT;\nCREATE TABLE shop.b ();\nSELECT 1 / 0;",
        "BEGIN;\nCREATE TABLE shop.a ();\nCOMMIT;\nBEGIN;\nCREATE TABLE shop.b ();\nCOMMIT;",
        "CREATE TABLE shop.a ();\nBEGIN;",
        "BEGIN;\nCREATE TABLE shop.a ();",
    ],
    ids=["inner", "two", "lone begin", "never closed"],
)
async def test_transaction_control_inside_a_migration_is_refused_before_anything_runs(shop: Shop, text: str) -> None:
    with pytest.raises(InvalidError, match="would end the transaction that keeps the migration whole") as error:
        await shop.up({A: text})
    assert error.value.reason is Reason.INVALID_MIGRATION
    assert shop.tables() == []


@pytest.mark.parametrize("close", ["COMMIT", "END TRANSACTION"])
async def test_one_envelope_is_stripped_and_the_migration_stays_whole(shop: Shop, close: str) -> None:
    text = "-- head\nBEGIN;\nCREATE TABLE shop.a (id int);\n{}\n" + close + ";\n"
    result = await shop.up({A: text.format("SELECT 1 / 0;")})
    assert result.migrations[0].error is not None
    assert result.migrations[0].error.line == 4
    assert shop.tables() == []
    assert (await shop.up({A: text.format("SELECT 1;")})).error is None


async def test_envelopes_do_not_end_the_one_transaction_of_all(shop: Shop) -> None:
    files = {A: "BEGIN;\nCREATE TABLE shop.a (id int);\nCOMMIT;", B: "BEGIN;\nCREATE TABLE shop.b (id int);\nCOMMIT;"}
    assert (await shop.up({**files, C: "SELECT 1 / 0;"}, running={"transaction": "All"})).error is not None
    assert (shop.tables(), shop.history()) == ([], [])
    assert (await shop.up(files, running={"transaction": "All"})).error is None
    assert shop.tables() == ["a", "b"]


async def test_all_with_concurrently_is_refused_as_the_server_would(shop: Shop) -> None:
    with shop.endpoint.connect(shop.database) as connection:
        connection.execute("CREATE TABLE shop.x (id int)")
        connection.execute("BEGIN")
        with pytest.raises(psycopg.errors.ActiveSqlTransaction):
            connection.execute(BUILD.replace("shop.a", "shop.x"))
    with pytest.raises(InvalidError, match=f"{B} runs without a transaction"):
        await shop.up({**TABLE, B: BUILD}, running={"transaction": "All"})


# -- enum values, locks -----------------------------------------------------------------------------------------------


async def test_a_new_enum_value_in_its_own_transaction(shop: Shop) -> None:
    files = {A: "CREATE TYPE shop.kind AS ENUM ('old');", B: "ALTER TYPE shop.kind ADD VALUE 'new';"}
    used = {**files, B: files[B] + "\nSELECT 'new'::shop.kind;"}
    result = await shop.up(used)
    assert result.migrations[1].error is not None
    assert (result.migrations[1].error.sqlstate, result.migrations[1].error.line) == ("55P04", 2)
    assert "next migration" in result.migrations[1].error.hint
    later = {**files, C: "SELECT 'new'::shop.kind;"}
    with pytest.raises(InvalidError, match=f"{C}, line 1 uses the enum value 'new' that {B}, line 1 adds"):
        await shop.up(later, running={"transaction": "All"})
    assert (await shop.up(later)).error is None


async def test_a_migration_behind_a_reader_gives_up_and_is_tried_again_whole(shop: Shop) -> None:
    assert (await shop.up(TABLE)).error is None
    files = {**TABLE, B: "CREATE TABLE shop.once (id int); ALTER TABLE shop.a ADD COLUMN x int;"}
    with shop.endpoint.connect(shop.database, application_name="report") as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM shop.a")
        task = asyncio.create_task(shop.up(files, timeouts=Timeouts(lock=1.2, lock_wait=60)))
        await until(lambda: any("lock held by session" in row.waiting_for for row in shop.rows))
        assert any("report" in row.waiting_for for row in shop.rows)
        await until(
            lambda: any(row.done == 0 and row.waiting_for and row.version == 20250102000000 for row in shop.rows)
        )
        reader.execute("COMMIT")
        assert (await task).error is None
    assert shop.tables() == ["a", "once"]


# -- sessions that a script leaves behind -----------------------------------------------------------------------------


async def test_the_search_path_of_pg_dump_reaches_neither_the_history_nor_the_next_migration(shop: Shop) -> None:
    with shop.endpoint.connect(shop.database) as connection:
        connection.execute("CREATE TABLE public.history (version int)")
        connection.execute("SELECT pg_catalog.set_config('search_path', '', false)")
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("INSERT INTO history VALUES (1)")
    files = {
        A: "SELECT pg_catalog.set_config('search_path', '', false);\nSET check_function_bodies = false;\n"
        "SET lock_timeout = '1ms';\nCREATE TABLE shop.a (id int);",
        B: "SET search_path = shop;\nSELECT 1 / (current_setting('check_function_bodies') = 'on')::int;\n"
        "CREATE TABLE b (id int);",
        C: "SELECT 1 / (current_setting('search_path') <> 'shop')::int;",
    }
    result = await shop.up(files)
    assert result.error is None, result.error
    assert len(shop.history()) == 3


# -- statements one by one --------------------------------------------------------------------------------------------


async def test_several_concurrently_in_one_file_run_although_one_string_could_not(shop: Shop) -> None:
    assert (await shop.up(TABLE)).error is None
    both = BUILD + "\n" + BUILD.replace("a_id", "a_two")
    with shop.endpoint.connect(shop.database) as connection, pytest.raises(psycopg.errors.ActiveSqlTransaction):
        connection.execute(both)
    result = await shop.up({**TABLE, B: both})
    assert result.error is None
    assert (valid(shop), valid(shop, "shop.a_two")) == ([(True, True)], [(True, True)])


async def test_an_error_at_run_time_names_statement_and_line_although_the_server_gives_no_position(shop: Shop) -> None:
    with shop.endpoint.connect(shop.database) as connection:
        with pytest.raises(psycopg.errors.DivisionByZero) as error:
            connection.execute("SELECT 1; SELECT 1 / 0; SELECT 2")
        assert error.value.diag.statement_position is None
        with pytest.raises(psycopg.errors.SyntaxError) as syntax:
            connection.execute("SELECT 1; SELEC 2")
        assert syntax.value.diag.statement_position == "11"
    result = await shop.up({A: "SELECT 1;\n\nSELECT\n  1 / 0;\nSELECT 2;"})
    failure = result.migrations[0].error
    assert failure is not None
    assert (failure.line, failure.statement, failure.sqlstate) == (3, "SELECT 1 / 0", "22012")
    result = await shop.up({A: "SELECT 1;\nSELECT 1,\n  nope;"})
    failure = result.migrations[0].error
    assert failure is not None
    assert failure.line == 3, "where the server gives a position, the line is that of the mistake"


async def test_the_data_of_copy_from_stdin(shop: Shop) -> None:
    with shop.endpoint.connect(shop.database) as connection:
        connection.execute("CREATE TABLE shop.x (id int)")
        with pytest.raises(psycopg.ProgrammingError, match="COPY"):
            connection.execute("COPY shop.x FROM stdin")
        connection.close()
    files = {A: "CREATE TABLE shop.a (id int);\nCOPY shop.a FROM stdin;\n1\n2\n\\.\nINSERT INTO shop.a VALUES (3);"}
    assert (await shop.up(files)).error is None
    assert shop.value("SELECT sum(id) FROM shop.a") == 6


# -- the pooler test, whose other half is test_migrations_pooler.py ---------------------------------------------------


def test_on_a_direct_connection_both_process_ids_are_equal(shop: Shop) -> None:
    with shop.endpoint.connect(shop.database) as connection:
        row = connection.execute("SELECT pg_backend_pid()").fetchone()
        assert row == (connection.info.backend_pid,)


async def test_the_lock_belongs_to_one_session_and_goes_with_it(shop: Shop) -> None:
    with shop.endpoint.connect(shop.database) as holder:
        holder.execute("SELECT pg_advisory_lock(%s, %s)", LOCK)
        timer = threading.Timer(1, holder.close)
        timer.start()
        assert (await shop.up(TABLE, timeouts=Timeouts(lock_wait=30))).error is None
        timer.join()
    assert any("run of migrations in session" in row.waiting_for for row in shop.rows)
    with shop.endpoint.connect(shop.database) as holder:
        holder.execute("SELECT pg_advisory_lock(%s, %s)", LOCK)
        result = await shop.up({**TABLE, B: BUILD}, timeouts=Timeouts(lock_wait=0.5))
    assert isinstance(result.error, TransientError)
    assert result.error.reason is Reason.WAITING_FOR_LOCK
