"""Looking at a database of 5,000 tables, 500 roles and 2,000 policies, beside psql with the same statement.

A look is the snapshot statement, reading its answer, and the difference to a declaration of 40 schemas, 500 roles and
360 grants that it matches. Nothing of it needs a cluster.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from psycopg import sql

from bench.results import machine, spread, write
from sandbox.postgres import PostgresServer
from selvedge.api.databaseschema import DatabaseSchemaSpec
from selvedge.engines.base import ConnectionLimits, Member, ServerTarget, TlsOptions, Unit
from selvedge.engines.postgres.compile import compile_unit
from selvedge.engines.postgres.engine import PostgresEngine
from selvedge.engines.postgres.looks import read_snapshot
from selvedge.engines.postgres.snapshot import database_statement

_BUDGET_SECONDS = 0.15
_DATABASE = "large"
_SCHEMAS = 40
#: A DatabaseSchema declares at most 200 roles: several share the database.
_ROLES_OF_ONE = 200
_MEMBERS = 3


def measure(scale: float = 1.0) -> None:
    """On Postgres 15 and 18; writes inspect.json."""
    facts = machine()
    tables, roles, policies = int(5000 * scale), int(500 * scale), int(2000 * scale)
    figures: dict[str, Any] = {"tables": tables, "roles": roles, "policies": policies}
    for version in ("15", "18"):
        settings = {"max_locks_per_transaction": "1024"}
        with PostgresServer.launch(version, settings=settings) as server:
            _fill(server, tables, roles, policies)
            figures[f"postgres_{version}"] = asyncio.run(_look(server, roles))
    write("inspect", facts, {"budget_seconds": _BUDGET_SECONDS, **figures}, scale)


class _Nobody:
    def statement(self, operation: str, seconds: float, error: str = "") -> None:
        """Nobody scrapes a measurement."""


async def _look(server: PostgresServer, roles: int) -> dict[str, Any]:
    target = ServerTarget(
        hosts=((server.host, server.port),),
        username=server.username,
        password=server.password,
        tls=TlsOptions("VerifyFull", server.ca, "", ""),
        limits=ConnectionLimits(),
    )
    engine = PostgresEngine(target, _Nobody())
    unit = Unit(
        _DATABASE,
        tuple(_member(start, min(start + _ROLES_OF_ONE, roles)) for start in range(0, roles, _ROLES_OF_ONE)),
        "bench",
    )
    try:
        first = await engine.converge(unit, lambda: None)
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
            async with engine.pool.session(_DATABASE) as session:
                started = time.perf_counter()
                await read_snapshot(session, compiled.desired, engine.metadata_schema)
                statements.append(time.perf_counter() - started)
    finally:
        await engine.close()
    once, twice = _psql(server, text, 1), _psql(server, text, 11)
    bare = (twice - once) / 10
    whole = spread(passes)
    return {
        "pass_seconds": whole,
        "statement_and_parse_seconds": spread(statements),
        "psql_same_statement_seconds": round(bare, 4),
        "psql_whole_run_seconds": round(once, 4),
        "ratio_to_psql": round(whole["p50"] / bare, 2),
        "within_budget": whole["p50"] <= _BUDGET_SECONDS,
        "profile": await _parts(engine_target=target, unit=unit),
    }


async def _parts(engine_target: ServerTarget, unit: Unit) -> dict[str, float]:
    """Where a pass's own time goes: seconds for each step, one pass over a fresh connection left out."""
    import cProfile
    import pstats

    engine = PostgresEngine(engine_target, _Nobody())
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
    for (_, _, name), (_, _, _, cumulative, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        if name in names:
            found[name] = round(max(found.get(name, 0.0), cumulative), 4)
    return found


def _psql(server: PostgresServer, text: str, times: int) -> float:
    started = time.perf_counter()
    server.psql(f"\\o /dev/null\n{(text + ';') * times}", _DATABASE)
    return time.perf_counter() - started


def _member(first: int, end: int) -> Member:
    """Roles ``first`` to ``end``, a third of the schemas, and grants in all of them."""
    names = [f"r{index}" for index in range(first, end)]
    number = first // _ROLES_OF_ONE
    schemas = [f"s{index}" for index in range(_SCHEMAS)]
    grants = []
    for index, schema in enumerate(schemas):
        mine = names[index :: len(schemas)] or names[:1]
        for name, privileges, objects, to in (
            ("use", ["USAGE"], {"schemas": [schema]}, mine),
            ("read", ["SELECT"], {"tablesIn": [schema]}, mine),
            ("write", ["INSERT", "UPDATE", "DELETE"], {"tablesIn": [schema]}, mine[:2]),
        ):
            grants.append({"name": f"{name}-{schema}", "privileges": privileges, "objects": objects, "to": to})
    spec = DatabaseSchemaSpec.model_validate(
        {
            "serverRef": {"name": "main"},
            "database": _DATABASE,
            "adoption": "Allow",
            "postgres": {
                "schemas": [{"name": schema} for schema in schemas[number::_MEMBERS]],
                "roles": [{"name": name} for name in names],
                "grants": grants,
            },
        }
    )
    name = f"large-{first}"
    return Member(uid=name, namespace="bench", name=name, generation=1, created="", spec=spec, verified=True)


def _fill(server: PostgresServer, tables: int, roles: int, policies: int) -> None:
    with server.connect() as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_DATABASE)))
        with connection.transaction():
            for index in range(roles):
                connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(f"r{index}")))
    with server.connect(_DATABASE) as connection:
        for schema in range(_SCHEMAS):
            with connection.transaction():
                connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(f"s{schema}")))
                for index in range(schema, tables, _SCHEMAS):
                    table = sql.Identifier(f"s{schema}", f"t{index}")
                    connection.execute(
                        sql.SQL("CREATE TABLE {} (id bigint PRIMARY KEY, owner_id bigint, note text)").format(table)
                    )
                    if index < policies:
                        connection.execute(sql.SQL("ALTER TABLE {} ENABLE ROW LEVEL SECURITY").format(table))
                        connection.execute(sql.SQL("CREATE POLICY own ON {} USING (owner_id = 1)").format(table))
        connection.execute("ANALYZE")
