"""A MigrationRun in several schemas of its database: the same files in each, one after the other, told as one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from selvedge.api.databaseschema import DatabaseSchemaSpec
from selvedge.api.migrationrun import MigrationRunSpec
from selvedge.migrate.operation import Operation, Prepared, Source
from selvedge.migrate.scopes import InTurn, Opened, Part, check_scopes, prepare_part
from selvedge.reconcile.context import Context
from selvedge.reconcile.runboard import Board


def schemas_of(spec: MigrationRunSpec, schema: DatabaseSchemaSpec) -> tuple[str, ...]:
    """The schemas that a run is for, each once: its own, else the DatabaseSchema's; none for the database as it is."""
    given = spec.schemas or (schema.migrations.schemas if schema.migrations is not None else ())
    return tuple(dict.fromkeys(given))


async def run_in_schemas(
    context: Context,
    scopes: Sequence[str],
    source: Source,
    operation: Operation,
    opened: Opened,
    board: Board,
    allow: Callable[[Prepared, Sequence[str]], None],
) -> None:
    """Plan in every schema, and only then run in the first.

    ``allow`` raises where a person has to say yes to the whole, of which ``done`` lines ran before. Raises the errors
    of ``core/errors.py``, which name their schema.
    """
    check_scopes(scopes, operation)
    parts: list[Part] = []
    version = 0
    for scope in scopes:
        async with opened(scope) as session:
            parts.append(await prepare_part(session, source, operation, scope))
            version = session.server_version
    turn = InTurn(tuple(parts))
    prepared = turn.prepared
    board.begin(prepared)
    await board.advise(turn.once, version)
    if operation.action in ("Plan", "Validate"):
        await board.conclude(prepared)
        return
    allow(prepared, turn.done)
    board.start()
    if operation.action not in ("Up", "Baseline"):
        await board.save()
    try:
        result = await turn.perform(
            opened, on_progress=board.progress, stop=context.stopping, may_write=context.may_write
        )
    finally:
        board.version = turn.version
    await board.finish(result, prepared)
