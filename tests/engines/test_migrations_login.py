"""What a migration leaves on its own login reaches no later one, and how its file is read is not its to change."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest

from selvedge.engines.postgres.own_login import open_own_session
from selvedge.migrate import RunResult, Timeouts, load, make_plan, run
from tests.engines.migrations_support import SERVERS, Shop, fresh_shop, server
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox import PostgresEndpoint

A, B, C = "20250101000000_a.sql", "20250102000000_b.sql", "20250103000000_c.sql"

#: Written down by a migration itself: what its session has.
SEEN = """
CREATE TABLE shop.seen AS SELECT name, current_setting(name) AS value FROM (VALUES ('search_path'), ('work_mem'),
  ('row_security'), ('role'), ('standard_conforming_strings'), ('idle_session_timeout'), ('transaction_timeout'))
  AS v(name) WHERE current_setting(name, true) IS NOT NULL;
"""
SETTINGS = "SELECT setdatabase, setconfig FROM pg_db_role_setting WHERE setrole = %s::regrole"


@pytest.fixture
def shop(postgres: PostgresEndpoint, database: str) -> Iterator[Shop]:
    shop = Shop(postgres, database)
    shop.create()
    return shop


@pytest.fixture(params=SERVERS)
def newest(request: pytest.FixtureRequest) -> Iterator[Shop]:
    with fresh_shop(server(request)) as shop:
        yield shop


@pytest.mark.parametrize("where", ["", " IN DATABASE {db}", " IN DATABASE {other}"])
async def test_what_a_migration_sets_on_its_login_does_not_stay(shop: Shop, where: str) -> None:
    other = f"{shop.database}_other"
    shop.query(f"CREATE DATABASE {other}")
    place = where.format(db=shop.database, other=other)
    settings = {
        "search_path": "evil",
        "work_mem": "'64kB'",
        "row_security": "on",
        "role": f'"{shop.run_as}"',
        "standard_conforming_strings": "off",
        "statement_timeout": "1",
        "local_preload_libraries": "nothing",
    }
    attack = "".join(f"ALTER ROLE CURRENT_USER{place} SET {name} = {value};\n" for name, value in settings.items())
    try:
        assert (await shop.up({A: f"RESET ROLE;\n{attack}"})).error is None
        assert len(shop.query(SETTINGS, f'"{shop.login}"')) == 1
        result = await shop.up({A: f"RESET ROLE;\n{attack}", B: SEEN})
        assert result.error is None, result.error
        seen = dict(shop.query("SELECT * FROM shop.seen"))
        assert seen.pop("search_path") == '"$user", public'
        assert seen.pop("work_mem") == "4MB"
        seen.pop("transaction_timeout", None)
        assert seen == {
            "row_security": "off",
            "role": shop.owner,
            "standard_conforming_strings": "on",
            "idle_session_timeout": "0",
        }
        assert shop.query(SETTINGS, f'"{shop.login}"') == []
    finally:
        shop.query(f"DROP DATABASE {other}")


async def test_settings_of_the_database_that_would_change_what_is_run(shop: Shop) -> None:
    """Its owner, and so a migration, may set them."""
    shop.query(f'ALTER DATABASE {shop.database} OWNER TO "{shop.owner}"')
    lasting = {
        "role": f'"{shop.run_as}"',
        "standard_conforming_strings": "off",
        "row_security": "on",
        "idle_session_timeout": "'1h'",
        "client_encoding": "latin1",
        "backslash_quote": "on",
        "escape_string_warning": "off",
    }
    if int(shop.endpoint.version) >= 17:
        lasting["transaction_timeout"] = "'1h'"
    attack = "".join(f"ALTER DATABASE {shop.database} SET {name} = {value};\n" for name, value in lasting.items())
    assert (await shop.up({A: attack})).error is None
    text = "CREATE TABLE shop.t AS SELECT 'C:\\' AS path, 'ü' AS letter;\n"
    result = await shop.up({A: attack, B: SEEN + text})
    assert result.error is None, result.error
    with shop.endpoint.connect() as connection:
        connection.execute(f"ALTER DATABASE {shop.database} RESET ALL".encode())
    assert shop.query("SELECT path, letter FROM shop.t") == [("C:\\", "ü")]
    seen = dict(shop.query("SELECT * FROM shop.seen"))
    assert (seen["role"], seen["row_security"], seen["idle_session_timeout"]) == (shop.owner, "off", "0")
    assert seen.get("transaction_timeout", "0") == "0"
    assert {who for (who,) in shop.query("SELECT applied_by FROM selvedge.history")} == {shop.login}


@pytest.mark.parametrize("transaction", ["", "-- transaction: false\n"])
@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("SET standard_conforming_strings = off", "standard_conforming_strings"),
        ("SET LOCAL standard_conforming_strings TO 'off'", "standard_conforming_strings"),
        ("DO $$ BEGIN PERFORM set_config('standard_conforming_strings', 'off', false); END $$",
         "standard_conforming_strings"),
        ("SET client_encoding = 'LATIN1'", "client_encoding"),
        ("SET NAMES 'LATIN1'", "client_encoding"),
    ],
)  # fmt: skip
async def test_how_the_rest_of_a_file_is_read_cannot_be_changed(
    newest: Shop, change: str, name: str, transaction: str
) -> None:
    """The file was cut into statements before; the server would read another end of a string."""
    if transaction and ("LOCAL" in change or "set_config" in change):
        pytest.skip("lasts no longer than its own statement, or is refused before anything runs")
    shop = newest
    hidden = "SELECT '\\', $$; DROP TABLE shop.t; --$$;"
    text = f"{transaction}CREATE TABLE shop.t (id int);\n\n{change};\n{hidden}\n"
    result = await shop.up({A: text})
    error = result.migrations[0].error
    assert error is not None
    assert (error.file, error.line) == (A, 3 + transaction.count("\n"))
    assert name in error.message


async def test_a_pg_dump_header_is_no_change(shop: Shop) -> None:
    text = (
        "SET statement_timeout = 0;\nSET client_encoding = 'UTF8';\nSET standard_conforming_strings = on;\n"
        "SELECT pg_catalog.set_config('search_path', '', false);\nSET row_security = off;\n"
        "CREATE TABLE shop.t (note text DEFAULT 'C:\\');\n"
    )
    assert (await shop.up({A: text})).error is None
    assert shop.value("SELECT column_default FROM information_schema.columns WHERE table_name = 't'") == "'C:\\'::text"


@pytest.mark.own_postgres  # one of the server's processes is halted for a moment
async def test_a_session_that_an_earlier_run_left_behind_is_gone_before_the_next_begins(shop: Shop) -> None:
    """It could still commit. A login of one's own shares its name with an application, whose sessions stay."""
    name = f"{shop.database}_deployer"
    shop.query(f"CREATE ROLE {name} LOGIN PASSWORD 'word'; GRANT CREATE ON DATABASE {shop.database} TO {name}")
    shop.query(f"GRANT ALL ON SCHEMA shop TO {name}")
    dsn = shop.endpoint.conninfo(shop.database, user=name, password="word")
    with (
        closing(psycopg.connect(dsn, application_name="selvedge migrations")) as left,
        psycopg.connect(dsn, application_name="shop", autocommit=True) as application,
    ):
        left.execute("CREATE TABLE shop.late (id int)")
        pid = left.info.backend_pid
        files = {A: f"CREATE TABLE shop.seen AS SELECT count(*) FROM pg_stat_activity WHERE pid = {pid};"}
        os.kill(pid, signal.SIGSTOP)
        task = asyncio.create_task(_up_as(shop, name, dsn, files))
        try:
            looks: set[object] = set()
            query = (
                "SELECT query_start FROM pg_stat_activity WHERE usename = %s AND query LIKE '%%pg_terminate_backend%%'"
            )
            await until(lambda: task.done() or looks.update(shop.query(query, name)) or len(looks) > 2)
        finally:
            os.kill(pid, signal.SIGCONT)
        result = await task
        assert result.error is None, result.error
        assert shop.query("SELECT * FROM shop.seen") == [(0,)]
        assert shop.tables() == ["seen"]
        assert application.execute("SELECT 1").fetchall() == [(1,)]


async def _up_as(shop: Shop, name: str, dsn: str, files: dict[str, str]) -> RunResult:
    async def ignore(_: object) -> None:
        pass

    target = shop.target(username=name, password="word")
    async with (
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as admin,
        open_own_session(target, admin, database=shop.database, username=name, password="word") as session,
    ):
        plan = make_plan(load(files), await session.history())
        return await run(
            session, plan, timeouts=Timeouts(), on_progress=ignore, stop=asyncio.Event(), may_write=lambda: None
        )
