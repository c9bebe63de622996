"""An empty pass: one look at a database that matches, beside the same statement over a driver's bare connection.

The declaration is that of `apply_to_ready`: 5 schemas, 6 roles, 40 grants, on schemas with tables in them. What a pass
costs by itself is measured with the engine alone, over connections that are kept; what it costs within the operator
(the sweep, a login, the status) stands in the figures of an idle operator. A pass over a database of 5,000 tables is
measured by `inspect`.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import psycopg

from bench import manifests
from bench.apply_to_ready import existing
from bench.inspect import Nobody, target
from bench.results import machine, spread, write
from bench.world import SETTINGS
from sandbox.postgres import PostgresServer
from selvedge.api.databaseschema import DatabaseSchemaSpec
from selvedge.engines.base import Member, Unit
from selvedge.engines.postgres.compile import compile_unit
from selvedge.engines.postgres.engine import PostgresEngine
from selvedge.engines.postgres.snapshot import database_statement

Figures = dict[str, Any]
_NAME = "empty"
_PASSES = 500
_WARM = 5


def measure(scale: float = 1.0) -> None:
    """On Postgres 15 and 18; writes empty.json."""
    facts, number = machine(), max(50, int(_PASSES * scale))
    figures: Figures = {"passes": number}
    for version in ("15", "18"):
        with PostgresServer.launch(version, settings=SETTINGS) as server:
            with server.connect() as connection:
                connection.execute("CREATE EXTENSION pg_stat_statements")
            existing(server, _NAME)
            figures[f"postgres_{version}"] = asyncio.run(_passes(server, number))
    write("empty", facts, figures, scale)


async def _passes(server: PostgresServer, number: int) -> Figures:
    declared = manifests.rich(_NAME, adoption="Allow", tables=True)
    spec = DatabaseSchemaSpec.model_validate(declared["spec"])
    unit = Unit(_NAME, (Member(_NAME, "bench", _NAME, 1, "", spec, verified=True),), "bench")
    engine = PostgresEngine(target(server), Nobody())
    desired = compile_unit(unit).desired
    statement = database_statement(desired, desired.schema_names() | {"public"}, engine.metadata_schema)
    try:
        for _ in range(_WARM):
            result = await engine.converge(unit, lambda: None)
        problems = [problem for member in result.members.values() for problem in (*member.problems, *member.pending)]
        if problems:
            raise RuntimeError(f"the declaration does not become true: {problems[0]}")
        before, cpu = _counted(server), time.process_time()
        passes = []
        for _ in range(number):
            started = time.perf_counter()
            result = await engine.converge(unit, lambda: None)
            passes.append(time.perf_counter() - started)
        cpu, after = time.process_time() - cpu, _counted(server)
        if any(member.applied for member in result.members.values()):
            raise RuntimeError("a pass over what matches changed something")
    finally:
        await engine.close()
    bare = await _bare(server, statement.as_string(None), number)
    ours = spread(passes)
    return {
        "pass_seconds": ours,
        "driver_same_statement_seconds": bare,
        "ratio_to_driver": round(ours["p50"] / bare["p50"], 2),
        "beyond_driver_p50_ms": round(1000 * (ours["p50"] - bare["p50"]), 2),
        "cpu_ms_a_pass": round(1000 * cpu / number, 2),
        "statements_a_pass": round((after[0] - before[0]) / number, 3),
        "wal_bytes": after[1] - before[1],
    }


async def _bare(server: PostgresServer, text: str, number: int) -> dict[str, float]:
    """Psycopg alone: the statement sent over one connection, its answer read as text and thrown away."""
    seconds = []
    where = server.conninfo(_NAME)
    async with await psycopg.AsyncConnection.connect(where, autocommit=True) as connection:
        for index in range(-_WARM, number):
            started = time.perf_counter()
            cursor = await connection.execute(text.encode(), prepare=False)
            await cursor.fetchall()
            if index >= 0:
                seconds.append(time.perf_counter() - started)
    return spread(seconds)


def _counted(server: PostgresServer) -> tuple[int, int]:
    """Statements that clients sent to the database, and bytes of WAL that statements in it wrote."""
    with server.connect() as connection:
        row = connection.execute(
            "SELECT coalesce(sum(calls) FILTER (WHERE toplevel), 0)::bigint, coalesce(sum(wal_bytes), 0)::bigint "
            "  FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid WHERE d.datname = %s",
            [_NAME],
        ).fetchone()
    if row is None:
        raise RuntimeError("pg_stat_statements answers nothing")
    return int(row[0]), int(row[1])
