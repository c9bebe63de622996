"""One thing that fails hurts nothing else, and every failure ends with an error that names it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sandbox import PostgresEndpoint
from sandbox.postgres import PostgresServer
from selvedge.core.errors import BudgetError, TransientError
from selvedge.core.reasons import Reason
from selvedge.engines.postgres.engine import PostgresEngine
from selvedge.engines.postgres.locks import LOCK_KEY
from tests.engines.postgres_proxy import proxy
from tests.engines.postgres_support import (
    Count,
    engine,
    lead,
    limits,
    member,
    only,
    ready,
    reasons,
    rows,
    run,
    target,
    unit,
)

pytestmark = pytest.mark.engines
ROOT = Path(__file__).parents[2]


def several(p: str, **broken: Any) -> dict[str, Any]:
    return {
        "schemas": [{"name": "shared"}, {"name": "avatar"}],
        "roles": [{"name": f"{p}_a"}, {"name": f"{p}_b", "settings": broken.get("role", {})}],
        "settings": broken.get("database", {}),
        "extensions": broken.get("extensions", []),
        "grants": [
            {"name": "u", "privileges": ["USAGE"], "objects": {"schemas": ["shared"]}, "to": [f"{p}_a", f"{p}_b"]}
        ],
    }


BROKEN = {
    "role setting": ({"role": {"statement_timeout": "nonsense"}}, "role {p}_b", "22023"),
    "database setting": ({"database": {"statement_timeout": "nonsense"}}, "database {p}", "22023"),
    "unknown setting": ({"role": {"no_such_setting": "1"}}, "role {p}_b", "42704"),
    "extension version": ({"extensions": [{"name": "pgcrypto", "version": "99"}]}, "extension pgcrypto", "22023"),
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_one_refused_statement_leaves_the_others(
    postgres: PostgresEndpoint, database_name: str, kind: str
) -> None:
    broken, ref, state = BROKEN[kind]
    one = member(database_name, several(database_name, **broken))
    async with engine(postgres) as server:
        for turn in range(2):
            result = await only(server, one)
            assert reasons(result) == {ref.format(p=database_name): "StatementFailed"}
            assert f"SQLSTATE {state}" in result.problems[0].message
            assert bool(result.applied) is (turn == 0), "what stands is not made twice"
        fixed = await ready(server, member(database_name, several(database_name)))
        assert {str(change.ref) for change in fixed.applied} <= {f"role {database_name}_b", f"database {database_name}"}
    query = "SELECT has_schema_privilege(%s, 'shared', 'USAGE')"
    assert rows(postgres, query, f"{database_name}_b", dbname=database_name) == [(True,)]


async def test_an_extension_that_is_not_there_leaves_the_rest(postgres: PostgresEndpoint, database_name: str) -> None:
    one = member(database_name, several(database_name, extensions=[{"name": "nosuch"}, {"name": "citext"}]))
    async with engine(postgres) as server:
        result = await only(server, one)
        assert reasons(result) == {"extension nosuch": "ExtensionNotAvailable"}
        assert not result.provisioned
        assert "extension citext" in {str(change.ref) for change in result.applied}


async def test_what_somebody_undoes_at_once_is_rolled_back_and_named(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    one = member(database_name, several(database_name))
    async with engine(postgres) as server:
        await ready(server, member(database_name, {"schemas": [{"name": "shared"}]}))
        run(
            postgres,
            f"""CREATE FUNCTION public.undo() RETURNS event_trigger LANGUAGE plpgsql AS
              $$ BEGIN REVOKE USAGE ON SCHEMA shared FROM {database_name}_a; END $$;
            CREATE EVENT TRIGGER undo ON ddl_command_end WHEN TAG IN ('GRANT') EXECUTE FUNCTION public.undo()""",
            database_name,
        )
        with pytest.raises(TransientError, match="grant u") as caught:
            await only(server, one)
        assert caught.value.reason is Reason.NOT_CONVERGED
        assert rows(postgres, "SELECT FROM pg_namespace WHERE nspname = 'avatar'", dbname=database_name) == []
        run(postgres, "DROP EVENT TRIGGER undo", database_name)
        await ready(server, one)


@pytest.mark.own_postgres
async def test_a_lock_that_somebody_holds_is_waited_for_no_longer_than_lock_timeout(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    one = member(database_name, several(database_name))
    async with engine(postgres, limits=limits(lock_timeout=0.3)) as server:
        await ready(server, one)
        run(postgres, f"REVOKE USAGE ON SCHEMA shared FROM {database_name}_a", database_name)
        with postgres.connect(database_name) as holder:
            holder.execute("SELECT pg_advisory_lock(%s)", [LOCK_KEY])
            started = time.monotonic()
            with pytest.raises(TransientError, match="another session holds") as caught:
                await only(server, one)
            assert caught.value.reason is Reason.WAITING_FOR_LOCK
            assert time.monotonic() - started < 5
        await ready(server, one)


async def test_a_server_that_was_restarted_gets_new_connections() -> None:
    one = member("shop", several("shop"))
    with PostgresServer.launch("18") as server:
        async with engine(server) as selvedge:
            await ready(selvedge, one)
            for immediate in (False, True):
                server.stop(immediate=immediate)
                with pytest.raises(TransientError) as caught:
                    await only(selvedge, one)
                assert caught.value.reason in (Reason.UNREACHABLE, Reason.CONNECTION_LOST)
                server.start()
                await ready(selvedge, one)
            server.restart()
            await ready(selvedge, one)


async def test_a_server_that_falls_silent_holds_nobody(postgres: PostgresEndpoint, database_name: str) -> None:
    one = member(database_name, several(database_name))
    async with engine(postgres) as patient:
        await ready(patient, one)  # CREATE DATABASE may take a busy machine longer than a second
    async with proxy(postgres.port) as between:
        hosts = ((postgres.host, between.port),)
        short = limits(statement_timeout=1.0, connect_timeout=1.0)
        async with engine(postgres, hosts=hosts, limits=short) as server:
            await ready(server, one)
            between.hang()
            started = time.monotonic()
            with pytest.raises(TransientError) as caught:
                await only(server, one)
            assert caught.value.reason is Reason.CONNECTION_LOST
            with pytest.raises(TransientError) as caught:
                await only(server, one)
            assert caught.value.reason is Reason.CONNECTION_TIMEOUT
            assert time.monotonic() - started < 25
            assert server.connections()["active"] == 0
            between.flowing.set()
            await ready(server, one)


async def test_a_cancelled_pass_gives_its_connection_back(postgres: PostgresEndpoint, database_name: str) -> None:
    one = member(database_name, several(database_name))
    async with engine(postgres, limits=limits(max=1)) as server:
        await ready(server, one)
        for delay in (0.0, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.008):
            task = asyncio.create_task(only(server, one))
            await asyncio.sleep(delay)  # the cut: each at another moment of the pass
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert server.connections()["active"] == 0
        await ready(server, one)


def connected(port: int) -> int:
    """How many connections to this port this process has open, as the kernel sees it.

    The server goes on showing a session for a moment after its client has left. Other processes on this machine may
    knock at the port as well, as operators do whose server had it before.
    """
    own = set()
    for handle in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the directory itself
            own.add(str(handle.readlink()))
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    open_to = {f"socket:[{line[9]}]" for line in lines if line[3] == "01" and int(line[2].split(":")[1], 16) == port}
    return len(own & open_to)


async def test_the_limit_of_connections_holds_for_many_units() -> None:
    with PostgresServer.launch("18") as server:
        names = [f"unit_{number}" for number in range(60)]
        one = PostgresEngine(target(server, limits=limits(max=5, acquire_timeout=60.0)), Count())
        most, done = 0, asyncio.Event()

        async def watch() -> None:
            nonlocal most
            while not done.is_set():
                most = max(most, connected(server.port))
                await asyncio.sleep(0.02)  # between two looks, all through the work

        watcher = asyncio.create_task(watch())
        for _ in range(2):
            results = await asyncio.gather(*(only(one, member(name, {"schemas": [{"name": "s"}]})) for name in names))
            assert all(result.verified for result in results)
        done.set()
        await watcher
        assert 1 < most <= 5
        await one.close()


async def test_a_budget_that_is_used_up_is_told_from_a_server_that_has_no_connection_left(
    postgres: PostgresEndpoint,
) -> None:
    async with engine(postgres, limits=limits(max=1, acquire_timeout=0.1)) as server:
        async with server.pool.session("postgres"):
            with pytest.raises(BudgetError, match=r"spec\.connections\.max") as caught:
                async with server.pool.session("postgres"):
                    pass
        assert caught.value.reason is Reason.TOO_MANY_CONNECTIONS
        async with server.pool.session("postgres"):
            pass


CHILD = """
import asyncio, os, sys
from sandbox import PostgresEndpoint
from pathlib import Path
from tests.engines.test_postgres_failures import several
from tests.engines.postgres_support import Count, limits, member, only, target
from selvedge.core.errors import TransientError
from selvedge.engines.postgres.engine import PostgresEngine

