"""kill -9 of the process that runs migrations, at many points: the next run converges, and nothing runs twice."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.engines.migrations_support import Shop

if TYPE_CHECKING:
    from sandbox import PostgresEndpoint

FILES = {
    "20250101000000_a.sql": "CREATE TABLE shop.log (what text); INSERT INTO shop.log VALUES ('a1');\n"
    "SELECT pg_sleep(0.2); INSERT INTO shop.log VALUES ('a2');",
    "20250102000000_b.sql": "INSERT INTO shop.log VALUES ('b1'); CREATE TABLE shop.big AS SELECT g, g % 7 AS h "
    "FROM generate_series(1, 150000) g;",
    "20250103000000_c.sql": "INSERT INTO shop.log VALUES ('c1');\n"
    "CREATE INDEX CONCURRENTLY big_g ON shop.big (g);\nINSERT INTO shop.log VALUES ('c2');\n"
    "CREATE UNIQUE INDEX CONCURRENTLY big_gh ON shop.big (g, h);\nINSERT INTO shop.log VALUES ('c3');\n"
    "DROP INDEX CONCURRENTLY shop.big_g;\nINSERT INTO shop.log VALUES ('c4');\n",
    "20250104000000_d.sql": "INSERT INTO shop.log VALUES ('d1'); ALTER TABLE shop.big ADD COLUMN note text;",
}
ONE_EACH = {
    **{name: FILES[name] for name in ("20250101000000_a.sql", "20250102000000_b.sql")},
    "20250103000000_c.sql": "CREATE INDEX CONCURRENTLY big_g ON shop.big (g);",
    "20250103000001_c.sql": "CREATE UNIQUE INDEX CONCURRENTLY big_gh ON shop.big (g, h);",
    "20250103000002_c.sql": "DROP INDEX CONCURRENTLY shop.big_g;",
    "20250104000000_d.sql": FILES["20250104000000_d.sql"],
}
DONE = {(word,) for word in ("a1", "a2", "b1", "c1", "c2", "c3", "c4", "d1")}


class Child:
    """The process, and what it printed."""

    def __init__(self, shop: Shop, files: dict[str, str] = FILES, changes: dict[str, object] | None = None) -> None:
        self.shop = shop
        self.files = files
        self.changes = changes or {}

    async def __aenter__(self) -> asyncio.subprocess.Process:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("migrations_child.py")),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        target = self.shop.target()
        order = {
            "host": target.hosts[0][0],
            "port": target.hosts[0][1],
            "username": target.username,
            "password": target.password,
            "tls": [target.tls.mode, target.tls.ca],
            "admin": self.shop.endpoint.conninfo(self.shop.database),
            "database": self.shop.database,
            "run_as": self.shop.run_as,
            "owner": self.shop.owner,
            "files": self.files,
            **self.changes,
        }
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode())
        self.process.stdin.close()
        return self.process

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


async def _converges(shop: Shop, files: dict[str, str] = FILES, done: set[tuple[str]] = DONE) -> None:
    result = await shop.up(files)
    assert result.error is None, result.error
    assert sorted(shop.query("SELECT what FROM shop.log")) == sorted(done)
    assert shop.query("SELECT state, count(*) FROM selvedge.history GROUP BY 1") == [("Applied", len(files))]
    assert shop.query("SELECT count(*) FROM selvedge.events WHERE event = 'Applied'") == [(len(files),)]
    indexes = shop.query(
        "SELECT indexrelid::regclass::text, indisvalid FROM pg_index WHERE indrelid = 'shop.big'::regclass"
    )
    assert indexes == [("shop.big_gh", True)]
    assert shop.query("SELECT 1 FROM pg_stat_activity WHERE usename = %s", shop.login) == []


LINES = (3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18)


@pytest.mark.parametrize("line", [n if n in (4, 9, 14) else pytest.param(n, marks=pytest.mark.long) for n in LINES])
async def test_killed_after_a_report(postgres: PostgresEndpoint, database: str, line: int) -> None:
    shop = Shop(postgres, database)
    shop.create()
    async with Child(shop) as process:
        assert process.stdout is not None
        for _ in range(line):
            assert await process.stdout.readline()
        process.kill()
    await _converges(shop)


@pytest.mark.parametrize("statement", ["SELECT pg_sleep(0.2)", "CREATE TABLE shop.big"])
async def test_killed_inside_a_statement(postgres: PostgresEndpoint, database: str, statement: str) -> None:
    shop = Shop(postgres, database)
    shop.create()
    async with Child(shop) as process:
        await _active(shop, statement, process)
        process.kill()
    await _converges(shop)


@pytest.mark.parametrize(
    ("statement", "before"), [("CREATE INDEX CONCURRENTLY", 2), ("CREATE UNIQUE INDEX", 3), ("DROP INDEX", 4)]
)
async def test_killed_inside_concurrently(
    postgres: PostgresEndpoint, database: str, statement: str, before: int
) -> None:
    shop = Shop(postgres, database)
    shop.create()
    names = list(ONE_EACH)
    assert (await shop.up({name: ONE_EACH[name] for name in names[:before]})).error is None
    with postgres.connect(database) as holder:
        # an open transaction keeps every CONCURRENTLY from finishing, so that the kill hits its middle
        holder.execute("BEGIN")
        holder.execute("LOCK shop.big IN ROW EXCLUSIVE MODE")
        async with Child(shop, ONE_EACH) as process:
            await _active(shop, statement, process)
            process.kill()
    await _converges(shop, ONE_EACH, {("a1",), ("a2",), ("b1",), ("d1",)})


async def _active(shop: Shop, statement: str, process: asyncio.subprocess.Process) -> None:
    query = "SELECT 1 FROM pg_stat_activity WHERE usename = %s AND state = 'active' AND starts_with(query, %s)"
    with shop.endpoint.connect(shop.database) as watcher:
        while not watcher.execute(query, [shop.login, statement]).fetchall():
            await asyncio.sleep(0.002)  # between two looks: a statement may be over in a few milliseconds
            assert process.returncode is None
