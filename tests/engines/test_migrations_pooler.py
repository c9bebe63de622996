"""A connection pooler in between is noticed and refused, in both of its modes."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from selvedge.core.reasons import Reason
from selvedge.engines.base import TlsOptions
from selvedge.engines.postgres.migrator import open_session
from selvedge.migrate import Timeouts, load, make_plan, run
from tests.engines.migrations_support import Shop
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox import PostgresEndpoint


@pytest.fixture(params=["session", "transaction"])
def pooler(request: pytest.FixtureRequest, postgres: PostgresEndpoint) -> Iterator[int]:
    """The port of a PgBouncer in front of the server."""
    program = shutil.which("pgbouncer")
    if program is None:
        pytest.skip("pgbouncer is not installed (Debian package pgbouncer)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "users").write_text(f'"{postgres.username}" "{postgres.password}"\n')
        (directory / "ini").write_text(
            f"[databases]\n* = host={postgres.host} port={postgres.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {directory}/users\n"
            f"pool_mode = {request.param}\nserver_tls_sslmode = prefer\n"
            "ignore_startup_parameters = extra_float_digits,options\n"
        )
        root = os.geteuid() == 0
        process = subprocess.Popen(
            [program, "-q", str(directory / "ini")],
            user="nobody" if root else None,
            group="nogroup" if root else None,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:

            def listens() -> bool:
                assert process.poll() is None
                return _listens(port)

            wait_for(listens)
            yield port
        finally:
            process.terminate()
            process.wait(10)


async def test_a_pooler_is_refused(postgres: PostgresEndpoint, database: str, pooler: int) -> None:
    shop = Shop(postgres, database)
    shop.create()

    async def ignore(_: object) -> None:
        pass

    target = shop.target(hosts=(("127.0.0.1", pooler),), tls=TlsOptions("Disable"))
    async with (
        await psycopg.AsyncConnection.connect(postgres.conninfo(database), autocommit=True) as admin,
        open_session(target, admin, database=database, run_as=shop.run_as, owner=shop.owner) as session,
    ):
        plan = make_plan(load({"1_a.sql": "CREATE TABLE shop.a (id int)"}), await session.history())
        result = await run(
            session, plan, timeouts=Timeouts(), on_progress=ignore, stop=asyncio.Event(), may_write=lambda: None
        )
    assert result.error is not None
    assert result.error.reason is Reason.POOLER_DETECTED
    assert shop.value("SELECT to_regclass('selvedge.history')") is None


@pytest.mark.parametrize("pooler", ["transaction"], indirect=True)
def test_why_a_pooler_is_refused(postgres: PostgresEndpoint, database: str, pooler: int) -> None:
    """One session of the server's is lent to whoever asks next: its lock is everybody's, and its settings nobody's."""
    info = f"host=127.0.0.1 port={pooler} user={postgres.username} dbname={database} sslmode=disable"
    held = (
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid = 7"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )

    def ask(connection: psycopg.Connection, query: str) -> object:
        row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]

    with psycopg.connect(info, autocommit=True, prepare_threshold=None) as first:
        assert ask(first, "SELECT pg_try_advisory_lock(7)")
        first.execute("SET lock_timeout = '1234ms'")
        with psycopg.connect(info, autocommit=True, prepare_threshold=None) as second:
            assert ask(second, "SELECT pg_try_advisory_lock(7)"), "a second one got the same lock"
            second.execute("BEGIN")  # keeps the session: the first one is given another
            assert ask(second, "SHOW lock_timeout") == "1234ms", "what the first one set"
            assert ask(first, "SHOW lock_timeout") != "1234ms", "what it set is lost"
            assert ask(first, "SELECT pg_advisory_unlock(7)") is False
    with postgres.connect(database) as direct:
        assert ask(direct, held) == 1, "the lock outlives both clients"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