async def main(version, host, port, user, sslmode, ca, name, turns):
    password = os.environ["SELVEDGE_TEST_PASSWORD"]
    endpoint = PostgresEndpoint(version, int(port), password, Path(ca) if ca else None, host, user, sslmode=sslmode)
    one = member(name, several(name))
    print("started", flush=True)
    server = PostgresEngine(target(endpoint, limits=limits(lock_timeout=20.0)), Count())
    for _ in range(int(turns)):
        result = await only(server, one)
        assert result.verified, result.problems
    await server.close()
    print("verified", flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


def child(postgres: PostgresEndpoint, name: str, turns: int = 1) -> subprocess.Popen[str]:
    """A process that converges one unit, as another operator would."""
    arguments = [postgres.version, postgres.host, str(postgres.port), postgres.username]
    arguments += [postgres.sslmode, str(postgres.ca_path or ""), name, str(turns)]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments],
        cwd=ROOT,
        env={
            "PYTHONPATH": f"{ROOT}:{ROOT / 'operator'}",
            "PATH": "/usr/bin",
            "PYTEST_CURRENT_TEST": os.environ["PYTEST_CURRENT_TEST"],
            "SELVEDGE_TEST_PASSWORD": postgres.password,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.newest  # on the others: test_many_processes.py
async def test_many_processes_and_analyze_at_once_leave_one_of_each(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    processes = [child(postgres, database_name, turns=3) for _ in range(8)]
    while any(process.poll() is None for process in processes):
        if rows(postgres, "SELECT FROM pg_database WHERE datname = %s", database_name):
            run(postgres, "ANALYZE pg_catalog.pg_namespace; ANALYZE pg_catalog.pg_class", database_name)
        await asyncio.sleep(0.01)  # between two rounds of ANALYZE, for as long as they work
    failed = [errors for process in processes for errors in [process.communicate()[1]] if process.returncode]
    assert failed == []
    async with engine(postgres) as server:
        await ready(server, member(database_name, several(database_name)))


async def test_a_process_that_is_killed_leaves_what_the_next_one_finishes(
    postgres: PostgresEndpoint, database_name: str, request: pytest.FixtureRequest
) -> None:
    one = member(database_name, several(database_name))
    gone = member(database_name, several(database_name), deletionPolicy="Delete", deleting=True)
    spread = random.Random(20261121)
    for _ in range(30 if request.config.getoption("--long") else 6):
        process = child(postgres, database_name)
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        await asyncio.sleep(spread.uniform(0.0, 0.12))  # the cut
        process.send_signal(signal.SIGKILL)
        process.communicate()
        async with engine(postgres, limits=limits(lock_timeout=20.0)) as server:
            await ready(server, one)
            assert (await ready(server, one)).applied == ()
            await server.remove(unit(gone), lead)
