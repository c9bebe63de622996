"""MigrationRun: plan from files and the database's history, run, and show how far it is.

The history in the database is the truth. A run that was cut off is simply run again: the plan then holds what is left.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from selvedge.api.databaseschema import DatabaseSchemaSpec
from selvedge.api.migrationrun import Action, MigrationRunSpec
from selvedge.api.resource import parse
from selvedge.api.support import unsupported
from selvedge.core.backoff import delay
from selvedge.core.conditions import find, timestamp
from selvedge.core.errors import InvalidError, SelvedgeError, TransientError
from selvedge.core.reasons import Reason
from selvedge.kube.resources import DATABASE_SCHEMAS, MIGRATION_RUNS
from selvedge.migrate.load import load
from selvedge.migrate.plan import RunPlan, digest, plan
from selvedge.migrate.protocol import MigrationState, Progress, Timeouts
from selvedge.migrate.runner import RunResult, run
from selvedge.reconcile.autoapply import FINISHED, read_files, source_of
from selvedge.reconcile.context import Context
from selvedge.reconcile.outcome import Notice, Outcome, from_error
from selvedge.reconcile.permits import check_database, check_role, permit
from selvedge.reconcile.store import Object, unit_of

_log = structlog.stdlib.get_logger("selvedge.reconcile.migrationrun")
_WRITE_SECONDS = 1.0
_MAX_ROWS = 200


async def reconcile_run(context: Context, namespace: str, name: str) -> None:
    """One pass over one MigrationRun: everything that is left of it."""
    obj = context.store.get(MIGRATION_RUNS.plural, namespace, name)
    key = ("run", namespace, name)
    if obj is None or obj["metadata"].get("deletionTimestamp") or _finished(obj):
        context.failures.pop(key, None)
        return
    started = time.monotonic()
    board = _Board(context, obj)
    try:
        await _run(context, obj, board)
        context.failures.pop(key, None)
        label = "success"
    except SelvedgeError as error:
        label = str(error.reason)
        outcome = board.failed(error)
        if outcome.retrying:
            attempt = context.failures[key] = context.failures.get(key, 0) + 1
            pause = delay(attempt - 1, base=1.0, cap=60.0, random=context.random)
            outcome = board.failed(error, context.now() + timedelta(seconds=pause))
            context.enqueue_after(key, pause)
        await board.write(outcome)
    context.metrics.reconciled("MigrationRun", label, time.monotonic() - started)
    schema = context.store.get(DATABASE_SCHEMAS.plural, namespace, str(obj["spec"]["schemaRef"]["name"]))
    if schema is not None and label not in (str(Reason.WAITING_FOR_SCHEMA), str(Reason.WAITING_FOR_SERVER)):
        context.enqueue(("unit", *unit_of(schema)))  # tables that grants wait for may exist now


def _finished(obj: Object) -> bool:
    status = obj.get("status") or {}
    same = status.get("observedGeneration") == obj["metadata"].get("generation")
    return same and status.get("phase") in FINISHED


async def _run(context: Context, obj: Object, board: _Board) -> None:
    spec: MigrationRunSpec = parse(obj, strict=False).spec
    namespace = str(obj["metadata"]["namespace"])
    missing = unsupported(spec)
    if missing or spec.action is not Action.UP:
        what = ", ".join(missing) or f"spec.action {spec.action}"
        raise InvalidError(Reason.UNSUPPORTED, f"this version does not act on {what} yet: make a run without it")
    schema_obj = _schema(context, namespace, spec.schema_ref.name)
    schema: DatabaseSchemaSpec = parse(schema_obj, strict=False).spec
    server_key = unit_of(schema_obj)[:2]
    server = context.servers.get(server_key)
    if server is None:
        raise TransientError(Reason.WAITING_FOR_SERVER, f"DatabaseServer {'/'.join(server_key)} cannot be used yet")
    files = await _files(context, obj, schema_obj)
    migrations = load(files, server.spec.engine.value)
    role, owner = _roles(schema)
    rule = await permit(context, server, namespace)
    check_database(rule, namespace, schema.database)
    if role:
        check_role(rule, namespace, f"role {role} of the migrations", role)
    uid = str(obj["metadata"]["uid"])
    async with (
        server.migrating(),
        server.engine.migrations(
            schema.database, run_as=role, owner=owner, run=uid, closed=_closed(context, unit_of(schema_obj))
        ) as session,
    ):
        todo = plan(
            migrations,
            await session.history(),
            spec.action.value,
            spec.target or None,
            spec.out_of_order.value,
            spec.environment,
        )
        board.begin(todo)
        limits = Timeouts(spec.timeouts.lock, spec.timeouts.statement, spec.timeouts.lock_wait)
        result = await run(
            session,
            todo,
            timeouts=limits,
            on_progress=board.progress,
            stop=context.stopping,
            may_write=context.may_write,
        )
    await board.finish(result)


def _closed(context: Context, unit: tuple[str, str, str]) -> tuple[tuple[str, str], ...]:
    """The tables that any DatabaseSchema of this database names in ``rowLevelSecurity``."""
    found: set[tuple[str, str]] = set()
    for obj in context.store.unit(unit[:2], unit[2]):
        for entry in ((obj.get("spec") or {}).get("postgres") or {}).get("rowLevelSecurity") or ():
            schema, _, table = str(entry.get("table")).partition(".")
            found.add((schema, table))
    return tuple(sorted(found))


def _schema(context: Context, namespace: str, name: str) -> Object:
    found = context.store.get(DATABASE_SCHEMAS.plural, namespace, name)
    if found is None:
        raise TransientError(
            Reason.WAITING_FOR_SCHEMA,
            f"DatabaseSchema {namespace}/{name} does not exist: apply it, or correct spec.schemaRef",
        )
    provisioned = find((found.get("status") or {}).get("conditions") or (), "Provisioned")
    if provisioned is None or provisioned.status is not True:
        raise TransientError(
            Reason.WAITING_FOR_SCHEMA, f"DatabaseSchema {namespace}/{name} is not Provisioned yet: see its status"
        )
    return found


async def _files(context: Context, obj: Object, schema: Object) -> dict[str, str]:
    source = (obj.get("spec") or {}).get("source") or source_of(schema)
    if not source:
        message = "there are no migrations: set spec.source here, or spec.migrations.source of the DatabaseSchema"
        raise InvalidError(Reason.INVALID_SPEC, message)
    return await read_files(context, str(obj["metadata"]["namespace"]), source)


def _roles(schema: DatabaseSchemaSpec) -> tuple[str, str]:
    """The role that migrations run as, and the database's owner; empty for MongoDB, which has neither."""
    if schema.postgres is None:
        return "", ""
    owner = schema.postgres.owner or ""
    role = (schema.migrations.role if schema.migrations else None) or owner
    if not role:
        message = "migrations need a role to run as: set spec.postgres.owner or spec.migrations.role"
        raise InvalidError(Reason.INVALID_SPEC, message)
    return role, owner


