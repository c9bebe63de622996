"""kill -9 at every message that the runner sends, before it arrives and after it: a set of twelve always converges.

The process talks to the server through a proxy that counts what is sent and kills the process at one message: that is
at every boundary of two statements, and inside each of them, since the server goes on with a statement that arrived.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from selvedge.core.errors import TransientError
from tests.engines.migrations_dump import dump
from tests.engines.migrations_support import Shop, fresh_shop
from tests.engines.test_migrations_kill import Child

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sandbox import PostgresEndpoint
    from selvedge.migrate.runner import RunResult

UP = {
    "01_tables": "CREATE TABLE shop.log (n int GENERATED ALWAYS AS IDENTITY, what text);\n"
    "INSERT INTO shop.log (what) VALUES ('1');",
    "02_enum": "CREATE TYPE shop.kind AS ENUM ('a');\nALTER TYPE shop.kind ADD VALUE 'b';",
    "03_copy": "CREATE TABLE shop.kinds (k shop.kind, t text);\nCOPY shop.kinds FROM stdin;\na\tone\nb\ttwo\n\\.\n",
    "04_big": "CREATE TABLE shop.big AS SELECT g, g % 7 AS h FROM generate_series(1, 20000) g;",
    "05_indexes": "INSERT INTO shop.log (what) VALUES ('5a');\nCREATE INDEX CONCURRENTLY big_g ON shop.big (g);\n"
    "INSERT INTO shop.log (what) VALUES ('5b');\nCREATE UNIQUE INDEX CONCURRENTLY big_gh ON shop.big (g, h);",
    "06_function": "CREATE FUNCTION shop.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;\n"
    "CREATE TRIGGER t BEFORE UPDATE ON shop.big FOR EACH ROW EXECUTE FUNCTION shop.f();",
    "07_drop_index": "DROP INDEX CONCURRENTLY shop.big_g;\nINSERT INTO shop.log (what) VALUES ('7');\n"
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS big_h ON shop.big (h);",
    "08_envelope": "BEGIN;\nINSERT INTO shop.log (what) VALUES ('8');\nSELECT pg_sleep(0.05);\n"
    "COMMENT ON TABLE shop.log IS 'what was done';\nALTER TABLE shop.log ALTER what SET DEFAULT '-';\n"
    "GRANT SELECT (what) ON shop.log TO PUBLIC;\nCREATE POLICY mine ON shop.log USING (n > 0);\nCOMMIT;",
    "09_partitions": "CREATE TABLE shop.p (d date) PARTITION BY RANGE (d);\n"
    "CREATE TABLE shop.p1 PARTITION OF shop.p FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');",
    "10_reindex": "REINDEX TABLE CONCURRENTLY shop.big;\nVACUUM shop.big;\nINSERT INTO shop.log (what) VALUES ('10');",
    "11_deferred": "CREATE TABLE shop.u (id int PRIMARY KEY);\n"
    "CREATE TABLE shop.r (id int REFERENCES shop.u DEFERRABLE INITIALLY DEFERRED);\n"
    "INSERT INTO shop.r VALUES (1);\nINSERT INTO shop.u VALUES (1);",
    "12_statements": "-- transaction: false\nSET search_path = shop;\nINSERT INTO log (what) VALUES ('12a');\n"
    "UPDATE big SET h = h + 1 WHERE g < 10;\n"
    "ALTER TABLE big ADD CONSTRAINT big_check CHECK (h >= 0) NOT VALID;\n"
    "ALTER TABLE big VALIDATE CONSTRAINT big_check;\nINSERT INTO log (what) VALUES ('12b');",
}
DOWN = {
    "01_tables": "DROP TABLE shop.log;",
    "02_enum": "DROP TYPE shop.kind;",
    "03_copy": "DROP TABLE shop.kinds;",
    "04_big": "DROP TABLE shop.big;",
    "05_indexes": "DROP INDEX CONCURRENTLY shop.big_gh;\nDROP INDEX CONCURRENTLY shop.big_g;",
    "06_function": "DROP TRIGGER t ON shop.big;\nDROP FUNCTION shop.f();",
    "07_drop_index": "DROP INDEX CONCURRENTLY shop.big_h;\nCREATE INDEX CONCURRENTLY big_g ON shop.big (g);",
    "08_envelope": "DROP POLICY mine ON shop.log;\nDELETE FROM shop.log WHERE what = '8';",
    "09_partitions": "DROP TABLE shop.p;",
    "10_reindex": "DELETE FROM shop.log WHERE what = '10';\nVACUUM shop.log;",
    "11_deferred": "DROP TABLE shop.r;\nDROP TABLE shop.u;",
    "12_statements": "ALTER TABLE shop.big DROP CONSTRAINT big_check;\nDELETE FROM shop.log WHERE what LIKE '12_';\n"
    "SELECT pg_sleep(0.05);",
}
FILES = {f"{name}.sql": f"-- migrate:up\n{UP[name]}\n-- migrate:down\n{DOWN[name]}\n" for name in UP}
FILES["R__view.sql"] = "CREATE OR REPLACE VIEW shop.v AS SELECT 1 AS one;"

# What pg_dump does not write: indexes that are not valid, roles, and the rows of the history. A run that is killed
# behind its last migration leaves its login with a password that nobody knows; the next that runs something renews it.
_STATE = """
SELECT 'index', c.relname || ' ' || i.indisvalid || i.indisready || i.indislive FROM pg_class c
  JOIN pg_index i ON i.indexrelid = c.oid WHERE c.relnamespace = 'shop'::regnamespace
