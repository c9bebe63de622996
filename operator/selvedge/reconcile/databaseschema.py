"""DatabaseSchema: all members of one database together, in one pass, each with its own status."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog

from selvedge.api.base import DeletionPolicy, Destructive
from selvedge.api.databaseschema import DatabaseSchemaSpec
from selvedge.api.databaseserver import EngineType, deciding_fields, floored
from selvedge.api.resource import parse
from selvedge.api.support import unsupported
from selvedge.core.backoff import delay
from selvedge.core.breaker import BreakerState
from selvedge.core.conditions import find
from selvedge.core.errors import InvalidError, RefusedError, SelvedgeError, TransientError
from selvedge.core.reasons import Reason
from selvedge.core.unit import UnitResult
from selvedge.core.words import count
from selvedge.engines.base import AccessRule, Member, Unit
from selvedge.kube.resources import DATABASE_SCHEMAS
from selvedge.reconcile.autoapply import apply_migrations, wake_runs
from selvedge.reconcile.context import Context
from selvedge.reconcile.drift import teller
from selvedge.reconcile.finalizer import hold
from selvedge.reconcile.outcome import Outcome, from_error
from selvedge.reconcile.permits import check_database, permit
from selvedge.reconcile.plans import keep_plan
from selvedge.reconcile.schemastatus import known_drift, outcome_of
from selvedge.reconcile.servers import Server
from selvedge.reconcile.store import Object, key_of

_log = structlog.stdlib.get_logger("selvedge.reconcile.databaseschema")

#: How often a look is taken whether the server has built an index; nobody tells.
_BUILDING_SECONDS = 5.0
#: Who was held up by the Kubernetes API is woken by nobody.
_API_SECONDS = 10.0
_API = frozenset({Reason.KUBERNETES_API_ERROR, Reason.KUBERNETES_FORBIDDEN})


@dataclass(slots=True)
class _Candidate:
    """A member of the unit on its way through the guards."""

    obj: Object
    spec: DatabaseSchemaSpec
    deciding: str
    access: AccessRule


async def reconcile_unit(context: Context, namespace: str, name: str, database: str) -> None:
    """One pass over one database of the DatabaseServer ``namespace/name``."""
    key = ("unit", namespace, name, database)
    objects = context.store.unit((namespace, name), database)
    if not objects:
        context.failures.pop(key, None)
        return
    started = time.monotonic()
    server = context.servers.get((namespace, name))
    exists = context.store.get("databaseservers", namespace, name) is not None
    if server is None and exists and (namespace, name) not in context.servers_tried:
        return  # this process has not looked at the server yet; when it has, it wakes this unit
    candidates, outcomes = await _guards(context, objects, server, (namespace, name))
    # Never later than the interval: it is what was promised for drift.
    pause = min((c.spec.interval for c in candidates), default=300.0) * context.random.uniform(0.9, 1.0)
    if any(outcome.reason in _API for outcome in outcomes.values()):
        pause = min(pause, _API_SECONDS * context.random.uniform(0.5, 1.0))
    label = "success"
    if candidates and server is not None:
        try:
            result = await _converge(context, server, candidates, database)
            context.failures.pop(key, None)
            for candidate in candidates:
                uid = candidate.obj["metadata"]["uid"]
                outcomes[uid] = await _settle(context, candidate, result, server)
                if any(problem.reason is Reason.BUILDING_INDEX for problem in result.members[uid].problems):
                    pause = min(pause, _BUILDING_SECONDS)
        except SelvedgeError as error:
            label = str(error.reason)
            pause, outcome = _failed(context, key, server, error, pause)
            for candidate in candidates:
                outcomes[candidate.obj["metadata"]["uid"]] = outcome
    context.metrics.reconciled("DatabaseSchema", label, time.monotonic() - started)
    for obj in objects:
        if obj["metadata"]["uid"] in outcomes:
            await context.write_status(DATABASE_SCHEMAS, obj, outcomes[obj["metadata"]["uid"]])
            wake_runs(context, obj)
    context.enqueue_after(key, pause)


def _failed(
    context: Context, key: tuple[str, ...], server: Server, error: SelvedgeError, pause: float
) -> tuple[float, Outcome]:
    """How long to wait after a failed pass, and what the members are told."""
    _log.warning("the pass failed", reason=str(error.reason), error=error.message)
    if error.reason is Reason.AUTHENTICATION_FAILED and not context.failures.get(("server", *server.key)):
        # The password may have been changed: the Secret is read again, and if it is another one, this is woken.
        context.enqueue(("server", *server.key))
    if not isinstance(error, TransientError):
        return pause, from_error(error)
    attempt = context.failures[key] = context.failures.get(key, 0) + 1
    pause = delay(attempt - 1, base=1.0, cap=300.0, random=context.random)
    if server.breaker.state(time.monotonic()) is not BreakerState.CLOSED:
        # The server's own probe wakes everybody when it answers again: until then nobody asks, and nothing is written.
        context.awaited.add(server.key)
        context.enqueue_after(("server", *server.key), server.breaker.retry_after(time.monotonic()))
        return 600.0, from_error(error)
    return pause, from_error(error, context.now() + timedelta(seconds=pause))


async def _guards(
    context: Context, objects: list[Object], server: Server | None, server_key: tuple[str, str]
) -> tuple[list[_Candidate], dict[str, Outcome]]:
    """Who takes part in the pass, and the outcomes of those who do not."""
    candidates: list[_Candidate] = []
    outcomes: dict[str, Outcome] = {}
    for obj in objects:
        uid = obj["metadata"]["uid"]
        if obj["metadata"].get("deletionTimestamp"):
            continue
        try:
            await hold(context, DATABASE_SCHEMAS, obj)
            spec: DatabaseSchemaSpec = parse(obj, strict=False).spec
            if spec.suspend:
                message = "spec.suspend is true: the database is neither looked at nor changed"
                outcomes[uid] = Outcome(None, Reason.SUSPENDED, message, retrying=False)
                continue
            if server is None:
                raise TransientError(Reason.WAITING_FOR_SERVER, _no_server(context, server_key))
            _fits_engine(spec, server)
            missing = unsupported(spec)
            if missing:
                fields = ", ".join(missing)
                raise InvalidError(Reason.UNSUPPORTED, f"this version does not act on {fields} yet: remove it")
            rule = await permit(context, server, str(obj["metadata"]["namespace"]))
        except SelvedgeError as error:
            outcomes[uid] = from_error(error)
            continue
        candidates.append(_Candidate(obj, *_floored(spec, server), rule))
    return candidates, outcomes


def _no_server(context: Context, server_key: tuple[str, str]) -> str:
    name = "/".join(server_key)
    if server_key[0] in context.left_out:
        return f"DatabaseServer {name} may not be read: {context.left_out[server_key[0]]}"
    if context.store.get("databaseservers", *server_key) is None:
        return f"DatabaseServer {name} does not exist: apply it, or correct spec.serverRef"
    return f"DatabaseServer {name} cannot be used yet: see its status"


def _fits_engine(spec: DatabaseSchemaSpec, server: Server) -> None:
    wanted = EngineType.POSTGRES if spec.postgres is not None else EngineType.MONGODB
    if wanted is not server.spec.engine:
        message = f"DatabaseServer {server.name} is a {server.spec.engine} server and this declares a {wanted} database"
        raise InvalidError(Reason.INVALID_SPEC, message + ": correct spec.serverRef")


def _floored(spec: DatabaseSchemaSpec, server: Server) -> tuple[DatabaseSchemaSpec, str]:
    """The server's policy is a floor: what it refuses, no resource can allow. With the fields that say so."""
    policy = server.spec.policy
    says = deciding_fields(spec.destructive, policy, "spec.destructive", server.name)
    return spec.model_copy(update={"destructive": floored(spec.destructive, policy)}), says


