"""What the doctor reads in the resources themselves: their statuses, and what they refer to."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from selvedge.cli.doctor_cluster import Operator
from selvedge.cli.findings import Finding, Ref, Report, Severity
from selvedge.cli.remedies import Standing, remedy_of
from selvedge.core.conditions import Condition, find
from selvedge.core.reasons import Reason
from selvedge.core.words import count, some
from selvedge.kube.client import KubeClient
from selvedge.kube.errors import KubeError
from selvedge.kube.resources import DATABASE_SERVERS, FINALIZER

Objects = Mapping[str, list[dict[str, Any]]]

SHORT = {"DatabaseServer": "dbsrv", "DatabaseSchema": "dbs", "DatabaseUser": "dbu", "MigrationRun": "mig"}
_SEVERITY = {Standing.RETRIED: Severity.ERROR, Standing.ACTION: Severity.ERROR, Standing.DECISION: Severity.DECISION}
#: What is said of an object because of another that it needs.
_BECAUSE = frozenset(
    {Reason.WAITING_FOR_SERVER, Reason.WAITING_FOR_SCHEMA, Reason.WAITING_FOR_MIGRATIONS, Reason.CIRCUIT_OPEN}
)
#: A retry that is due may be shown for half a minute after it was made: the operator saves itself the write.
_RETRY_SECONDS = 60.0
#: What an operator that is gone explains, and nothing else does.
_OPERATORS = frozenset({"NotSeen", "NotRetried", "DeletionStuck"})


def ref_of(obj: Mapping[str, Any]) -> Ref:
    """The object as findings name it."""
    return Ref(str(obj["kind"]), str(obj["metadata"]["name"]), str(obj["metadata"]["namespace"]))


def examine(report: Report, objects: Objects, operator: Operator, *, patience: float, now: datetime) -> None:
    """Add a finding for everything that is not well; what only suffers from something else is named there."""
    history = _history(objects["MigrationRun"])
    failed: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for run in objects["MigrationRun"]:
        (failed if (run.get("status") or {}).get("phase") == "Failed" else others).append(run)
    # what explains comes before what it explains: a failed run before the schema that waits for it
    for obj in (*objects["DatabaseServer"], *failed, *objects["DatabaseSchema"], *objects["DatabaseUser"], *others):
        if str(obj["metadata"]["uid"]) in history:
            continue
        finding = _of(obj, operator, patience=patience, now=now)
        if finding is None:
            continue
        cause = _cause(report, obj, finding, operator, failed)
        if cause is not None:
            report.blame(cause.ref, finding.ref)
        elif not _under_way(obj, finding, patience=patience, now=now):
            report.add(finding)


def _of(obj: Mapping[str, Any], operator: Operator, *, patience: float, now: datetime) -> Finding | None:
    ref, metadata, status = ref_of(obj), obj["metadata"], obj.get("status") or {}
    if metadata.get("deletionTimestamp"):
        return _deleting(obj, ref, patience=patience, now=now)
    ready = find(status.get("conditions") or (), "Ready")
    if operator.watched and ref.namespace not in operator.watched:
        message = f"the operator does not watch namespace {ref.namespace}: it watches {some(operator.watched)}"
        return Finding(Severity.ERROR, ref, "NotWatched", message, "add the namespace to the chart's watchNamespaces")
    if status.get("observedGeneration") != metadata.get("generation") or ready is None:
        return _unseen(obj, ref, patience=patience, now=now)
    if ready.status is True:
        return None
    late = _late(status, ready, now, patience)
    if late:
        step = "see the operator's log for this resource; restart its pod if it says nothing"
        return Finding(Severity.ERROR, ref, "NotRetried", late, step)
    remedy = remedy_of(ready.reason)
    severity = _SEVERITY.get(remedy.standing, Severity.NOTICE)
    if ready.reason == Reason.SUSPENDED:
        severity = Severity.NOTICE
    details = _statements(status) or _not_ready(status, ready)
    step = remedy.shown(SHORT[ref.kind], ref.namespace, f"mig/{ref.name}" if _is_plan(ref, ready) else ref.name)
    return Finding(severity, ref, ready.reason, ready.message, step, details)


def _under_way(obj: Mapping[str, Any], finding: Finding, *, patience: float, now: datetime) -> bool:
    """Whether the operator works at it, and not for long enough to be worth a word."""
    if remedy_of(finding.reason).standing is not Standing.WORKING:
        return False
    ready = find((obj.get("status") or {}).get("conditions") or (), "Ready")
    return ready is not None and _seconds(ready.last_transition_time, now) < patience


def _is_plan(ref: Ref, ready: Condition) -> bool:
    return ref.kind == "MigrationRun" and ready.reason in (Reason.WAITING_FOR_APPROVAL, Reason.SUPERSEDED)


def _statements(status: Mapping[str, Any]) -> tuple[str, ...]:
    """What an administrator of the database server has to run."""
    return tuple(f"{missing['statement']};" for missing in status.get("missingPrivileges") or ())


def _not_ready(status: Mapping[str, Any], ready: Condition) -> tuple[str, ...]:
    entries = status.get("notReady") or ()
    if len(entries) < 2 and any(entry.get("message") in ready.message for entry in entries):
        return ()
    return tuple(f"{e.get('kind')} {e.get('name')}: {e.get('state')}: {e.get('message')}" for e in entries)


def _deleting(obj: Mapping[str, Any], ref: Ref, *, patience: float, now: datetime) -> Finding | None:
    metadata, status = obj["metadata"], obj.get("status") or {}
    seconds = _seconds(str(metadata["deletionTimestamp"]), now)
    if seconds < patience:
        return None
    finalizers = [str(name) for name in metadata.get("finalizers") or ()]
    ready = find(status.get("conditions") or (), "Ready")
    why = f": {ready.reason}: {ready.message}" if ready is not None and ready.status is not True else ""
    message = f"it is being deleted for {seconds:.0f} s and held by {some(finalizers)}{why}"
    step = (
        "make its server answer; if it never will, let the resource go and keep what is on the server: "
        f"kubectl -n {ref.namespace} annotate {SHORT[ref.kind]} {ref.name} selvedge.dev/abandon=true"
    )
    if FINALIZER not in finalizers:
        step = (
            f"the finalizer is not selvedge's: ask who set it; the last resort is to remove {some(finalizers)} by hand"
        )
    return Finding(Severity.ERROR, ref, "DeletionStuck", message, step)


def _unseen(obj: Mapping[str, Any], ref: Ref, *, patience: float, now: datetime) -> Finding | None:
    metadata, status = obj["metadata"], obj.get("status") or {}
    seconds = _seconds(_changed(metadata), now)
    if seconds < patience:
        return None
    observed = status.get("observedGeneration")
    seen = f"generation {observed}" if isinstance(observed, int) and observed > 0 else "none"
    message = (
        f"the operator has not looked at generation {metadata.get('generation')} for {seconds:.0f} s (it has seen "
        f"{seen}): what the status says is about something else"
    )
    step = f"see that the operator runs and watches namespace {ref.namespace} (SELVEDGE_NAMESPACES), and its log"
    return Finding(Severity.ERROR, ref, "NotSeen", message, step)


def _changed(metadata: Mapping[str, Any]) -> str:
    """When the spec was changed last, as far as the API server says: its managers' last writes beside the status."""
    times = [
        str(entry.get("time") or "") for entry in metadata.get("managedFields") or () if not entry.get("subresource")
    ]
    return max([*times, str(metadata.get("creationTimestamp") or "")])


