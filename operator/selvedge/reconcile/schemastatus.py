"""From the result of a pass to the status of a DatabaseSchema; pure."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

from selvedge.api.databaseschema import Apply, DatabaseSchemaSpec, Drift
from selvedge.core.conditions import find, timestamp
from selvedge.core.reasons import Reason
from selvedge.core.rowcount import RowCount, united
from selvedge.core.unit import MemberResult, ObjectState, ObjectStatus, Risk, with_beside
from selvedge.core.words import count, some
from selvedge.reconcile.outcome import Notice, Outcome
from selvedge.reconcile.store import Object

_MAX_NOT_READY = 100
_MAX_ADVICE = 50
_MAX_TABLES = 200
_MAX_STATEMENTS = 10

#: What to name first when several objects are not ready: what a person has to act on comes before what waits.
_ORDER = (ObjectState.CONFLICT, ObjectState.FAILED, ObjectState.PENDING, ObjectState.WAITING)


def outcome_of(
    obj: Object, spec: DatabaseSchemaSpec, result: MemberResult, migrations: str, now: datetime, *, plan: str = ""
) -> Outcome:
    """The outcome of a pass.

    ``migrations`` says what the database still waits for, or is empty; ``plan`` is the ConfigMap with what waits for
    a person.
    """
    reason, message, retrying = _verdict(spec, result, migrations)
    if reason is Reason.WAITING_FOR_APPROVAL and spec.approved_plan not in ("", result.digest):
        reason = Reason.SUPERSEDED
        message = f"the plan that was approved, {spec.approved_plan[:17]}…, is not what waits now: {message}"
    ready = result.verified and not migrations
    provisioned = (
        (Reason.PROVISIONED, "database, extensions, schemas and roles stand")
        if result.provisioned
        else (reason, message)
    )
    return Outcome(
        ready=ready,
        reason=reason,
        message=message,
        retrying=retrying,
        status=_status(obj, result, now, plan),
        extra=(("Provisioned", result.provisioned, *provisioned),),
        notices=_notices(obj, spec, result, reason),
    )


def _verdict(spec: DatabaseSchemaSpec, result: MemberResult, migrations: str) -> tuple[Reason, str, bool]:
    if result.problems:
        first = min(result.problems, key=_urgency)
        more = len({problem.ref for problem in result.problems}) - 1
        others = f" (and {more} more, see status.notReady)" if more > 0 else ""
        message = first.message + others
        if first.reason is Reason.DESTRUCTIVE_REFUSED:
            message = with_beside(first.message, others + _beside(spec, result))
        return first.reason, message, first.state in (ObjectState.WAITING, ObjectState.CONFLICT)
    if result.pending and spec.drift is Drift.REPORT and result.drift:
        changed = f"{count(len(result.drift), 'object')} {'was' if len(result.drift) == 1 else 'were'} changed by hand"
        message = f"{changed} and spec.drift is Report: {some(result.drift)}"
        return Reason.DRIFT_DETECTED, message, True
    if result.pending:
        message = _waits(spec, result)
        return Reason.WAITING_FOR_APPROVAL, message, True
    if migrations:
        return Reason.WAITING_FOR_MIGRATIONS, migrations, True
    return Reason.VERIFIED, f"the live database equals this declaration: {count(result.ready, 'object')}", True


def _waits(spec: DatabaseSchemaSpec, result: MemberResult) -> str:
    changes = len(result.pending)
    destructive = sum(change.risk is Risk.DESTRUCTIVE for change in result.pending)
    lost = lost_rows(result)
    if spec.apply is Apply.ON_APPROVAL:
        why = "spec.apply is OnApproval" + (f" and {lost} would be lost" if lost is not None else "")
    elif spec.drift is Drift.REPORT and all(change.risk is Risk.ADDITIVE for change in result.pending):
        why = "spec.drift is Report"
    elif not destructive:
        why = f"{'it takes' if changes == 1 else 'they take'} away what others gave"
    elif destructive == changes == 1:
        why = f"it loses {lost or 'data'}"
    else:
        why = f"{destructive} of them {'loses' if destructive == 1 else 'lose'} {lost or 'data'}"
    waits = f"{count(changes, 'change')} {'waits' if changes == 1 else 'wait'}, since {why}"
    return f"{waits}: read status.plan, then set spec.approvedPlan to {result.digest}"


def _urgency(problem: ObjectStatus) -> tuple[int, bool]:
    """What to name first is the smallest; a refusal comes before what an approval lets be made."""
    return _ORDER.index(problem.state), problem.reason is not Reason.DESTRUCTIVE_REFUSED


def _beside(spec: DatabaseSchemaSpec, result: MemberResult) -> str:
    """What is to be said beside a refusal: what would go with it, and what waits only for an approval."""
    lost = lost_rows(result)
    others = len(result.approvable)
    said = f"; {lost} would be lost" if lost is not None else ""
    if others:
        said += f"; {count(others, 'other change')} {'waits' if others == 1 else 'wait'} for an approval"
        if spec.approved_plan not in ("", result.digest):
            said += f", and the plan that was approved, {spec.approved_plan[:17]}…, is not what waits now"
        said += f": read status.plan, then set spec.approvedPlan to {result.digest}"
    return said


def lost_rows(result: MemberResult) -> RowCount | None:
    """All rows that go with what waits; None where none do, or nobody can say."""
    return united(change.rows for change in result.pending if change.rows is not None)


def known_drift(obj: Object, result: MemberResult) -> bool:
    """Whether the drift was told of by a pass before, and left as it is: a sweep over it says and counts nothing."""
    status = obj.get("status") or {}
    ready = find(status.get("conditions") or (), "Ready")
    told = ready is not None and ready.reason == Reason.DRIFT_DETECTED
    left = bool(result.pending) and not result.applied
    return told and left and status.get("drift") == len(result.drift)


def _status(obj: Object, result: MemberResult, now: datetime, plan: str) -> dict[str, Any]:
    problems = {problem.ref: problem for problem in result.problems}
    waiting = sum(problem.state in (ObjectState.WAITING, ObjectState.PENDING) for problem in problems.values())
    waiting += len({change.ref for change in result.pending} - problems.keys())
    not_ready = [
        {"kind": p.ref.kind, "name": p.ref.name, "state": str(p.state), "message": p.message}
        for p in sorted(problems.values(), key=lambda p: (_ORDER.index(p.state), p.ref))
    ]
    status: dict[str, Any] = {
        "objects": {
            "ready": result.ready,
            "waiting": waiting,
            "failed": sum(p.state in (ObjectState.FAILED, ObjectState.CONFLICT) for p in problems.values()),
        },
        "notReady": not_ready[:_MAX_NOT_READY] or None,
        "plan": _plan(result, plan),
        "drift": 0 if result.applied else len(result.drift),
        "pending": len(result.pending),
        "rowLevelSecurity": _row_security(result),
        "advice": list(result.advice[:_MAX_ADVICE]) or None,
    }
    if result.drift and not known_drift(obj, result):
        status["lastDrift"] = {"time": timestamp(now), "objects": len(result.drift)}
    return status


def _row_security(result: MemberResult) -> list[dict[str, Any]] | None:
    """By table, those whose probes failed first."""
    tables = sorted(result.row_security, key=lambda one: (not one.failed, one.table))[:_MAX_TABLES]
    return [
        {
            "table": one.table,
            "policies": one.policies,
            "probes": {"passed": one.passed, "failed": one.failed, "notProbed": one.not_probed},
        }
        for one in tables
    ] or None


def _plan(result: MemberResult, config_map: str) -> dict[str, Any] | None:
    if not result.pending:
        return None
    risks = Counter(str(change.risk) for change in result.pending)
    lost = lost_rows(result)
    return {
        "digest": result.digest,
        "changes": len(result.pending),
        "risks": dict(sorted(risks.items())),
        "configMap": config_map or None,
        "rows": str(lost) if lost is not None else None,
        # Cut to the CRD's bounds where it is written, which is after secrets were taken out: half of one is still one.
        "statements": [change.statement for change in result.pending[:_MAX_STATEMENTS]],
    }


def _notices(obj: Object, spec: DatabaseSchemaSpec, result: MemberResult, reason: Reason) -> tuple[Notice, ...]:
    """Events for what changed, never for what is as it was."""
    notices = []
    names = some(result.drift)
    before = find((obj.get("status") or {}).get("conditions") or (), "Ready")
    if result.drift and result.applied:
        changed = f"{count(len(result.drift), 'object')} had been changed by hand"
        back = "was put back" if len(result.drift) == 1 else "were put back"
        notices.append(Notice(Reason.DRIFT_CORRECTED, f"{changed} and {back}: {names}", True))
    elif _repaired_unseen(obj, spec, result):
        told = count(int(obj["status"]["drift"]), "object")
        message = f"{told} had been changed by hand; the database is as declared again"
        notices.append(Notice(Reason.DRIFT_CORRECTED, message, True))
    elif result.applied:
        made = count(len(result.applied), "change")
        notices.append(Notice(Reason.CHANGES_APPLIED, f"made {made} to match the declaration"))
    if reason is Reason.DRIFT_DETECTED and (before is None or before.reason != reason):
        notices.append(Notice(reason, f"changed by hand and left so, since spec.drift is Report: {names}", True))
    broken = next((problem for problem in result.problems if problem.reason is Reason.ISOLATION_BROKEN), None)
    if broken is not None and (before is None or before.reason != Reason.ISOLATION_BROKEN):
        notices.append(Notice(Reason.ISOLATION_BROKEN, broken.message, True))
    return tuple(notices)


def _repaired_unseen(obj: Object, spec: DatabaseSchemaSpec, result: MemberResult) -> bool:
    """Whether a pass told of drift and put it back, and ended before it could say so."""
    status = obj.get("status") or {}
    before = find(status.get("conditions") or (), "Ready")
    told = before is not None and before.reason == Reason.DRIFT_DETECTED and bool(status.get("drift"))
    same = before is not None and before.observed_generation == obj["metadata"].get("generation")
    return told and same and spec.drift is Drift.CORRECT and result.verified and not result.drift