async def _converge(context: Context, server: Server, candidates: list[_Candidate], database: str) -> UnitResult:
    rules = {candidate.obj["metadata"]["uid"]: candidate.access for candidate in candidates}
    unit = Unit(
        database,
        tuple(_member(context, one.obj, one.spec, deciding=one.deciding) for one in candidates),
        context.cluster,
        access=lambda member: rules[member.uid],
        alive=context.alive,
        on_drift=teller(context, [candidate.obj for candidate in candidates]),
    )
    limit = context.settings.reconcile_timeout
    try:
        async with asyncio.timeout(limit), server.use() as engine:
            return await engine.converge(unit, context.may_write)
    except TimeoutError:
        message = f"the pass over database {database} took longer than {limit:g} s and was cancelled"
        raise TransientError(Reason.TIMEOUT, message) from None


def _member(
    context: Context,
    obj: Object,
    spec: DatabaseSchemaSpec,
    *,
    deleting: bool = False,
    deciding: str = "spec.destructive",
) -> Member:
    metadata = obj["metadata"]
    generation = int(metadata.get("generation", 0))
    ready = find((obj.get("status") or {}).get("conditions") or (), "Ready")
    # DriftDetected is also what a pass leaves behind whose process died between the telling and the repair.
    verified = context.drifted.get(str(metadata["uid"])) == generation or (
        ready is not None
        and ready.observed_generation == generation
        and (ready.status is True or ready.reason == Reason.DRIFT_DETECTED)
    )
    return Member(
        uid=str(metadata["uid"]),
        namespace=str(metadata["namespace"]),
        name=str(metadata["name"]),
        generation=generation,
        created=str(metadata.get("creationTimestamp", "")),
        spec=spec,
        verified=verified,
        deleting=deleting,
        deciding=deciding,
    )


