"""Up on real servers: what runs, what is written down, and what a failure leaves behind."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from selvedge.core.errors import InvalidError, TransientError
from selvedge.core.reasons import Reason
from selvedge.migrate import MigrationState, Timeouts
from tests.engines.migrations_support import Shop
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox import PostgresEndpoint

USERS = "20250101000000_users.sql"
DESIGNS = "20250201000000_designs.sql"
FILES = {
    USERS: "-- migrate:up\nCREATE TABLE shop.users (id int PRIMARY KEY);\n-- migrate:down\nDROP TABLE shop.users;\n",
    DESIGNS: "CREATE TABLE shop.designs (id int, owner int);\n"
    "INSERT INTO shop.designs SELECT g, g FROM generate_series(1, 10) g;\n",
}
INDEX = "20250301000000_index.sql"
#: Of this test's database: another test's migrations sleep too.
SLEEPING = "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND datname = current_database()"
INDEX_FILES = {**FILES, INDEX: "CREATE INDEX CONCURRENTLY designs_owner ON shop.designs (owner);\n"}


@pytest.fixture
def shop(postgres: PostgresEndpoint, database: str) -> Iterator[Shop]:
    shop = Shop(postgres, database)
    shop.create()
    return shop


async def test_up_applies_and_writes_the_history(shop: Shop) -> None:
    result = await shop.up(FILES)
    assert result.error is None
    assert [row.state for row in result.migrations] == [MigrationState.APPLIED] * 2
    assert result.migrations[1].statements == "2/2"
    rows = shop.query(
        "SELECT version::text, name, state, up_text, down_text, applied_by, run_uid, transaction_mode "
        "FROM selvedge.history ORDER BY 1"
    )
    assert [row[:3] for row in rows] == [
        ("20250101000000", "users", "Applied"),
        ("20250201000000", "designs", "Applied"),
    ]
    assert rows[0][3:] == (
        "\nCREATE TABLE shop.users (id int PRIMARY KEY);\n",
        "\nDROP TABLE shop.users;",
        shop.login,
        "run-uid",
        "PerMigration",
    )
    assert shop.value("SELECT tableowner FROM pg_tables WHERE tablename = 'users'") == shop.owner
    assert shop.query("SELECT event FROM selvedge.events ORDER BY id") == [("Applied",), ("Applied",)]


async def test_a_second_run_has_nothing_to_do(shop: Shop) -> None:
    await shop.up(FILES)
    before = shop.query("SELECT version, applied_at FROM selvedge.history")
    result = await shop.up(FILES)
    assert result.migrations == ()
    assert shop.query("SELECT version, applied_at FROM selvedge.history") == before


async def test_after_the_run_nobody_can_log_in_as_the_migrator(shop: Shop) -> None:
    await shop.up(FILES)
    row = shop.query(
        "SELECT rolcanlogin, rolsuper, rolcreaterole, rolinherit, rolpassword FROM pg_authid WHERE rolname = %s",
        shop.login,
    )
    assert row == [(False, False, False, False, None)]


async def test_statement_3_of_5_fails(shop: Shop) -> None:
    files = {
        USERS: "CREATE TABLE shop.a (id int);\nINSERT INTO shop.a VALUES (1);\n\nINSERT INTO shop.a\n  VALUES (nope);\n"
        "INSERT INTO shop.a VALUES (2);\nDROP TABLE shop.a;\n"
    }
    result = await shop.up(files)
    row = result.migrations[0]
    assert row.state is MigrationState.FAILED
    assert row.statements == "2/5"
    assert row.error is not None
    assert (row.error.file, row.error.line, row.error.sqlstate) == (USERS, 5, "42703")
    assert row.error.statement == "INSERT INTO shop.a VALUES (nope)"
    assert isinstance(result.error, InvalidError)
    assert result.error.reason is Reason.STATEMENT_FAILED
    assert str(result.error).startswith(f'{USERS}, line 5: column "nope" does not exist (42703) in: INSERT INTO shop.a')
    assert shop.value("SELECT to_regclass('shop.a')") is None
    assert shop.query("SELECT version FROM selvedge.history") == []


async def test_changed_after_it_ran(shop: Shop) -> None:
    await shop.up(FILES)
    with pytest.raises(InvalidError, match=f"{DESIGNS} changed after it ran: put the old text back") as error:
        await shop.up({**FILES, DESIGNS: FILES[DESIGNS] + "-- more\n"})
    assert error.value.reason is Reason.CHECKSUM_MISMATCH


async def test_another_line_end_is_no_change(shop: Shop) -> None:
    await shop.up(FILES)
    assert (await shop.up({name: "\ufeff" + text.replace("\n", "\r\n") for name, text in FILES.items()})).error is None


async def test_concurrent_index_with_other_statements(shop: Shop) -> None:
    files = {
        **INDEX_FILES,
        "20250302000000_more.sql": "INSERT INTO shop.users VALUES (1);\nSET search_path = shop;\n"
        'CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS "Odd name" ON designs (id);\n'
        "DROP INDEX CONCURRENTLY shop.designs_owner;\nINSERT INTO users VALUES (2);\n",
    }
    result = await shop.up(files)
    assert result.error is None, result.error
    assert shop.query(
        "SELECT relname FROM pg_class WHERE relkind = 'i' AND relnamespace = 'shop'::regnamespace ORDER BY 1"
    ) == [
        ("Odd name",),
        ("users_pkey",),
    ]
    assert shop.value("SELECT count(*) FROM shop.users") == 2
    assert shop.query("SELECT transaction_mode, state, started FROM selvedge.history ORDER BY version")[-1] == (
        "None",
        "Applied",
        False,
    )


async def test_a_failed_unique_build_leaves_no_index_and_goes_on_after_it_was_mended(shop: Shop) -> None:
    files = {
        **FILES,
        INDEX: "INSERT INTO shop.designs VALUES (1, 1);\n"
        "CREATE UNIQUE INDEX CONCURRENTLY designs_id ON shop.designs (id);\n",
    }
    result = await shop.up(files)
    assert result.migrations[2].error is not None
    assert result.migrations[2].error.sqlstate == "23505"
    assert shop.value("SELECT count(*) FROM pg_class WHERE relname = 'designs_id'") == 0
    assert shop.query("SELECT state, statements_done FROM selvedge.history WHERE version = 20250301000000") == [
        ("Partial", 1)
    ]
    mended = files[INDEX].replace("CREATE UNIQUE", "DELETE FROM shop.designs WHERE id = 1;\nCREATE UNIQUE")
    result = await shop.up({**files, INDEX: mended})
    assert result.error is None, result.error
    assert shop.value("SELECT count(*) FROM shop.designs WHERE id = 1") == 0
    assert shop.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'shop.designs_id'::regclass")


async def test_what_is_done_of_a_partial_migration_must_not_change(shop: Shop) -> None:
    text = (
        "INSERT INTO shop.designs VALUES (1, 1);\nCREATE UNIQUE INDEX CONCURRENTLY designs_id ON shop.designs (id);\n"
    )
    await shop.up({**FILES, INDEX: text})
    result = await shop.up({**FILES, INDEX: text.replace("(1, 1)", "(2, 2)")})
    assert result.error is not None
    assert result.error.reason is Reason.CHECKSUM_MISMATCH


async def test_if_not_exists_over_an_invalid_index_builds_it(shop: Shop) -> None:
    await shop.up(FILES)
    shop.query("INSERT INTO shop.designs VALUES (1, 1)")
    with pytest.raises(Exception, match="could not create unique index"):
        shop.query("CREATE UNIQUE INDEX CONCURRENTLY designs_id ON shop.designs (id)")
    shop.query("DELETE FROM shop.designs WHERE id = 1")
    text = "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS designs_id ON shop.designs (id);"
    result = await shop.up({**FILES, INDEX: text})
    assert result.error is None
    assert shop.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'shop.designs_id'::regclass")


async def test_a_valid_index_is_never_dropped(shop: Shop) -> None:
    await shop.up(FILES)
    shop.query("CREATE INDEX designs_owner ON shop.designs (owner)")
    before = shop.value("SELECT 'shop.designs_owner'::regclass::oid")
    result = await shop.up(INDEX_FILES)
    assert result.migrations[0].error is not None
    assert result.migrations[0].error.sqlstate == "42P07"
    again = await shop.up(INDEX_FILES)
    assert again.error is not None, "somebody else's index is not taken for ours"
    assert shop.value("SELECT 'shop.designs_owner'::regclass::oid") == before


async def test_envelope_is_stripped(shop: Shop) -> None:
    result = await shop.up({USERS: "BEGIN;\nCREATE TABLE shop.users (id int);\nCOMMIT;\n"})
    assert result.error is None
    assert shop.value("SELECT count(*) FROM selvedge.history") == 1


async def test_search_path_of_a_dump_does_not_break_the_history(shop: Shop) -> None:
    files = {
        USERS: "SELECT pg_catalog.set_config('search_path', '', false);\nCREATE TABLE shop.users (id int);\n",
        DESIGNS: "CREATE TABLE pg_temp.x (id int);\nCREATE TABLE shop.y (id int);\n",
    }
    assert (await shop.up(files)).error is None
    assert shop.value("SELECT count(*) FROM selvedge.history") == 2


async def test_copy_data(shop: Shop) -> None:
    files = {**FILES, INDEX: "COPY shop.users (id) FROM stdin;\n1\n2\n\\.\nINSERT INTO shop.users VALUES (3);\n"}
    assert (await shop.up(files)).error is None
    assert shop.value("SELECT sum(id) FROM shop.users") == 6
    result = await shop.up({**files, "20250401000000_bad.sql": "COPY shop.users (id) FROM stdin;\nx\n\\.\n"})
    assert result.migrations[0].error is not None
    assert result.migrations[0].error.sqlstate == "22P02"


async def test_new_enum_value_used_in_its_transaction(shop: Shop) -> None:
    files = {
        USERS: "CREATE TYPE shop.kind AS ENUM ('a');",
        DESIGNS: "ALTER TYPE shop.kind ADD VALUE 'b';\nSELECT 'b'::shop.kind;",
    }
    result = await shop.up(files)
    assert result.migrations[1].error is not None
    assert result.migrations[1].error.sqlstate == "55P04"
    assert "next migration" in result.migrations[1].error.hint


async def test_deferred_trigger_fires_as_the_migrations_role(shop: Shop) -> None:
    files = {
        USERS: "CREATE TABLE shop.log (who text); CREATE TABLE shop.users (id int);\n"
        "CREATE FUNCTION shop.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN\n"
        "  INSERT INTO shop.log VALUES (current_user); RETURN NULL; END $$;\n"
        "CREATE CONSTRAINT TRIGGER note AFTER INSERT ON shop.users DEFERRABLE INITIALLY DEFERRED\n"
        "  FOR EACH ROW EXECUTE FUNCTION shop.note();\nINSERT INTO shop.users VALUES (1);\n",
    }
    result = await shop.up(files)
    assert result.error is None, result.error
    assert shop.query("SELECT who FROM shop.log") == [(shop.owner,)]


async def test_a_held_lock_is_waited_for_and_its_holder_named(shop: Shop) -> None:
    await shop.up(FILES)
    held = shop.endpoint.connect(shop.database, application_name="report")
    held.execute("BEGIN")
    held.execute("SELECT * FROM shop.users")
    files = {**FILES, INDEX: "ALTER TABLE shop.users ADD COLUMN name text;"}
    task = asyncio.create_task(shop.up(files, timeouts=Timeouts(lock=1.5, lock_wait=60)))
    try:
        await until(
            lambda: any("lock held by session" in row.waiting_for and "report" in row.waiting_for for row in shop.rows),
            task,
        )
        held.execute("COMMIT")
        result = await task
    finally:
        held.close()
    assert result.error is None, result.error


async def test_a_lock_that_is_never_free(shop: Shop) -> None:
    await shop.up(FILES)
    with shop.endpoint.connect(shop.database) as held:
        held.execute("BEGIN")
        held.execute("SELECT * FROM shop.users")
        files = {**FILES, INDEX: "CREATE TABLE shop.more (id int); ALTER TABLE shop.users ADD COLUMN name text;"}
        result = await shop.up(files, timeouts=Timeouts(lock=0.1, lock_wait=1.0))
    assert isinstance(result.error, TransientError)
    assert result.error.reason is Reason.WAITING_FOR_LOCK
    assert result.migrations[0].state is MigrationState.PENDING
    assert shop.value("SELECT to_regclass('shop.more')") is None


async def test_two_runners_at_once(shop: Shop) -> None:
    files = {
        f"2025{number:010d}_m.sql": f"CREATE TABLE shop.t{number} (id int); INSERT INTO shop.t{number} VALUES (1);"
        for number in range(1, 8)
    }
    files["20260101000000_index.sql"] = "CREATE INDEX CONCURRENTLY t1_id ON shop.t1 (id);"
    shops = [Shop(shop.endpoint, shop.database) for _ in range(3)]
    results = await asyncio.gather(*(one.up(files) for one in shops))
    assert [result.error for result in results] == [None] * 3
    states = [row.state for result in results for row in result.migrations]
    assert states.count(MigrationState.APPLIED) == len(files)
    assert shop.value("SELECT count(*) FROM selvedge.events") == len(files)


async def test_stop_between_two_statements(shop: Shop) -> None:
    stop = asyncio.Event()
    files = {**FILES, INDEX: "CREATE TABLE shop.c (id int); CREATE TABLE shop.d (id int); SELECT 1;"}

    def may_write() -> None:
        if any(row.version == 20250301000000 and row.done == 1 for row in shop.rows):
            stop.set()

    result = await shop.up(files, stop=stop, may_write=may_write)
    assert result.stopped
    assert [row.state for row in result.migrations][-1] is MigrationState.PENDING
    assert shop.value("SELECT to_regclass('shop.c')") is None
    assert (await shop.up(files)).error is None


async def test_no_commit_without_the_right_to_write(shop: Shop) -> None:
    def may_write() -> None:
        if any(row.done == 2 for row in shop.rows):
            raise TransientError(Reason.NOT_LEADING, "another process leads")

    with pytest.raises(TransientError):
        await shop.up(FILES, may_write=may_write)
    assert shop.value("SELECT to_regclass('shop.designs')") is None
    assert shop.value("SELECT count(*) FROM selvedge.history") == 1


async def test_cancelled_in_the_middle(shop: Shop) -> None:
    files = {USERS: "CREATE TABLE shop.a (id int); SELECT pg_sleep(60);"}
    task = asyncio.create_task(shop.up(files))
    sleeping = f"{SLEEPING} AND query = 'SELECT pg_sleep(60)'"
    await until(lambda: shop.query(sleeping), task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert shop.query("SELECT 1 FROM pg_stat_activity WHERE usename = %s", shop.login) == []
    assert shop.value("SELECT to_regclass('shop.a')") is None


async def test_connection_killed(shop: Shop) -> None:
    files = {USERS: "CREATE TABLE shop.a (id int); SELECT pg_sleep(60);"}
    task = asyncio.create_task(shop.up(files))
    kill = f"SELECT pg_terminate_backend(pid) FROM ({SLEEPING} AND query = 'SELECT pg_sleep(60)') AS mine"
    await until(lambda: shop.query(kill), task)
    result = await task
    assert isinstance(result.error, TransientError)
    assert result.error.reason is Reason.CONNECTION_LOST
    files = {USERS: files[USERS].replace("60", "0")}
    assert (await shop.up(files)).error is None


async def test_the_lock_is_lost_before_the_commit(shop: Shop) -> None:
    files = {USERS: "CREATE TABLE shop.a (id int); SELECT pg_sleep(0.5);"}
    task = asyncio.create_task(shop.up(files))
    sleeping = f"{SLEEPING} AND query = 'SELECT pg_sleep(0.5)'"
    await until(lambda: shop.query(sleeping), task)
    shop.query(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND database = "
        "(SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    result = await task
    assert isinstance(result.error, TransientError)
    assert shop.value("SELECT to_regclass('shop.a')") is None


async def test_what_cannot_be_read_writes_nothing(shop: Shop) -> None:
    with pytest.raises(InvalidError):
        await shop.up({**FILES, INDEX: "SELECT 'open;"})
    assert shop.value("SELECT to_regclass('selvedge.history')") is None
    assert shop.query("SELECT 1 FROM pg_roles WHERE rolname = %s", shop.login) == []


async def test_requires_version(shop: Shop) -> None:
    result = await shop.up({USERS: "-- requires-version: >=99\nSELECT 1;"})
    assert result.error is not None
    assert result.error.reason is Reason.UNSUPPORTED_VERSION


async def test_run_as_without_the_owner(shop: Shop) -> None:
    shop.query(f'GRANT CREATE ON SCHEMA shop TO "{shop.run_as}"')
    assert (await shop.up({USERS: "CREATE TABLE shop.a (id int)"}, owner=None)).error is None
    assert shop.value("SELECT tableowner FROM pg_tables WHERE tablename = 'a'") == shop.run_as


async def test_a_role_that_exists_is_not_taken_over(shop: Shop) -> None:
    shop.query(f'CREATE ROLE "{shop.login}" LOGIN')
    result = await shop.up(FILES)
    assert result.error is not None
    assert result.error.reason is Reason.ADOPTION_REQUIRED


async def test_blocks_of_a_file_are_committed_one_by_one(shop: Shop) -> None:
    """What broke off in the second leaves the first as it is, and goes on behind it when the file is mended."""
    text = (
        "-- transaction: false\nCREATE TABLE shop.log (n int, at bigint);\n"
        "BEGIN;\nINSERT INTO shop.log SELECT 1, txid_current();\nINSERT INTO shop.log SELECT 2, txid_current();\n"
        "COMMIT;\n"
        "BEGIN;\nINSERT INTO shop.log SELECT 3, txid_current();\nINSERT INTO shop.log SELECT 1 / {};\nCOMMIT;\n"
        "VACUUM shop.log;\n"
    )
    name = "20250101000000_blocks.sql"
    failed = await shop.up({name: text.format(0)})
    assert failed.error is not None
    assert failed.error.message.startswith(f"{name}, line 9: division by zero (22012)")
    assert shop.query("SELECT n FROM shop.log ORDER BY n") == [(1,), (2,)], "the second block was taken back whole"
    assert shop.value("SELECT count(DISTINCT at) FROM shop.log") == 1, "the first one was one transaction"
    assert shop.query("SELECT state, statements_done, statements_total FROM selvedge.history") == [("Partial", 3, 6)]
    assert (await shop.up({name: text.format("1, 0")})).error is None
    assert shop.query("SELECT n FROM shop.log ORDER BY n") == [(1,), (1,), (2,), (3,)]
    assert shop.query("SELECT state, statements_done FROM selvedge.history") == [("Applied", 6)]
