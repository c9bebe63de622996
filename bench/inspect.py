"""Looking at a database of 5,000 tables, 500 roles and 2,000 policies, beside psql with the same statement.

A look is the snapshot statement, reading its answer, and the difference to a declaration that it matches: 40 schemas,
500 roles and 360 grants; and once more with the 2,000 policies declared as well. Nothing of it needs a cluster.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from bench import large
from bench.results import machine, spread, write
from sandbox.postgres import PostgresServer
from sandbox.progress import step
from selvedge.engines.base import ConnectionLimits, ServerTarget, TlsOptions, Unit
from selvedge.engines.postgres.compile import compile_unit
from selvedge.engines.postgres.engine import PostgresEngine
from selvedge.engines.postgres.looks import read_snapshot
from selvedge.engines.postgres.snapshot import database_statement

Figures = dict[str, Any]
_BUDGET_SECONDS = 0.15


def measure(scale: float = 1.0) -> None:
    """On Postgres 15 and 18, without and with policies in the declaration; writes inspect.json."""
    facts, size = machine(), large.Size.of(scale)
    figures: Figures = {"tables": size.tables, "roles": size.roles, "policies": size.policies}
    for version in ("15", "18"):
        with PostgresServer.launch(version, settings=large.SETTINGS) as server:
            with step(f"Postgres {version}: making the database"):
                large.fill(server, size)
            without = large.unit(large.documents(size, policies=False))
            figures[f"postgres_{version}"] = asyncio.run(_look(server, without))
            with_policies = large.unit(large.documents(size, policies=True))
            figures[f"postgres_{version}"]["policies_declared"] = asyncio.run(_look(server, with_policies))
    write("inspect", facts, {"budget_seconds": _BUDGET_SECONDS, **figures}, scale)


class Nobody:
    """An observer that nobody asks."""

    def statement(self, operation: str, seconds: float, error: str = "") -> None:
        """Nobody scrapes a measurement."""


def target(server: PostgresServer) -> ServerTarget:
    """The server as its administrator."""
    return ServerTarget(
        hosts=((server.host, server.port),),
        username=server.username,
        password=server.password,
        tls=TlsOptions("VerifyFull", server.ca, "", ""),
        limits=ConnectionLimits(),
    )


async def _look(server: PostgresServer, unit: Unit) -> Figures:
    engine = PostgresEngine(target(server), Nobody())
    try:
        started = time.perf_counter()
        first = await engine.converge(unit, lambda: None)
        first_seconds = time.perf_counter() - started
        for member in first.members.values():
            if member.problems or member.pending:
                raise RuntimeError(f"the first pass left something to do: {member.problems[:1]} {member.pending[:1]}")
        passes, statements = [], []
        compiled = compile_unit(unit)
        schemas = compiled.desired.schema_names() | {"public"}
        statement = database_statement(compiled.desired, schemas, engine.metadata_schema)
        text = statement.as_string(None)
        for _ in range(15):
            started = time.perf_counter()
            result = await engine.converge(unit, lambda: None)
            passes.append(time.perf_counter() - started)
            if any(member.applied for member in result.members.values()):
                raise RuntimeError("a second pass changed something")
            async with engine.pool.session(large.DATABASE) as session:
                started = time.perf_counter()
                await read_snapshot(session, compiled.desired, engine.metadata_schema)
                statements.append(time.perf_counter() - started)
    finally:
        await engine.close()
    once, twice = _psql(server, text, 1), _psql(server, text, 11)
    bare = (twice - once) / 10
    whole = spread(passes)
    return {
        "first_pass_seconds": round(first_seconds, 2),
        "pass_seconds": whole,
        "statement_and_parse_seconds": spread(statements),
        "psql_same_statement_seconds": round(bare, 4),
        "psql_whole_run_seconds": round(once, 4),
        "ratio_to_psql": round(whole["p50"] / bare, 2),
        "within_budget": whole["p50"] <= _BUDGET_SECONDS,
        "profile": await _parts(target(server), unit),
    }


async def _parts(server: ServerTarget, unit: Unit) -> dict[str, float]:
    """Where a pass's own time goes: seconds for each step, one pass over a fresh connection left out."""
    import cProfile
    import pstats

    engine = PostgresEngine(server, Nobody())
    try:
        await engine.converge(unit, lambda: None)
        profile = cProfile.Profile()
        profile.enable()
        await engine.converge(unit, lambda: None)
        profile.disable()
    finally:
        await engine.close()
    names = ("compile_unit", "parse_snapshot", "diff_database", "diff_cluster", "database_statement", "loads", "select")
    found: dict[str, float] = {}
    # what is documented, get_stats_profile(), keeps one function of each name only; `stats` is not in typeshed
    for (_, _, name), (_, _, _, cumulative, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        if name in names:
            found[name] = round(max(found.get(name, 0.0), cumulative), 4)
    return found


def _psql(server: PostgresServer, text: str, times: int) -> float:
    started = time.perf_counter()
    server.psql(f"\\o /dev/null\n{(text + ';') * times}", large.DATABASE)
    return time.perf_counter() - started
