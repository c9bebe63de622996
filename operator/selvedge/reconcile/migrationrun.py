"""MigrationRun: plan from files and the database's history, ask where a person has to say yes, run, and show it.

The history in the database is the truth. A run that was cut off is simply run again: the plan then holds what is left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

from selvedge.api.databaseschema import DatabaseSchemaSpec, Migrations
from selvedge.api.databaseserver import deciding_fields, floored
from selvedge.api.migrationrun import Action, MigrationRunSpec
from selvedge.api.resource import parse
from selvedge.core.backoff import delay
from selvedge.core.conditions import find
from selvedge.core.errors import InvalidError, SelvedgeError, TransientError
from selvedge.core.reasons import Reason
from selvedge.kube.resources import DATABASE_SCHEMAS, MIGRATION_RUNS
from selvedge.migrate.conventions import Conventions
from selvedge.migrate.operation import Operation, Prepared, check_approval, foreseen, perform, preflight, prepare
from selvedge.migrate.operation import source_of as migrations_of
from selvedge.migrate.placeholders import placeholder_values
from selvedge.migrate.plan import REPAIRS
from selvedge.migrate.protocol import MigrationSession, Timeouts
from selvedge.reconcile.context import Context
from selvedge.reconcile.imagejob import path_of
from selvedge.reconcile.imagesource import ReadingError, forget_image, read_image
from selvedge.reconcile.permits import check_database, check_role, permit
from selvedge.reconcile.runboard import FINISHED, Board
from selvedge.reconcile.runschemas import run_in_schemas, schemas_of
from selvedge.reconcile.servers import Server
from selvedge.reconcile.sources import read_files, source_of
from selvedge.reconcile.store import Object, key_of, unit_of

#: By whom and why a run changes the history by hand, and what a repair does; see docs/guide/migrations.md.
ACTOR, REASON, REPAIR = "selvedge.dev/actor", "selvedge.dev/reason", "selvedge.dev/repair"
#: Whether a Plan also looks, in MongoDB, for what is known to fail.
PREFLIGHT = "selvedge.dev/preflight"

_LOOKS = (Action.PLAN, Action.VALIDATE)


async def reconcile_run(context: Context, namespace: str, name: str) -> None:
    """One pass over one MigrationRun: everything that is left of it."""
    obj = context.store.get(MIGRATION_RUNS.plural, namespace, name)
    key = ("run", namespace, name)
    if obj is None or obj["metadata"].get("deletionTimestamp"):
        context.failures.pop(key, None)
        return
    if (obj.get("status") or {}).get("phase") in FINISHED:
        context.failures.pop(key, None)
        await Board(context, obj).stay()
        return
    started = time.monotonic()
    before = (obj.get("status") or {}).get("phase")
    board = Board(context, obj)
    try:
        await _run(context, obj, board)
        context.failures.pop(key, None)
        label = "success"
    except SelvedgeError as error:
        label = str(error.reason)
        outcome = board.failed(error)
        if isinstance(error, ReadingError):
            outcome = board.failed(error, context.now() + timedelta(seconds=error.pause))
            context.enqueue_after(key, error.pause)
        elif isinstance(error, TransientError):
            attempt = context.failures[key] = context.failures.get(key, 0) + 1
            pause = delay(attempt - 1, base=1.0, cap=60.0, random=context.random)
            outcome = board.failed(error, context.now() + timedelta(seconds=pause))
            context.enqueue_after(key, pause)
        await board.write(outcome)
    context.metrics.reconciled("MigrationRun", label, time.monotonic() - started)
    schema = context.store.get(DATABASE_SCHEMAS.plural, namespace, str(obj["spec"]["schemaRef"]["name"]))
    # Tables that grants wait for may exist now, and the schema's own status speaks of the run. Not after a pass that
    # came to nothing: the schema's pass wakes the runs that wait, and the two would wake each other for ever.
    if schema is not None and (board.moved or board.phase != before):
        context.enqueue(("unit", *unit_of(schema)))
    await _forget(context, obj, board)  # last: a Job that cannot be deleted keeps nobody waiting


async def _run(context: Context, obj: Object, board: Board) -> None:
    spec: MigrationRunSpec = parse(obj, strict=False).spec
    namespace = str(obj["metadata"]["namespace"])
    schema_obj = _schema(context, namespace, spec.schema_ref.name)
    schema: DatabaseSchemaSpec = parse(schema_obj, strict=False).spec
    server_key = unit_of(schema_obj)[:2]
    server = context.servers.get(server_key)
    if server is None:
        raise TransientError(Reason.WAITING_FOR_SERVER, f"DatabaseServer {'/'.join(server_key)} cannot be used yet")
    word = _destructive(obj, spec, schema_obj, schema, server)
    operation = _operation(obj, spec, word, server, board)
    operation = replace(operation, conventions=_conventions(schema))
    source = await asyncio.to_thread(
        migrations_of,
        await _files(context, obj, schema_obj, spec, board),
        operation.engine,
        placeholders=_placeholders(spec, schema),
        hooks=_hooks(spec, schema),
    )
    login = await _login(context, namespace, schema)
    role, owner = _roles(schema, own=login is not None)
    rule = await permit(context, server, namespace)
    check_database(rule, namespace, schema.database)
    if role:
        check_role(rule, namespace, f"role {role} of the migrations", role)
    opened = partial(
        server.engine.migrations,
        schema.database,
        run_as=role,
        owner=owner,
        run=str(obj["metadata"]["uid"]),
        closed=_closed(context, unit_of(schema_obj)),
        login=login,
    )
    if scopes := schemas_of(spec, schema):
        async with server.migrating():
            await run_in_schemas(
                context, scopes, source, operation, lambda scope: opened(scope=scope), board, partial(_allow, board)
            )
        return
    async with server.migrating(), opened() as session:
        prepared = await prepare(session, source, operation)
        board.begin(prepared)
        await _advise(session, prepared, board)
        if spec.action is Action.PLAN and (obj["metadata"].get("annotations") or {}).get(PREFLIGHT) == "true":
            await preflight(session, prepared)
        if spec.action not in _LOOKS:
            await _perform(context, session, prepared, board)
            return
    await board.conclude(prepared)


async def _advise(session: MigrationSession, prepared: Prepared, board: Board) -> None:
    """Advice on the plan; the server is not asked again for a plan that has its advice."""
    await board.advise(prepared if board.advised else await foreseen(session, prepared), session.server_version)


async def _perform(context: Context, session: MigrationSession, prepared: Prepared, board: Board) -> None:
    """Run what was planned, if it may run."""
    done = await session.done() if board.started_before or prepared.operation.approved else ()
    if prepared.plan.action == "Redo" and board.is_redone(prepared, done):
        # cut off after its last commit and before its last word: planned anew, it would be redone once more
        prepared = replace(prepared, plan=replace(prepared.plan, steps=()))
        if not prepared.plan.owes_after_run:
            await board.look(session)
            await board.conclude(prepared)
            return
    _allow(board, prepared, done)
    board.start()
    if prepared.plan.action not in ("Up", "Baseline"):
        await board.save()  # its target, without which the rest of an interrupted run would be another plan
    result = await perform(
        session, prepared, on_progress=board.progress, stop=context.stopping, may_write=context.may_write
    )
    await board.look(session)
    await board.finish(result, prepared)


def _allow(board: Board, prepared: Prepared, done: Sequence[str]) -> None:
    """Raise RefusedError where a person has to say yes first; ``done`` are the lines of what this run did before."""
    approved = prepared.operation.approved
    if approved and board.approves(approved, prepared, done):
        operation = replace(prepared.operation, approved=prepared.digest)
        if prepared.plan.action == "Redo" and approved != prepared.digest:
            # the marks were looked at with the whole, of which the text that ran before is known no more
            prepared = replace(prepared, unmarked=())
        check_approval(replace(prepared, operation=operation))
    else:
        check_approval(prepared)


class _Word(NamedTuple):
    """What holds for a run on lost data, the fields that say so, and what to do where that is Refuse."""

    destructive: str
    deciding: str
    way_out: str


def _operation(obj: Object, spec: MigrationRunSpec, word: _Word, server: Server, board: Board) -> Operation:
    """What the run asks for, its annotations included."""
    annotations = obj["metadata"].get("annotations") or {}
    reason = str(annotations.get(REASON, "")).strip()
    repair = str(annotations.get(REPAIR) or REPAIRS[0])
    if spec.action is Action.REPAIR:
        if not reason:
            raise InvalidError(
                Reason.INVALID_SPEC,
                f"a repair is written into the history with its reason: make a run with the annotation {REASON}",
            )
        if repair not in REPAIRS:
            raise InvalidError(
                Reason.INVALID_SPEC,
                f"annotation {REPAIR} is {repair[:40]!r}: make a run with one of {', '.join(REPAIRS)}",
            )
    return Operation(
        action=spec.action.value,
        target=board.kept_target or spec.target or "",
        engine=server.spec.engine.value,
        repair=repair if spec.action is Action.REPAIR else "",
        out_of_order=spec.out_of_order.value,
        environment=spec.environment,
        transaction=spec.transaction.value,
        destructive=word.destructive,
        deciding=word.deciding,
        way_out=word.way_out,
        approved=spec.approved_plan,
        actor=str(annotations.get(ACTOR, "")).strip() or f"MigrationRun {'/'.join(key_of(obj))}",
        reason=reason,
        timeouts=Timeouts(spec.timeouts.lock, spec.timeouts.statement, spec.timeouts.lock_wait),
        resumes=bool(board.kept_target),
    )


def _destructive(
    obj: Object, spec: MigrationRunSpec, schema_obj: Object, schema: DatabaseSchemaSpec, server: Server
) -> _Word:
    """The run's own word, for one that autoApply made the DatabaseSchema's; the server's policy is a floor."""
    owners = obj["metadata"].get("ownerReferences") or ()
    owned = any(owner.get("controller") and owner.get("uid") == schema_obj["metadata"]["uid"] for owner in owners)
    automatic, policy = owned and _as_auto_apply(spec, schema.migrations), server.spec.policy
    word = schema.destructive if automatic else spec.destructive
    field = f"spec.destructive of DatabaseSchema {'/'.join(key_of(schema_obj))}" if automatic else "spec.destructive"
    says = deciding_fields(word, policy, field, server.name)
    if automatic:
        return _Word(floored(word, policy).value, says, "loosen that, then delete this run: it is made anew")
    way_out = "make a run that allows it" + (" once the server does" if says != field else "")
    return _Word(floored(word, policy).value, says, way_out)