def _late(status: Mapping[str, Any], ready: Condition, now: datetime, patience: float) -> str:
    moment = str(status.get("nextRetryTime") or "")
    seconds = _seconds(moment, now) if moment else 0.0
    if seconds <= max(patience, _RETRY_SECONDS):
        return ""
    return f"it was to be tried again {seconds:.0f} s ago and was not; the last time: {ready.reason}: {ready.message}"


def _seconds(moment: str, now: datetime) -> float:
    """Seconds from ``moment`` until ``now``; infinite where nobody knows."""
    try:
        return (now - datetime.fromisoformat(moment)).total_seconds()
    except (ValueError, TypeError):
        return float("inf")


def _history(runs: list[dict[str, Any]]) -> set[str]:
    """The uids of failed runs after which another of the same DatabaseSchema was made: they are history."""
    newest: dict[tuple[str, str], str] = {}
    for run in runs:
        newest[_schema_of(run)] = max(newest.get(_schema_of(run), ""), str(run["metadata"]["creationTimestamp"]))
    return {
        str(run["metadata"]["uid"])
        for run in runs
        if (run.get("status") or {}).get("phase") == "Failed"
        and str(run["metadata"]["creationTimestamp"]) < newest[_schema_of(run)]
    }


def _schema_of(obj: Mapping[str, Any]) -> tuple[str, str]:
    reference = (obj.get("spec") or {}).get("schemaRef") or {}
    return str(obj["metadata"]["namespace"]), str(reference.get("name"))


