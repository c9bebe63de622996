"""DatabaseServer: log in, look, say what was found. The only kind that opens and closes circuits by itself."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

from selvedge.api.databaseserver import DatabaseServerSpec
from selvedge.api.resource import parse
from selvedge.core.backoff import delay
from selvedge.core.breaker import BreakerState
from selvedge.core.errors import InvalidError, NotPermittedError, SelvedgeError, TransientError
from selvedge.core.figures import ServerFigures
from selvedge.core.reasons import Reason
from selvedge.engines.base import ServerFacts
from selvedge.kube.errors import KubeError
from selvedge.kube.resources import DATABASE_SERVERS
from selvedge.reconcile.context import Context
from selvedge.reconcile.outcome import Notice, Outcome, from_error
from selvedge.reconcile.removal import wake_removals
from selvedge.reconcile.servers import Server
from selvedge.reconcile.store import Object
from selvedge.reconcile.target import read_target
from selvedge.reconcile.wakeusers import footing, wake_users_of_server


async def reconcile_server(context: Context, namespace: str, name: str) -> None:
    """One pass over one DatabaseServer."""
    obj = context.store.get(DATABASE_SERVERS.plural, namespace, name)
    key = ("server", namespace, name)
    if obj is None:
        await _forget(context, namespace, name)
        return
    started = time.monotonic()
    first, stood = (namespace, name) not in context.servers_tried, footing(context, (namespace, name))
    spec: DatabaseServerSpec | None = None
    server: Server | None = None
    known = context.servers.get((namespace, name))
    old = known.spec if known is not None else None
    figures: ServerFigures | None = None
    before = (obj.get("status") or {}).get("systemIdentifier", "")
    try:
        spec = parse(obj, strict=False).spec
        interval = spec.monitoring.interval
        if known is not None and known.may_keep(spec, started):
            server = known
        else:
            keys = spec.credentials.keys
            plain = [key for key in (keys.username, keys.host, keys.port) if key]
            target = await read_target(spec, lambda secret: context.secret(namespace, secret, plain))
            server = await context.servers.put((namespace, name), spec, target, before, started)
        was_closed = server.breaker.state(started) is BreakerState.CLOSED
        facts = await _probe(server)
        outcome, figures = _outcome(facts, before), facts.figures
        replaced = outcome.reason is Reason.SERVER_REPLACED
        server.blocked = InvalidError(outcome.reason, outcome.message) if replaced else None
        context.failures.pop(key, None)
        changed = first or server is not known or not was_closed or _ready_before(obj) is not outcome.ready
        pause = interval * context.random.uniform(0.9, 1.1)
    except SelvedgeError as error:
        attempt = context.failures[key] = context.failures.get(key, 0) + 1
        # where the Secrets are wrong, or were taken away, nobody goes on with the old ones; an API server that does not
        # answer says nothing of them, and what the spec says now may be stricter than what it said
        unknown = isinstance(error, KubeError) and error.code not in _REFUSALS and old == spec
        if server is None and not unknown:
            await context.servers.remove((namespace, name))
        pause = delay(attempt - 1, base=1.0, cap=_cap(error, attempt), random=context.random)
        in_secret = spec is not None and server is None
        if isinstance(error, InvalidError) and not in_secret and error.reason not in _FROM_OUTSIDE:
            pause = 300.0
        outcome = from_error(error, context.now() + timedelta(seconds=pause))
        changed = attempt == 1
    context.servers_tried.add((namespace, name))
    # before the status is written: where that fails, the pass that comes after sees nothing new
    awaited = _answers_who_wait(context, (namespace, name), server)
    # a change of what it lets its databases do concerns all of them
    ruled = old is not None and spec is not None and (old.policy, old.access) != (spec.policy, spec.access)
    if changed or awaited or ruled:
        wake_units(context, namespace, name)
    if first or awaited or ruled or footing(context, (namespace, name)) != stood:
        _wake_others(context, (namespace, name))
    _report(context, namespace, name, server, outcome, time.monotonic() - started, figures)
    if _ready_before(obj) is not None and outcome.ready is not _ready_before(obj) and outcome.retrying:
        notice = Notice(outcome.reason, outcome.message, warning=outcome.ready is False)
        outcome = replace(outcome, notices=(notice,))
    await context.write_status(DATABASE_SERVERS, obj, outcome)
    if server is not None and (namespace, name) in context.awaited and key not in context.failures:
        # meanwhile the circuit opened: who waits does so for the next probe
        pause = min(pause, server.breaker.retry_after(time.monotonic()))
    context.enqueue_after(key, pause)


#: Seconds between two probes of a server that is away: one connection each, and all its users wait for the first that
#: succeeds. After a minute or so it is a longer outage, and there may be many such servers.
_OFTEN, _OFTEN_UNTIL, _SELDOM = 2.0, 40, 5.0

#: Answers that say that the Secrets are not the operator's to read.
_REFUSALS = (401, 403)

#: Not transient, and yet mended outside this resource: looked at again at a moderate pace.
_FROM_OUTSIDE = frozenset(
    {
        Reason.SECRET_NOT_FOUND,
        Reason.SECRET_KEY_MISSING,
        Reason.AUTHENTICATION_FAILED,
        Reason.TLS_VERIFICATION_FAILED,
        Reason.TLS_UNAVAILABLE,
        Reason.POOLER_DETECTED,
        Reason.UNSUPPORTED_VERSION,
    }
)


def _cap(error: SelvedgeError, attempt: int) -> float:
    """The longest pause after so many attempts, seconds."""
    if not isinstance(error, TransientError) or error.reason is Reason.KUBERNETES_FORBIDDEN:
        return 30.0
    return _OFTEN if attempt <= _OFTEN_UNTIL else _SELDOM


async def _probe(server: Server) -> ServerFacts:
    """Probe, whatever the circuit says: this is what closes it again."""
    limits = server.target.limits
    try:
        async with asyncio.timeout(limits.connect_timeout + limits.statement_timeout):
            facts = await server.engine.probe()
    except TimeoutError:
        error = TransientError(
            Reason.CONNECTION_TIMEOUT,
            f"DatabaseServer {server.name} accepted the connection and did not answer in time: check that it is alive",
        )
        server.note(error, time.monotonic())
        raise error from None
    except SelvedgeError as error:
        server.note(error, time.monotonic())
        raise
    server.breaker.success()
    return facts


def _outcome(facts: ServerFacts, before: str) -> Outcome:
    status: dict[str, Any] = {
        "version": facts.version,
        "role": facts.role,
        "systemIdentifier": before or facts.system_identifier,
        "replicas": [{"host": replica.host, "state": replica.state} for replica in facts.replicas],
        "capabilities": list(facts.capabilities),
        "missingPrivileges": [{"statement": statement} for statement in facts.missing_privileges],
    }
    good = sum(replica.state != "Unreachable" for replica in facts.replicas)
    status["replicasReady"] = f"{good}/{len(facts.replicas)}" if facts.replicas else None
    if before and before != facts.system_identifier:
        message = (
            f"the server's identity is {facts.system_identifier} and was {before}: it was replaced, and nothing is "
            "written; delete this resource and apply it again once you are sure that it is the right server"
        )
        return Outcome(False, Reason.SERVER_REPLACED, message, retrying=False, status=status)
    if facts.role == "Standby":
        message = "the server is a standby and takes no writes: name the primary in spec.hosts"
        return Outcome(False, Reason.STANDBY, message, status=status)
    if facts.missing_privileges:
        error = NotPermittedError(
            Reason.INSUFFICIENT_PRIVILEGES,
            "the operator's login lacks rights; an administrator has to run: " + "; ".join(facts.missing_privileges),
        )
        return Outcome(False, error.reason, error.message, retrying=False, status=status)
    message = f"the server answers as {facts.role}, version {facts.version}"
    return Outcome(True, Reason.REACHABLE, message, status=status)


def _ready_before(obj: Object) -> bool | None:
    for condition in (obj.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "Ready":
            return {"True": True, "False": False}.get(str(condition.get("status")))
    return None


def wake_units(context: Context, namespace: str, name: str) -> None:
    """Every database on a server is looked at."""
    for database in context.store.units_of((namespace, name)):
        context.enqueue(("unit", namespace, name, database))


def _wake_others(context: Context, server: tuple[str, str]) -> None:
    """The logins on a server, and what is being deleted there."""
    wake_users_of_server(context, server)
    wake_removals(context, server)


def _answers_who_wait(context: Context, key: tuple[str, str], server: Server | None) -> bool:
    """Whether somebody waits for a server that answers.

    That its circuit was open is no sign of it: somebody else, who asked before it opened, may have closed it.
    """
    if server is None or key not in context.awaited:
        return False
    if server.breaker.state(time.monotonic()) is not BreakerState.CLOSED:
        return False
    context.awaited.discard(key)
    return True


def _report(
    context: Context,
    namespace: str,
    name: str,
    server: Server | None,
    outcome: Outcome,
    seconds: float,
    figures: ServerFigures | None,
) -> None:
    label = f"{namespace}/{name}"
    connections = server.engine.connections() if server else {}
    healthy = outcome.ready is True or outcome.reason in (Reason.STANDBY, Reason.INSUFFICIENT_PRIVILEGES)
    reason = "" if healthy else str(outcome.reason)
    context.health.server(label, healthy, seconds, connections, reason)
    limit = server.target.limits.max if server else 0
    context.metrics.server(label, healthy=healthy, connections=connections, limit=limit, reason=reason, figures=figures)
    context.metrics.reconciled("DatabaseServer", "success" if outcome.ready else str(outcome.reason), seconds)


async def _forget(context: Context, namespace: str, name: str) -> None:
    await context.servers.remove((namespace, name))
    context.servers_tried.discard((namespace, name))
    context.awaited.discard((namespace, name))
    context.health.forget_server(f"{namespace}/{name}")
    context.metrics.forget_server(f"{namespace}/{name}")
    context.failures.pop(("server", namespace, name), None)
    wake_units(context, namespace, name)
    _wake_others(context, (namespace, name))


def secrets_of(obj: Object) -> set[tuple[str, str]]:
    """The Secrets that a raw DatabaseServer names, as (namespace, name): a change of one wakes it."""
    spec = obj.get("spec") or {}
    namespace = str(obj["metadata"].get("namespace", ""))
    tls = spec.get("tls") or {}
    refs = [
        (spec.get("credentials") or {}).get("secretRef"),
        tls.get("caSecretRef"),
        tls.get("clientCertificateSecretRef"),
    ]
    return {(namespace, str(ref["name"])) for ref in refs if ref and ref.get("name")}