def _as_auto_apply(spec: MigrationRunSpec, migrations: Migrations | None) -> bool:
    """Whether a run asks for what autoApply asks for now; whoever makes one writes its owner, and may ask for more."""
    if migrations is None or not migrations.auto_apply:
        return False
    asked = MigrationRunSpec(
        schema_ref=spec.schema_ref, target=migrations.target_version or None, environment=migrations.environment
    )
    return spec.model_copy(update={"approved_plan": ""}) == asked


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


async def _files(context: Context, obj: Object, schema: Object, spec: MigrationRunSpec, board: Board) -> dict[str, str]:
    source: Any = (obj.get("spec") or {}).get("source") or source_of(schema)
    if not source:
        if spec.action in (Action.DOWN, Action.TO, Action.REPAIR):
            return {}  # the history keeps the way down
        message = "there are no migrations: set spec.source here, or spec.migrations.source of the DatabaseSchema"
        raise InvalidError(Reason.INVALID_SPEC, message)
    image = source.get("image")
    if image is not None:
        path_of(image)
        board.image = image
        return await read_image(context, obj, image)
    return await read_files(context, str(obj["metadata"]["namespace"]), source)


async def _forget(context: Context, obj: Object, board: Board) -> None:
    """What a run that is over had made to read its image."""
    image = board.image
    if image is not None and board.phase in FINISHED:
        await forget_image(context, obj, image)