def server_of(schema: Mapping[str, Any]) -> tuple[str, str]:
    """Namespace and name of the DatabaseServer that a DatabaseSchema names."""
    reference = (schema.get("spec") or {}).get("serverRef") or {}
    return str(reference.get("namespace") or schema["metadata"]["namespace"]), str(reference.get("name"))


def _cause(
    report: Report, obj: Mapping[str, Any], finding: Finding, operator: Operator, failed: list[dict[str, Any]]
) -> Finding | None:
    """The finding that explains this one: an operator that is not there, a server, a schema or a run."""
    if finding.reason in _OPERATORS:
        return report.of(operator.finding.ref) if operator.finding is not None else None
    kind = finding.ref.kind
    if kind == "DatabaseSchema":
        namespace, name = server_of(obj)
        cause = report.of(Ref("DatabaseServer", name, namespace))
        if finding.reason == Reason.WAITING_FOR_MIGRATIONS:
            runs = (ref_of(run) for run in failed if _schema_of(run) == (finding.ref.namespace, finding.ref.name))
            cause = next((known for ref in runs if (known := report.of(ref)) is not None), None)
    elif kind in ("DatabaseUser", "MigrationRun"):
        namespace, name = _schema_of(obj)
        schema = Ref("DatabaseSchema", name, namespace)
        cause = report.of(schema) or report.cause_of(schema)
    else:
        return None
    if cause is not None and (finding.reason in _BECAUSE or finding.reason == cause.reason):
        return cause
    return None


async def references(kube: KubeClient, report: Report, objects: Objects) -> None:
    """Name what resources refer to and what does not exist: the status says that they wait for it."""
    servers = {(r.namespace, r.name) for r in map(ref_of, objects["DatabaseServer"])}
    schemas = {(r.namespace, r.name) for r in map(ref_of, objects["DatabaseSchema"])}
    missing: dict[Ref, list[Ref]] = {}
    for obj in objects["DatabaseSchema"]:
        at = server_of(obj)
        if at not in servers and await _absent(kube, at):
            missing.setdefault(Ref("DatabaseServer", at[1], at[0]), []).append(ref_of(obj))
    for obj in (*objects["DatabaseUser"], *objects["MigrationRun"]):
        if _schema_of(obj) not in schemas and not obj["metadata"].get("deletionTimestamp"):
            namespace, name = _schema_of(obj)
            missing.setdefault(Ref("DatabaseSchema", name, namespace), []).append(ref_of(obj))
    suffering = {user for users in missing.values() for user in users}
    report.replace(lambda finding: None if finding.ref in suffering else finding)
    for ref, users in missing.items():
        message = (
            f"it does not exist, and {count(len(users), 'resource')} {'refers' if len(users) == 1 else 'refer'} to it"
        )
        field = "spec.serverRef" if ref.kind == "DatabaseServer" else "spec.schemaRef"
        step = f"apply it in namespace {ref.namespace}, or correct {field}"
        report.add(Finding(Severity.ERROR, ref, "NotFound", message, step, affects=tuple(users)))


async def _absent(kube: KubeClient, at: tuple[str, str]) -> bool:
    """Whether a server of a namespace that was not listed does not exist; False for whoever may not know."""
    try:
        return await kube.get(DATABASE_SERVERS, *at) is None
    except KubeError as error:
        if error.code != 403:
            raise
        return False