UNION ALL SELECT 'database', datacl::text FROM pg_database WHERE datname = current_database()
UNION ALL SELECT 'role', concat_ws(' ', rolname, CASE WHEN rolname <> current_database() || '_migrator'
    THEN concat_ws(' ', rolcanlogin, rolpassword IS NULL) END, rolsuper, rolinherit, rolcreaterole, rolcreatedb,
    rolreplication, rolbypassrls, rolconnlimit,
    ARRAY(SELECT setconfig::text FROM pg_db_role_setting WHERE setrole = r.oid), ARRAY(
      SELECT concat_ws(' ', roleid::regrole, to_jsonb(m) - '{oid,roleid,member,grantor}'::text[])
      FROM pg_auth_members m WHERE m.member = r.oid ORDER BY 1))
  FROM pg_authid r WHERE starts_with(rolname, current_database())
UNION ALL SELECT 'history', pg_catalog.concat_ws(' ', key, name, kind, checksum_up, checksum_down, md5(up_text),
    md5(down_text), state, direction, statements_done, statements_total, cursor_hash, started, transaction_mode,
    applied_by, error)
  FROM selvedge.history
UNION ALL SELECT 'event', concat_ws(' ', event, version, name, checksum, actor, key) FROM selvedge.events
ORDER BY 1, 2
"""
_DATA = """
SELECT 'log', string_agg(what, ',' ORDER BY what) FROM shop.log UNION ALL SELECT 'big', sum(g * h)::text FROM shop.big
UNION ALL SELECT 'kinds', string_agg(k || t, ',' ORDER BY k) FROM shop.kinds
UNION ALL SELECT 'r', sum(id)::text FROM shop.r ORDER BY 1
"""


class Counter:
    """Forwards, counts what is sent to the server, and kills a process at message number ``at``."""

    def __init__(self, upstream: int, at: int, *, arrives: bool) -> None:
        self.upstream = upstream
        self.at = at
        self.arrives = arrives
        self.seen = 0
        self.process: asyncio.subprocess.Process | None = None
        self.tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self.upstream)
        back = asyncio.create_task(self.pump(from_server, writer))
        try:
            while data := await reader.read(65536):
                self.seen += 1
                hit = self.seen == self.at
                if not hit or self.arrives:
                    to_server.write(data)
                    await to_server.drain()
                if hit and self.process is not None:
                    self.process.kill()
                    return
        except ConnectionError:
            pass
        finally:
            back.cancel()
            for one in (to_server, writer):
                one.close()  # before anything is awaited: the next run must not meet this one's lock
            await asyncio.gather(back, return_exceptions=True)
            for one in (to_server, writer):
                with suppress(ConnectionError):
                    await one.wait_closed()

    async def pump(self, source: asyncio.StreamReader, drain: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            drain.write(data)
            await drain.drain()


@asynccontextmanager
async def counting(port: int, at: int, *, arrives: bool) -> AsyncIterator[tuple[Counter, int]]:
    counter = Counter(port, at, arrives=arrives)
    server = await asyncio.start_server(counter.serve, "127.0.0.1", 0)
    try:
        yield counter, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        if counter.tasks:  # the process is gone, so each comes to its end, and none holds the lock any longer
            await asyncio.wait(counter.tasks, timeout=20)


async def cut(shop: Shop, at: int, *, arrives: bool, action: str = "Up", target: str = "") -> int:
    """A process that is killed at message ``at``; returns how many it sent. One that could not begin is begun again."""
    order: dict[str, Any] = {"host": "127.0.0.1", "tls": ["Disable", ""], "action": action, "target": target}
    for _ in range(5):
        async with counting(shop.endpoint.port, at, arrives=arrives) as (counter, port):
            order["port"] = port
            async with Child(shop, FILES, order) as process:
                counter.process = process
                said, _ = await process.communicate()
            if process.returncode == -signal.SIGKILL or b"end None" in said:
                return counter.seen
    raise AssertionError(f"it ended five times before message {at}: {said.decode()[-500:]}")


def looks(shop: Shop, *, data: bool = True) -> list[tuple[str, str]]:
    """Schema, roles, history and rows, without the name that this shop alone has."""
    rows = [("schema", line) for line in dump(shop).splitlines()] + shop.query(_STATE)
    rows += shop.query(_DATA) if data else []
    return [(what, text and text.replace(shop.database, "DB")) for what, text in rows]


async def _cut_up(endpoint: PostgresEndpoint, at: int, expected: list[tuple[str, str]], *, arrives: bool) -> int:
    with fresh_shop(endpoint) as shop:
        sent = await cut(shop, at, arrives=arrives)
        result = await _rest(shop, "Up")
        assert result.error is None, (at, arrives, result.error)
        assert looks(shop) == expected, (at, arrives)
    return sent


async def _cut_down(endpoint: PostgresEndpoint, at: int, expected: list[tuple[str, str]], *, arrives: bool) -> int:
    with fresh_shop(endpoint) as shop:
        assert (await shop.up(FILES)).error is None
        sent = await cut(shop, at, arrives=arrives, action="To", target="0")
        result = await _rest(shop, "To", "0")
        assert result.error is None, (at, arrives, result.error)
        assert looks(shop, data=False) == expected, (at, arrives)
    return sent


async def _rest(shop: Shop, action: str, target: str | None = None) -> RunResult:
    """What is left of the run; begun again, as the operator does, where a busy server answered the login too late."""
    for _ in range(5):
        result = await shop.do(FILES, action, target)
        if not isinstance(result.error, TransientError):
            break
    return result


async def _uncut(endpoint: PostgresEndpoint) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """What a run that was never cut leaves, up and down."""
    with fresh_shop(endpoint) as shop:
        assert (await shop.up(FILES)).error is None
        up = looks(shop)
        assert (await shop.do(FILES, "To", "0")).error is None
        return up, looks(shop, data=False)


@pytest.mark.timeout(900)
async def test_cut_here_and_there(own_postgres18: PostgresEndpoint) -> None:
    up, down = await _uncut(own_postgres18)
    places = (19, 60, 83, 104)
    ups = [_cut_up(own_postgres18, at, up, arrives=number % 2 == 1) for number, at in enumerate(places)]
    downs = [_cut_down(own_postgres18, at, down, arrives=number % 2 == 0) for number, at in enumerate((31, 72))]
    sent = await asyncio.gather(*ups, *downs)
    # on a busy machine messages arrive together, and the last place may lie behind the end
    cuts = [number >= at for number, at in zip(sent, (*places, 31, 72), strict=True)]
    assert sum(cuts) >= len(cuts) - 1, "they ended before they were cut"


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("arrives", [False, True])
async def test_up_is_cut_at_every_message(own_postgres18: PostgresEndpoint, arrives: bool) -> None:
    expected, _ = await _uncut(own_postgres18)
    at = 1
    while await _cut_up(own_postgres18, at, expected, arrives=arrives) >= at:
        at += 1
    assert at > 100


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("arrives", [False, True])
async def test_down_is_cut_at_every_message(own_postgres18: PostgresEndpoint, arrives: bool) -> None:
    _, expected = await _uncut(own_postgres18)
    at = 1
    while await _cut_down(own_postgres18, at, expected, arrives=arrives) >= at:
        at += 1
    assert at > 100
