"""Eight processes reconcile the databases of one server while somebody else analyzes it and changes it by hand.

No update is lost and no error is left: at the end every database is what it declares, and one look says so.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox import PostgresEndpoint
from selvedge.engines.base import Member
from tests.engines.postgres_support import engine, member, ready, rows, run, unit
from tests.engines.test_mutations import TABLES, declared

pytestmark = pytest.mark.engines

ROOT = Path(__file__).resolve().parents[2]
PROCESSES = 8
CHILD = """
import asyncio, os, sys
from pathlib import Path
from sandbox import PostgresEndpoint
from selvedge.core.errors import TransientError
from selvedge.engines.postgres.engine import PostgresEngine
from tests.engines.postgres_support import Count, limits, only, target
from tests.engines.test_many_processes import shop

async def main(version, host, port, user, sslmode, ca, turns, *names):
    password = os.environ["SELVEDGE_TEST_PASSWORD"]
    endpoint = PostgresEndpoint(version, int(port), password, Path(ca) if ca else None, host, user, sslmode=sslmode)
    server = PostgresEngine(target(endpoint, limits=limits(lock_timeout=20.0)), Count())
    for turn in range(int(turns)):
        for name in names:
            while True:
                try:
                    result = await only(server, shop(name))
                    break
                except TransientError as error:  # what the operator tries again by itself
                    print("again:", error, flush=True)
            wrong = [p for p in result.problems if p.reason.value not in ("WaitingForLock", "NotConverged")]
            assert not wrong, wrong
    await server.close()

asyncio.run(main(*sys.argv[1:]))
"""

#: By hand, while they are at it.
BY_HAND = (
    "REVOKE SELECT ON app.orders FROM {p}_read",
    "ALTER ROLE {p}_read SET lock_timeout = '1s'",
    "REVOKE {p}_read FROM {p}_write",
    "ALTER DEFAULT PRIVILEGES FOR ROLE {p}_owner IN SCHEMA app REVOKE SELECT ON TABLES FROM {p}_read",
    "ALTER DATABASE {p} SET statement_timeout = '1s'",
    "COMMENT ON SCHEMA app IS 'x'",
)


def shop(name: str) -> Member:
    """The DatabaseSchema of one of the databases: grants, roles, default privileges, row-level security."""
    spec = declared(name)
    for part in ("audit", "conventions", "partitions"):
        del spec[part]
    return member(name, spec, name=name)


def child(endpoint: PostgresEndpoint, turns: int, names: list[str]) -> subprocess.Popen[str]:
    arguments = [endpoint.version, endpoint.host, str(endpoint.port), endpoint.username, endpoint.sslmode]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments, str(endpoint.ca_path or ""), str(turns), *names],
        cwd=ROOT,
        env={
            "PYTHONPATH": f"{ROOT}:{ROOT / 'operator'}",
            "PATH": "/usr/bin",
            "PYTEST_CURRENT_TEST": os.environ["PYTEST_CURRENT_TEST"],
            "SELVEDGE_TEST_PASSWORD": endpoint.password,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.timeout(900)
async def test_no_update_is_lost_and_no_error_left(
    postgres: PostgresEndpoint, database_name: str, request: pytest.FixtureRequest
) -> None:
    long = request.config.getoption("--long")
    names = [f"{database_name}_{number}" for number in range(4 if long else 2)]
    turns = 40 if long else 2
    try:
        async with engine(postgres) as server:
            for name in names:
                await server.converge(unit(shop(name)), lambda: None)
                run(postgres, TABLES.replace("{p}", name), name)
                await ready(server, shop(name))
        orders = [names[number % len(names) :] + names[: number % len(names)] for number in range(PROCESSES)]
        processes = [child(postgres, turns, order) for order in orders]
        beat = 0
        while any(process.poll() is None for process in processes):
            name = names[beat % len(names)]
            with postgres.connect(name) as connection:
                connection.execute(b"SET lock_timeout = '5s'")
                for table in ("pg_class", "pg_namespace", "pg_auth_members", "pg_authid", "pg_default_acl"):
                    connection.execute(f"ANALYZE pg_catalog.{table}".encode())
            by_hand(postgres, BY_HAND[beat % len(BY_HAND)].replace("{p}", name), name)
            beat += 1
            await asyncio.sleep(0.05)  # between two beats, for as long as they work
        told = {number: process.communicate()[0] for number, process in enumerate(processes)}
        assert [told[n][-2000:] for n, process in enumerate(processes) if process.returncode] == []
        assert beat > 3
        async with engine(postgres) as server:
            for name in names:
                await ready(server, shop(name))
                result = await ready(server, replace(shop(name), verified=True))
                assert (result.applied, result.drift) == ((), ())
                claims = "SELECT object FROM selvedge.claims GROUP BY 1 HAVING count(*) > 1"
                assert rows(postgres, claims, dbname=name) == []
    finally:
        for name in names:
            run(postgres, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def by_hand(endpoint: PostgresEndpoint, statement: str, database: str) -> None:
    """Somebody's change; where the operators changed the same row at that moment, the server refuses it."""
    try:
        run(endpoint, statement, database)
    except Exception as error:
        if getattr(error, "sqlstate", "") not in ("XX000", "40P01"):
            raise
