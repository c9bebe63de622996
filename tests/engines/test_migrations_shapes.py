"""A history that an earlier version made: read as it is, upgraded where it stands, and never half."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from selvedge.core.errors import InvalidError, NotPermittedError
from selvedge.engines.postgres.migration_ledger import Ledger
from selvedge.engines.postgres.migration_shapes import SHAPE
from selvedge.engines.postgres.migrator import open_session
from selvedge.migrate import HistoryRow, RowState, load
from selvedge.migrate.plan import line_of
from tests.engines.migrations_support import SERVERS, Shop, fresh_shop, server

if TYPE_CHECKING:
    from collections.abc import Iterator

A, B, C = "20250101000000_a.sql", "20250102000000_b.sql", "20250103000000_c.sql"
FILES = {
    A: "-- migrate:up\nCREATE TABLE shop.a (id int);\n-- migrate:down\nDROP TABLE shop.a;\n",
    B: "-- migrate:up\nCREATE TABLE shop.b (id int);\n-- migrate:down\nDROP TABLE shop.b;\n",
    C: "-- migrate:up\nCREATE TABLE shop.c (id int);\n-- migrate:down\nDROP TABLE shop.c;\n",
}
VIEW = {"R__view.sql": "CREATE OR REPLACE VIEW shop.v AS SELECT 1 AS one;\n"}

_LATER = """
  applied_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(), duration_ms bigint,
  applied_by text NOT NULL DEFAULT session_user, run_uid text NOT NULL DEFAULT '', tool_version text NOT NULL,
  error text"""
_EVENTS = """
CREATE TABLE selvedge.events (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  scope text NOT NULL DEFAULT '', version numeric(20), name text NOT NULL DEFAULT '', event text NOT NULL,
  checksum text NOT NULL DEFAULT '', actor text NOT NULL DEFAULT session_user, run_uid text NOT NULL DEFAULT '',
  message text NOT NULL DEFAULT '')"""

#: Word for word what each version made.
SHAPES = {
    1: f"""
CREATE TABLE selvedge.history (
  version numeric(20) PRIMARY KEY, name text NOT NULL, kind text NOT NULL DEFAULT 'Versioned',
  checksum_up text NOT NULL, checksum_down text, up_text text NOT NULL, down_text text,
  state text NOT NULL, statements_done integer NOT NULL, statements_total integer NOT NULL,
  cursor_hash text NOT NULL DEFAULT '', started boolean NOT NULL DEFAULT false, transaction_mode text NOT NULL,
  {_LATER});
CREATE TABLE selvedge.events (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  version numeric(20) NOT NULL, event text NOT NULL, checksum text NOT NULL, actor text NOT NULL DEFAULT session_user,
  run_uid text NOT NULL DEFAULT '', message text NOT NULL DEFAULT '');""",
    2: f"""
CREATE TABLE selvedge.history (
  scope text NOT NULL DEFAULT '', version numeric(20) NOT NULL, name text NOT NULL,
  kind text NOT NULL DEFAULT 'Versioned', checksum_up text NOT NULL, checksum_down text, up_text text NOT NULL,
  down_text text, state text NOT NULL, direction text NOT NULL DEFAULT 'up', statements_done integer NOT NULL,
  statements_total integer NOT NULL, cursor_hash text NOT NULL DEFAULT '', started boolean NOT NULL DEFAULT false,
  transaction_mode text NOT NULL, {_LATER}, PRIMARY KEY (scope, version));
{_EVENTS};""",
    3: f"""