def _placeholders(spec: MigrationRunSpec, schema: DatabaseSchemaSpec) -> dict[str, str] | None:
    """The values of placeholders: the run's own, else the DatabaseSchema's; None where neither lists any."""
    given = spec.placeholders
    if given is None and schema.migrations is not None:
        given = schema.migrations.placeholders
    return None if given is None else placeholder_values(given, given)


def _conventions(schema: DatabaseSchemaSpec) -> Conventions | None:
    """The names that advice speaks of; None for the default ones."""
    given = schema.migrations.conventions if schema.migrations is not None else None
    return None if given is None else Conventions.from_mapping(given.model_dump())


def _hooks(spec: MigrationRunSpec, schema: DatabaseSchemaSpec) -> dict[str, str]:
    """The hooks that the run holds itself, else the DatabaseSchema, by name."""
    given = spec.hooks or (schema.migrations.hooks if schema.migrations is not None else None)
    return {} if given is None else given.model_dump(by_alias=True, exclude_none=True)


def _roles(schema: DatabaseSchemaSpec, *, own: bool) -> tuple[str, str]:
    """The role that migrations run as, and the database's owner; empty for MongoDB, which has neither.

    A login of the user's own (``own``) runs as itself where nothing else is said.
    """
    if schema.postgres is None:
        return "", ""
    owner = schema.postgres.owner or ""
    role = (schema.migrations.role if schema.migrations else None) or ("" if own else owner)
    if not role and not own:
        message = "migrations need a role to run as: set spec.postgres.owner or spec.migrations.role"
        raise InvalidError(Reason.INVALID_SPEC, message)
    return role, owner


async def _login(context: Context, namespace: str, schema: DatabaseSchemaSpec) -> tuple[str, str] | None:
    """User name and password of ``spec.migrations.runAs``; None where the operator's own login is used.

    Raises TransientError where the Secret does not exist yet, InvalidError where it lacks one of the two.
    """
    ref = schema.migrations.run_as if schema.migrations else None
    if ref is None:
        return None
    name = ref.secret_ref.name
    found = await context.secret(namespace, name)
    if found is None:
        raise TransientError(
            Reason.SECRET_NOT_FOUND, f"secret {name}, named in spec.migrations.runAs, does not exist: create it"
        )
    values = []
    for key in ("username", "password"):
        try:
            value = found.get(key, b"").decode().strip("\r\n")
        except UnicodeDecodeError:
            value = ""
        if not value or "\0" in value:
            raise TransientError(
                Reason.SECRET_KEY_MISSING, f"key {key} of secret {name} is missing, empty or no text: write it there"
            )
        values.append(value)
    return values[0], values[1]
