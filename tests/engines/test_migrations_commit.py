"""The connection breaks at COMMIT, before or after the server did it: the history says which, and the run goes on."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from selvedge.core.errors import TransientError
from selvedge.core.reasons import Reason
from selvedge.engines.base import TlsOptions
from selvedge.migrate import MigrationState
from selvedge.migrate.plan import line_of
from tests.engines.migrations_support import SERVERS, Shop, fresh_shop, server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

A, B, C = "20250101000000_a.sql", "20250102000000_b.sql", "20250103000000_c.sql"
FILES = {
    A: "-- migrate:up\nCREATE TABLE shop.a (id int);\n-- migrate:down\nDROP TABLE shop.a;",
    B: "-- migrate:up\nCREATE TABLE shop.b (id int);\n-- migrate:down\nDROP TABLE shop.b;",
}
COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"


@pytest.fixture(params=SERVERS)
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    with fresh_shop(server(request)) as shop:
        yield shop


class Cutter:
    """Forwards until the COMMIT number ``at``; that connection is cut, with or without the COMMIT passed on."""

    def __init__(self, upstream: int, at: int, *, arrives: bool) -> None:
        self.upstream = upstream
        self.at = at
        self.arrives = arrives
        self.seen = 0
        self.tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self.upstream)
        silent, answered = asyncio.Event(), asyncio.Event()

        async def answers() -> None:
            while data := await from_server.read(65536):
                if silent.is_set():
                    answered.set()
                    return
                writer.write(data)
                await writer.drain()
            writer.close()

        back = asyncio.create_task(answers())
        try:
            while data := await reader.read(65536):
                self.seen += COMMIT in data
                if COMMIT in data and self.seen == self.at:
                    silent.set()
                    if self.arrives:
                        to_server.write(data)
                        await asyncio.wait_for(answered.wait(), 20)
                    break
                to_server.write(data)
                await to_server.drain()
        except ConnectionError:
            pass
        finally:
            back.cancel()
            for one in (to_server, writer):
                one.close()
            await asyncio.gather(back, return_exceptions=True)
            for one in (to_server, writer):
                with suppress(ConnectionError):
                    await one.wait_closed()


@asynccontextmanager
async def cut(shop: Shop, at: int, *, arrives: bool) -> AsyncIterator[dict[str, object]]:
    """Options of ``Shop.do`` that lead a run over a cutter."""
    cutter = Cutter(shop.endpoint.port, at, arrives=arrives)
    server = await asyncio.start_server(cutter.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield {"server": shop.target(hosts=(("127.0.0.1", port),), tls=TlsOptions("Disable"))}
        assert cutter.seen >= at
    finally:
        server.close()
        if cutter.tasks:  # the clients are gone, so each comes to its end
            await asyncio.wait(cutter.tasks, timeout=20)


@pytest.mark.parametrize("mode", ["PerMigration", "All"])
async def test_committed_and_the_answer_is_lost(shop: Shop, mode: str) -> None:
    async with cut(shop, 1, arrives=True) as options:
        result = await shop.do(FILES, "Up", running={"transaction": mode}, **options)
    assert result.error is None, result.error
    assert [row.state for row in result.migrations] == [MigrationState.APPLIED] * 2
    assert shop.tables() == ["a", "b"]
    assert shop.value("SELECT count(*) FROM selvedge.events") == 2, "nothing ran twice"


@pytest.mark.parametrize("mode", ["PerMigration", "All"])
async def test_the_commit_never_arrived(shop: Shop, mode: str) -> None:
    async with cut(shop, 1, arrives=False) as options:
        result = await shop.do(FILES, "Up", running={"transaction": mode}, **options)
    assert isinstance(result.error, TransientError)
    assert result.error.reason is Reason.CONNECTION_LOST
    assert {row.state for row in result.migrations} == {MigrationState.PENDING}
    assert shop.tables() == []
    assert (await shop.up(FILES)).error is None
    assert shop.value("SELECT count(*) FROM selvedge.events") == 2


@pytest.mark.parametrize("arrives", [True, False])
async def test_on_the_way_down(shop: Shop, arrives: bool) -> None:
    assert (await shop.up(FILES)).error is None
    async with cut(shop, 1, arrives=arrives) as options:
        result = await shop.do(FILES, "Down", **options)
    assert (result.error is None) is arrives
    assert shop.tables() == (["a"] if arrives else ["a", "b"])
    assert len(shop.history()) == len(shop.tables())


@pytest.mark.parametrize("arrives", [True, False])
@pytest.mark.parametrize("mode", ["PerMigration", "All"])
async def test_a_redo(shop: Shop, mode: str, arrives: bool) -> None:
    """Its last step leaves the row as it was: only the time says whether it ran once more."""
    assert (await shop.up(FILES)).error is None
    before = shop.value("SELECT 'shop.b'::regclass::oid::bigint")
    async with cut(shop, 2 if mode == "PerMigration" else 1, arrives=arrives) as options:
        result = await shop.do(FILES, "Redo", running={"transaction": mode}, **options)
    assert (result.error is None) is arrives, result.error
    if not arrives:
        assert shop.plan is not None
        done = [line_of(step) for step in shop.plan.steps[:1]] if mode == "PerMigration" else []
        result = await shop.do(FILES, "Redo", "20250102000000", running={"transaction": mode}, done=done)
    assert result.error is None
    assert shop.tables() == ["a", "b"]
    assert shop.value("SELECT 'shop.b'::regclass::oid::bigint") != before
    assert shop.value("SELECT count(*) FROM selvedge.events WHERE event = 'Undone'") == 1


@pytest.mark.parametrize("arrives", [True, False])
@pytest.mark.parametrize("at", [1, 2, *(pytest.param(at, marks=pytest.mark.long) for at in (3, 4)), 5])
async def test_at_every_cursor_of_one_without_a_transaction(shop: Shop, at: int, arrives: bool) -> None:
    files = {
        **FILES,
        C: "INSERT INTO shop.a VALUES (1);\nCREATE INDEX CONCURRENTLY a_id ON shop.a (id);\n"
        "INSERT INTO shop.a VALUES (2);\nDROP INDEX CONCURRENTLY shop.a_id;\n",
    }
    assert (await shop.up(FILES)).error is None
    async with cut(shop, at, arrives=arrives) as options:
        await shop.do(files, "Up", **options)
    assert (await shop.up(files)).error is None
    assert shop.query("SELECT id FROM shop.a ORDER BY 1") == [(1,), (2,)]
    assert shop.value("SELECT to_regclass('shop.a_id')") is None
    assert shop.query("SELECT state FROM selvedge.history WHERE name = 'c'") == [("Applied",)]
