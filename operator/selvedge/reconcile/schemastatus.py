"""From the result of a pass to the status of a DatabaseSchema; pure."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

from selvedge.api.databaseschema import Apply, DatabaseSchemaSpec, Drift
from selvedge.core.conditions import find, timestamp
from selvedge.core.reasons import Reason
from selvedge.core.unit import MemberResult, ObjectState, Risk
from selvedge.reconcile.outcome import Notice, Outcome
from selvedge.reconcile.store import Object

_MAX_NOT_READY = 100
_MAX_ADVICE = 50
_MAX_STATEMENTS = 10

#: What to name first when several objects are not ready: what a person has to act on comes before what waits.
_ORDER = (ObjectState.CONFLICT, ObjectState.FAILED, ObjectState.PENDING, ObjectState.WAITING)


def outcome_of(obj: Object, spec: DatabaseSchemaSpec, result: MemberResult, migrations: str, now: datetime) -> Outcome:
    """The outcome of a pass; ``migrations`` says what the database still waits for, or is empty."""
    reason, message, retrying = _verdict(spec, result, migrations)
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
        status=_status(obj, result, now),
        extra=(("Provisioned", result.provisioned, *provisioned),),
        notices=_notices(obj, result, reason),
    )


def _verdict(spec: DatabaseSchemaSpec, result: MemberResult, migrations: str) -> tuple[Reason, str, bool]:
    if result.problems:
        first = min(result.problems, key=lambda problem: _ORDER.index(problem.state))
        more = len({problem.ref for problem in result.problems}) - 1
        message = first.message + (f" (and {more} more, see status.notReady)" if more > 0 else "")
        return first.reason, message, first.state in (ObjectState.WAITING, ObjectState.CONFLICT)
    if result.pending and spec.drift is Drift.REPORT and result.drift:
        names = ", ".join(str(ref) for ref in result.drift[:5])
        message = f"{len(result.drift)} objects were changed by hand and spec.drift is Report: {names}"
        return Reason.DRIFT_DETECTED, message, True
    if result.pending:
        destructive = sum(change.risk is Risk.DESTRUCTIVE for change in result.pending)
        why = "spec.apply is OnApproval" if spec.apply is Apply.ON_APPROVAL else f"{destructive} of them lose data"
        message = (
            f"{len(result.pending)} changes wait, since {why}: read status.plan, then set spec.approvedPlan to "
            f"{result.digest}"
        )
        return Reason.WAITING_FOR_APPROVAL, message, True
    if migrations:
        return Reason.WAITING_FOR_MIGRATIONS, migrations, True
    return Reason.VERIFIED, f"the live database equals this declaration: {result.ready} objects", True


def known_drift(obj: Object, result: MemberResult) -> bool:
    """Whether the drift was told of by a pass before, and left as it is: a sweep over it says and counts nothing."""
    status = obj.get("status") or {}
    ready = find(status.get("conditions") or (), "Ready")
    told = ready is not None and ready.reason == Reason.DRIFT_DETECTED
    return told and not result.applied and status.get("drift") == len(result.drift)


def _status(obj: Object, result: MemberResult, now: datetime) -> dict[str, Any]:
    problems = {problem.ref: problem for problem in result.problems}
    waiting = sum(problem.state is ObjectState.WAITING for problem in problems.values())
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
        "plan": _plan(result),
        "drift": 0 if result.applied else len(result.drift),
        "pending": len(result.pending),
        "advice": list(result.advice[:_MAX_ADVICE]) or None,
    }
    if result.drift and not known_drift(obj, result):
        status["lastDrift"] = {"time": timestamp(now), "objects": len(result.drift)}
    return status


def _plan(result: MemberResult) -> dict[str, Any] | None:
    if not result.pending:
        return None
    risks = Counter(str(change.risk) for change in result.pending)
    return {
        "digest": result.digest,
        "changes": len(result.pending),
        "risks": dict(sorted(risks.items())),
        "statements": [change.statement[:4096] for change in result.pending[:_MAX_STATEMENTS]],
    }


def _notices(obj: Object, result: MemberResult, reason: Reason) -> tuple[Notice, ...]:
    """Events for what changed, never for what is as it was."""
    notices = []
    names = ", ".join(str(ref) for ref in result.drift[:5]) + (" …" if len(result.drift) > 5 else "")
    if result.drift and result.applied:
        count = len(result.drift)
        notices.append(
            Notice(Reason.DRIFT_CORRECTED, f"{count} objects had been changed by hand and were put back: {names}", True)
        )
    elif result.applied:
        notices.append(Notice(Reason.CHANGES_APPLIED, f"made {len(result.applied)} changes to match the declaration"))
    before = find((obj.get("status") or {}).get("conditions") or (), "Ready")
    if reason is Reason.DRIFT_DETECTED and (before is None or before.reason != reason):
        notices.append(Notice(reason, f"changed by hand and left so, since spec.drift is Report: {names}", True))
    return tuple(notices)