CREATE TABLE selvedge.history (
  scope text NOT NULL DEFAULT '', key text NOT NULL, version numeric(20) NOT NULL, name text NOT NULL,
  kind text NOT NULL DEFAULT 'Versioned', checksum_up text NOT NULL, checksum_down text, up_text text NOT NULL,
  down_text text, state text NOT NULL, direction text NOT NULL DEFAULT 'up', statements_done integer NOT NULL,
  statements_total integer NOT NULL, cursor_hash text NOT NULL DEFAULT '', started boolean NOT NULL DEFAULT false,
  transaction_mode text NOT NULL, {_LATER}, PRIMARY KEY (scope, key));
{_EVENTS};""",
}
COLUMNS = """
SELECT attrelid::regclass::text, attname::text, format_type(atttypid, atttypmod), attnotnull,
  pg_get_expr(d.adbin, d.adrelid)
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = attrelid AND d.adnum = attnum
WHERE attrelid IN ('selvedge.history'::regclass, 'selvedge.events'::regclass) AND attnum > 0 AND NOT attisdropped
ORDER BY 1, 2
"""
KEYS = """
SELECT pg_get_constraintdef(oid), obj_description('selvedge.history'::regclass) FROM pg_constraint
WHERE conrelid = 'selvedge.history'::regclass AND contype = 'p'
"""
GRANTS = "SELECT relname::text, relacl::text FROM pg_class WHERE oid = 'selvedge.events'::regclass"


@pytest.fixture(params=SERVERS)
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    with fresh_shop(server(request)) as shop:
        yield shop


def earlier(shop: Shop, shape: int) -> None:
    """What an earlier version leaves: two migrations that ran, and from the second shape on a repeatable."""
    shop.query("CREATE SCHEMA selvedge")
    for statement in SHAPES[shape].split(";"):
        if statement.strip():
            shop.query(statement)
    ran = [*load({A: FILES[A], B: FILES[B]}), *(load(VIEW) if shape > 1 else ())]
    for one in ran:
        names = "version, name, kind, checksum_up, checksum_down, up_text, down_text, state, statements_done"
        names += ", statements_total, transaction_mode, tool_version" + (", key" if shape > 2 else "")
        values = [one.version, one.name, one.kind, one.checksum, one.down_checksum, one.up, one.stored_down]
        values += ["Applied", 1, 1, "PerMigration", "0.0.1", *([one.key] if shape > 2 else [])]
        places = ", ".join(["%s"] * len(values))
        shop.query(f"INSERT INTO selvedge.history ({names}) VALUES ({places})", *values)
        shop.query(
            "INSERT INTO selvedge.events (version, event, checksum) VALUES (%s, 'Applied', %s)",
            one.version,
            one.checksum,
        )
        shop.query(one.up)
        if one.kind == "Versioned":
            shop.query(f"ALTER TABLE shop.{one.name} OWNER TO {shop.owner}")
        else:
            shop.query(f"ALTER VIEW shop.v OWNER TO {shop.owner}")


async def read(shop: Shop) -> tuple[HistoryRow, ...]:
    async with (
        await psycopg.AsyncConnection.connect(shop.endpoint.conninfo(shop.database), autocommit=True) as admin,
        open_session(shop.target(), admin, database=shop.database, run_as=shop.run_as, owner=shop.owner) as opened,
    ):
        return await opened.history()


async def done(shop: Shop, run: str) -> list[str]:
    async with (
        await psycopg.AsyncConnection.connect(shop.endpoint.conninfo(shop.database), autocommit=True) as admin,
        open_session(shop.target(), admin, database=shop.database, run_as=shop.run_as, run=run) as opened,
    ):
        return list(await opened.done())


@pytest.mark.parametrize("shape", SHAPES)
async def test_an_earlier_history_is_read_and_upgraded_in_place(shop: Shop, shape: int) -> None:
    earlier(shop, shape)
    before = shop.query(COLUMNS)
    keys = ["20250101000000", "20250102000000", *(["Repeatable:view"] if shape > 1 else [])]
    rows = await read(shop)
    assert sorted(row.key for row in rows) == keys
    assert {(row.state, row.direction) for row in rows} == {(RowState.APPLIED, "up")}
    assert shop.query(COLUMNS) == before, "who looks changes nothing"

    files = FILES | (VIEW if shape > 1 else {})
    result = await shop.up(files)
    assert result.error is None, result.error
    assert [row.name for row in result.migrations] == ["c"], "what ran is known"
    assert sorted(shop.history()) == sorted([*keys, "20250103000000"])
    shown = (shop.query(COLUMNS), shop.query(KEYS))
    assert shown[1] == [("PRIMARY KEY (scope, key)", f"selvedge: migrations, shape {SHAPE}, works for 3")]
    # what went up by the earlier version goes down by this one, and everything up again
    assert (await shop.do(files, "To", "0")).error is None
    assert shop.tables() == []
    assert (await shop.up(files)).error is None
    events = shop.query("SELECT event, key FROM selvedge.events ORDER BY id")
    assert events[: len(keys)] == [("Applied", "")] * len(keys), "what an earlier version wrote stays as it is"
    assert events[-1] == (("Applied", "Repeatable:view") if shape > 1 else ("Applied", "20250103000000"))
    with fresh_shop(shop.endpoint) as new:
        assert (await new.up(FILES)).error is None
        assert (new.query(COLUMNS), new.query(KEYS)) == shown, "upgraded and made anew are the same"
        acl = [text.replace(new.login, shop.login) for _, text in new.query(GRANTS)]
        assert [text for _, text in shop.query(GRANTS)] == acl


@pytest.mark.parametrize("shape", SHAPES)
async def test_an_upgrade_happens_whole_or_not_at_all(shop: Shop, shape: int, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier(shop, shape)
    before = (shop.query(COLUMNS), shop.query("SELECT * FROM selvedge.history ORDER BY version"))

    def broken(names: object) -> psycopg.sql.SQL:
        return psycopg.sql.SQL("SELECT 1 / 0")

    with monkeypatch.context() as patched:
        patched.setattr("selvedge.engines.postgres.migration_shapes.mark", broken)
        with pytest.raises(InvalidError, match="division by zero"):
            await shop.up(FILES)
    assert (shop.query(COLUMNS), shop.query("SELECT * FROM selvedge.history ORDER BY version")) == before
    assert (await shop.up(FILES)).error is None


async def test_the_history_of_a_newer_version_is_left_alone(shop: Shop) -> None:
    assert (await shop.up(FILES)).error is None
    shop.query("COMMENT ON TABLE selvedge.history IS 'selvedge: migrations, shape 99, works for 99'")
    with pytest.raises(InvalidError, match=r"written by a newer version of Selvedge \(shape 99, this one knows"):
        await shop.up(FILES)
    # one that says that this version can work with it is gone on with, and stays what it is
    newer = "selvedge: migrations, shape 99, works for 4"
    shop.query(f"COMMENT ON TABLE selvedge.history IS '{newer}'")
    assert (await shop.do(FILES, "Down")).error is None
    assert (await shop.up(FILES)).error is None
    assert shop.value("SELECT obj_description('selvedge.history'::regclass)") == newer


async def test_a_history_under_other_names_is_upgraded_too(shop: Shop) -> None:
    shop.query("CREATE SCHEMA ops")
    for statement in SHAPES[2].replace("selvedge.", 'ops."My ').replace("My history", 'My log"').split(";"):
        if statement.strip():
            shop.query(statement.replace("My events", 'My log_events"'))
    assert (await shop.up(FILES, session={"schema": "ops", "table": "My log"})).error is None
    assert shop.query("""SELECT count(*) FROM ops."My log" WHERE key = version::text""") == [(3,)]


async def test_who_may_not_upgrade_is_told_what_to_run(shop: Shop) -> None:
    """A login of its own that keeps the history and does not own it."""
    from selvedge.engines.postgres.own_login import OwnLedger

    earlier(shop, 3)
    shop.query(f"CREATE ROLE {shop.login} LOGIN PASSWORD 'x'")
    shop.query(f"GRANT USAGE ON SCHEMA selvedge TO {shop.login}")
    shop.query(f"GRANT ALL ON ALL TABLES IN SCHEMA selvedge TO {shop.login}")
    async with await psycopg.AsyncConnection.connect(
        shop.endpoint.conninfo(shop.database), autocommit=True
    ) as connection:
        await connection.execute(f"SET ROLE {shop.login}".encode())
        ledger = OwnLedger("selvedge", "")
        assert len(await Ledger.read(ledger, connection)) == 3
        with pytest.raises(NotPermittedError) as raised:
            await ledger.ensure(connection, shop.login)
    assert """ALTER TABLE "selvedge"."events" ADD COLUMN key text NOT NULL DEFAULT ''""" in raised.value.statements[0]


async def test_a_run_knows_what_it_did_before_as_its_digest_is_taken_of_it(shop: Shop) -> None:
    """Up and down; of another run, and of a server that has no history yet, nothing."""
    assert (await shop.up(FILES | VIEW)).error is None
    up = [line_of(step) for step in shop.plan.steps]
    assert await done(shop, "run-uid") == up
    assert await done(shop, "another") == []
    assert (await shop.do(FILES | VIEW, "To", "0")).error is None
    down = [line_of(step) for step in shop.plan.steps]
    assert [line.split()[-1] for line in down] == ["down", "down", "down", "unmark"]
    assert await done(shop, "run-uid") == up + down