async def _settle(context: Context, candidate: _Candidate, unit: UnitResult, server: Server) -> Outcome:
    """The outcome of a finished pass, with migrations that are to be applied by themselves."""
    result = unit.members[str(candidate.obj["metadata"]["uid"])]
    context.metrics.headroom("/".join(server.key), "/".join(key_of(candidate.obj)), result.headroom)
    plan, result = await keep_plan(context, candidate.obj, candidate.spec.database, result, unit.system_identifier)
    waiting = ""
    if result.provisioned and candidate.spec.migrations is not None:
        waiting = await apply_migrations(context, candidate.obj, candidate.spec.migrations, server)
    if result.applied or result.drift:
        name = "/".join(key_of(candidate.obj))
        _log.info("changed the database", schema=name, changes=len(result.applied), drift=len(result.drift))
    outcome = outcome_of(candidate.obj, candidate.spec, result, waiting, context.now(), plan=plan)
    context.drifted.pop(str(candidate.obj["metadata"]["uid"]), None)
    if result.drift and not known_drift(candidate.obj, result):
        applied = {change.ref for change in result.applied}
        for ref in result.drift:
            context.metrics.drift(ref.kind, found=1, repaired=int(ref in applied))
    return outcome


async def remove_schema(context: Context, obj: Object) -> None:
    """``deletionPolicy: Delete``: remove what this resource made; raises our errors until it is done.

    With the server gone, the resource is let go: there is nothing to remove it from. Why it is not done yet stands in
    the status.
    """
    try:
        await _remove(context, obj)
    except SelvedgeError as error:
        await context.write_status(DATABASE_SCHEMAS, obj, from_error(error))
        raise


async def _may_remove(context: Context, server: Server, namespace: str, spec: DatabaseSchemaSpec) -> None:
    """What holds for every change holds for the last one too: the server's access, and who refuses to lose data."""
    database = spec.database
    way_out = "or set spec.deletionPolicy to Retain, and the resource goes without touching the database"
    try:
        check_database(await permit(context, server, namespace), namespace, database)
    except RefusedError as error:
        raise RefusedError(error.reason, f"database {database} is not cleaned up: {error.message}, {way_out}") from None
    held, says = _floored(spec, server)
    if held.destructive is Destructive.REFUSE:
        message = f"database {database} is not cleaned up: {says} is Refuse; loosen that, {way_out}"
        raise RefusedError(Reason.DESTRUCTIVE_REFUSED, message)


async def _remove(context: Context, obj: Object) -> None:
    spec: DatabaseSchemaSpec = parse(obj, strict=False).spec
    namespace = spec.server_ref.namespace or str(obj["metadata"]["namespace"])
    server_key = (namespace, spec.server_ref.name)
    server = context.servers.get(server_key)
    if server is None:
        if context.store.get("databaseservers", *server_key) is None and server_key[0] not in context.left_out:
            message = f"DatabaseServer {'/'.join(server_key)} is gone: what this resource made stays where it is"
            await context.events.post(obj, Reason.RETAINED, message, type="Warning")
            return
        raise TransientError(Reason.WAITING_FOR_SERVER, _no_server(context, server_key))
    await _may_remove(context, server, str(obj["metadata"]["namespace"]), spec)
    others = [o for o in context.store.unit(server_key, spec.database) if key_of(o) != key_of(obj)]
    members = [_member(context, obj, spec, deleting=True)]
    for other in others:
        try:
            parsed: DatabaseSchemaSpec = parse(other, strict=False).spec
        except SelvedgeError:
            # Unreadable, and yet a member: the database is not dropped below it.
            raise RefusedError(
                Reason.CONFLICT, f"DatabaseSchema {'/'.join(key_of(other))} shares the database and cannot be read"
            ) from None
        gone = bool(other["metadata"].get("deletionTimestamp"))
        members.append(_member(context, other, parsed, deleting=gone))
    only = {str(obj["metadata"]["uid"])}
    # Those that go as well, and take what is theirs with them: what they claim keeps no database.
    going = {
        f"{m.namespace}/{m.name}" for m in members if m.deleting and m.spec.deletion_policy is DeletionPolicy.DELETE
    }
    unit = Unit(
        spec.database,
        tuple(m for m in members if m.uid in only or not m.deleting),
        context.cluster,
        alive=lambda resource: resource not in going,
    )
    async with asyncio.timeout(context.settings.reconcile_timeout), server.use() as engine:
        result = await engine.remove(unit, context.may_write)
    removed = sum(len(member.applied) for member in result.members.values())
    await context.events.post(obj, Reason.DELETED, f"removed what this resource made: {count(removed, 'object')}")


def counts(objects: list[Object]) -> dict[str, int]:
    """How many resources are in which state of Ready, for the metric."""
    found: dict[str, int] = {}
    for obj in objects:
        ready: Any = find((obj.get("status") or {}).get("conditions") or (), "Ready")
        word = "Unknown" if ready is None or ready.status is None else str(ready.status)
        found[word] = found.get(word, 0) + 1
    return found