@dataclass(slots=True)
class _Board:
    """The run's status while it goes on; written at most once a second, and at the end."""

    context: Context
    obj: Object
    rows: dict[int, Progress] = field(default_factory=dict)
    digest: str = ""
    started: str = ""
    written: float = 0.0

    def begin(self, todo: RunPlan) -> None:
        self.digest = digest(todo)
        self.started = (self.obj.get("status") or {}).get("startedAt") or timestamp(self.context.now())
        self.rows = {
            step.migration.version: Progress(step.migration.version, step.migration.name) for step in todo.steps
        }

    async def progress(self, row: Progress) -> None:
        self.rows[row.version] = row
        if time.monotonic() - self.written >= _WRITE_SECONDS:
            self.written = time.monotonic()
            waits = next((r for r in self.rows.values() if r.waiting_for), None)
            reason = Reason.WAITING_FOR_LOCK if waits else Reason.RUNNING
            current = next((r for r in self.rows.values() if r.state is MigrationState.RUNNING), row)
            message = f"migration {current.version} {current.name}: statement {current.statements}"
            if waits:
                message += f", waits for {waits.waiting_for}"
            await self.write(Outcome(False, reason, message, status=self._status("Running")))

    async def finish(self, result: RunResult) -> None:
        """The last word on a run. Raises its error, which decides whether it is tried again."""
        self.rows = {row.version: row for row in result.migrations} or self.rows
        if result.error is not None:
            raise result.error
        if result.stopped:
            message = "the operator is stopping: the run goes on with the next one"
            raise TransientError(Reason.RUNNING, message)
        count = len(result.migrations)
        message = f"{count} migrations were applied" if count else "nothing was left to do"
        status = {**self._status("Succeeded"), "finishedAt": timestamp(self.context.now())}
        notices = (Notice(Reason.APPLIED, message),) if count else ()
        await self.write(Outcome(True, Reason.APPLIED, message, status=status, notices=notices))

    def failed(self, error: SelvedgeError, retry_at: datetime | None = None) -> Outcome:
        outcome = from_error(error, retry_at)
        notices: tuple[Notice, ...] = ()
        finished = None
        if outcome.retrying:
            waiting = error.reason in (Reason.WAITING_FOR_SCHEMA, Reason.WAITING_FOR_SERVER, Reason.WAITING_FOR_SOURCE)
            phase = "Pending" if waiting else "Running"
        else:
            phase = "Failed"
            notices = (Notice(error.reason, error.message, True),)
            finished = timestamp(self.context.now())
        return Outcome(
            outcome.ready,
            outcome.reason,
            outcome.message,
            retrying=outcome.retrying,
            status={**self._status(phase), "finishedAt": finished},
            notices=notices,
            retry_at=outcome.retry_at,
        )

    async def write(self, outcome: Outcome) -> None:
        await self.context.write_status(MIGRATION_RUNS, self.obj, outcome)

    def _status(self, phase: str) -> dict[str, Any]:
        rows = list(self.rows.values())
        done = [row for row in rows if row.state in (MigrationState.APPLIED, MigrationState.SKIPPED)]
        status: dict[str, Any] = {"phase": phase}
        if self.started:
            status["startedAt"] = self.started
            status["progress"] = f"{len(done)}/{len(rows)}"
            status["plan"] = "sha256:" + self.digest.removeprefix("sha256:")
            status["migrations"] = [_row(row) for row in rows[-_MAX_ROWS:]]
            if done:
                status["version"] = str(max(row.version for row in done))
        return status


def _row(row: Progress) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "version": str(row.version),
        "name": row.name,
        "state": str(row.state),
        "statements": row.statements,
        "startedAt": timestamp(datetime.fromtimestamp(row.started_at, UTC)) if row.started_at else None,
        "duration": f"{row.duration:.3f}s" if row.duration is not None else None,
        "waitingFor": row.waiting_for or None,
    }
    if row.error is not None:
        error = row.error
        shown["error"] = {
            "file": error.file,
            "line": error.line,
            "statement": error.statement,
            "sqlstate": error.sqlstate,
            "message": error.message,
            "hint": error.hint or None,
        }
        shown["error"] = {key: value for key, value in shown["error"].items() if value is not None}
    return {key: value for key, value in shown.items() if value is not None}
