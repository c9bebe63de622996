"""From the result of a pass to the words of a status and its events."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from selvedge.api.databaseschema import DatabaseSchemaSpec, DatabaseSchemaStatus
from selvedge.core.reasons import Reason
from selvedge.core.redact import Redactor
from selvedge.core.rowcount import Counted, RowCount
from selvedge.core.unit import ChangeSummary, MemberResult, ObjectRef, ObjectState, ObjectStatus, Risk, refusal
from selvedge.reconcile.outcome import Outcome, finished
from selvedge.reconcile.schemastatus import known_drift, outcome_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REFS = tuple(ObjectRef("role", f"app_{number}") for number in range(7))


def changes(number: int, risk: Risk = Risk.ADDITIVE) -> tuple[ChangeSummary, ...]:
    return tuple(ChangeSummary(ref, risk, "…") for ref in REFS[:number])


def told(reason: str, drift: int, generation: int = 1) -> dict[str, Any]:
    """A DatabaseSchema whose last status has this reason."""
    ready = {"type": "Ready", "status": "False", "reason": reason, "observedGeneration": 1}
    metadata = {"namespace": "shop", "name": "fashion-wallet", "uid": "u", "generation": generation}
    return {"metadata": metadata, "status": {"conditions": [ready], "drift": drift}}


def outcome(result: MemberResult, obj: dict[str, Any] | None = None, **spec: Any) -> Outcome:
    declared = {"serverRef": {"name": "main"}, "database": "shop", "postgres": {}, **spec}
    return outcome_of(obj or told("Verified", 0), DatabaseSchemaSpec.model_validate(declared), result, "", NOW)


def events(found: Outcome) -> list[tuple[Reason, str]]:
    return [(notice.reason, notice.message) for notice in found.notices]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (1, "1 object had been changed by hand and was put back: role app_0"),
        (2, "2 objects had been changed by hand and were put back: role app_0, role app_1"),
        (7, "7 objects had been changed by hand and were put back: " + ", ".join(map(str, REFS[:5])) + " …"),
    ],
)
def test_corrected_drift_in_words(number: int, message: str):
    found = outcome(MemberResult(provisioned=True, applied=changes(number), drift=REFS[:number]))
    assert events(found) == [(Reason.DRIFT_CORRECTED, message)]


@pytest.mark.parametrize(("number", "words"), [(1, "1 change"), (2, "2 changes")])
def test_changes_in_words(number: int, words: str):
    found = outcome(MemberResult(provisioned=True, applied=changes(number)))
    assert events(found) == [(Reason.CHANGES_APPLIED, f"made {words} to match the declaration")]


@pytest.mark.parametrize(("number", "words"), [(0, "0 objects"), (1, "1 object"), (2, "2 objects")])
def test_ready_in_words(number: int, words: str):
    assert outcome(MemberResult(provisioned=True, ready=number)).message == (
        f"the live database equals this declaration: {words}"
    )


@pytest.mark.parametrize(
    ("number", "words"),
    [(1, "1 object was changed by hand and"), (2, "2 objects were changed by hand and")],
)
def test_reported_drift_in_words(number: int, words: str):
    found = outcome(
        MemberResult(provisioned=True, pending=changes(number), drift=REFS[:number], digest="d"), drift="Report"
    )
    assert (found.reason, found.message.split(" spec.")[0]) == (Reason.DRIFT_DETECTED, words)


@pytest.mark.parametrize(
    ("pending", "spec", "words"),
    [
        (changes(1), {"apply": "OnApproval"}, "1 change waits, since spec.apply is OnApproval"),
        (changes(2), {"apply": "OnApproval"}, "2 changes wait, since spec.apply is OnApproval"),
        (changes(1, Risk.DESTRUCTIVE), {}, "1 change waits, since it loses data"),
        (changes(2, Risk.NARROWING), {}, "2 changes wait, since they take away what others gave"),
        (changes(1), {"drift": "Report"}, "1 change waits, since spec.drift is Report"),
        (changes(2, Risk.DESTRUCTIVE), {}, "2 changes wait, since 2 of them lose data"),
        (
            (*changes(1, Risk.DESTRUCTIVE), *changes(2)),
            {},
            "3 changes wait, since 1 of them loses data",
        ),
    ],
)
def test_waiting_changes_in_words(pending: tuple[ChangeSummary, ...], spec: dict[str, Any], words: str):
    found = outcome(MemberResult(provisioned=True, pending=pending, digest="sha256:0"), **spec)
    assert found.message == f"{words}: read status.plan, then set spec.approvedPlan to sha256:0"


APPROVE = ": read status.plan, then set spec.approvedPlan to sha256:0"


@pytest.mark.parametrize(
    ("others", "words"),
    [
        (0, ""),
        (1, "; 1 other change waits for an approval{}" + APPROVE),
        (2, "; 2 other changes wait for an approval{}" + APPROVE),
    ],
)
def test_a_refusal_is_stalled_and_told_with_what_waits_beside_it(others: int, words: str):
    lost = ChangeSummary(REFS[6], Risk.DESTRUCTIVE, "DROP …", rows=RowCount(3, Counted.EXACT))
    problem = refusal(REFS[6], "data", "spec.destructive", "DROP …")
    result = MemberResult(provisioned=True, problems=(problem,), pending=(lost, *changes(others)), digest="sha256:0")
    stale = f", and the plan that was approved, sha256:{'1' * 10}…, is not what waits now"
    for approved, besides in (("", ""), ("sha256:" + "1" * 64, stale)):
        found = outcome(result, approvedPlan=approved)
        assert (found.ready, found.reason, found.retrying) == (False, Reason.DESTRUCTIVE_REFUSED, False)
        said = problem.message.removesuffix(": DROP …")
        assert found.message == f"{said}; 3 rows (counted) would be lost{words.format(besides)}; refused: DROP …"
        assert found.extra[0][:2] == ("Provisioned", True)


def test_what_waits_beside_a_refusal_is_counted_by_change_and_not_by_object():
    """On MongoDB each of them is a problem of its object, and on Postgres one object may have both."""
    lost, same = ChangeSummary(REFS[6], Risk.DESTRUCTIVE, "DROP"), ChangeSummary(REFS[6], Risk.ADDITIVE, "ALTER")
    asked = ObjectStatus(REFS[0], ObjectState.PENDING, Reason.WAITING_FOR_APPROVAL, "waits")
    problems = (asked, refusal(REFS[6], "data", "spec.destructive", "DROP"))
    result = MemberResult(provisioned=True, problems=problems, pending=(lost, same, *changes(1)), digest="sha256:0")
    found = outcome(result)
    assert found.reason is Reason.DESTRUCTIVE_REFUSED, "an approval does not end it"
    assert "approve the plan (and 1 more, see status.notReady); 2 other changes wait for an approval: " in found.message


def test_what_is_said_beside_a_refusal_is_not_cut_off_by_its_statement():
    statement = "DROP " + "x" * 2000
    lost = ChangeSummary(REFS[6], Risk.DESTRUCTIVE, statement, rows=RowCount(3, Counted.EXACT))
    problem = refusal(REFS[6], "data", "spec.destructive", statement)
    digest = "sha256:" + "a" * 64
    result = MemberResult(provisioned=True, problems=(problem,), pending=(lost, *changes(2)), digest=digest)
    status = finished(outcome(result), {}, 1, NOW, Redactor().redact, DatabaseSchemaStatus)
    message = next(one["message"] for one in status["conditions"] if one["type"] == "Ready")
    assert len(message) <= 1024
    assert "3 rows (counted) would be lost" in message
    assert f"set spec.approvedPlan to {digest}" in message


def test_what_is_refused_or_asked_about_counts_as_waiting():
    """Ready, waiting and failed are together what is declared."""
    problems = (
        refusal(REFS[0], "data", "spec.destructive", "DROP"),
        ObjectStatus(REFS[1], ObjectState.PENDING, Reason.WAITING_FOR_APPROVAL, "waits"),
        ObjectStatus(REFS[2], ObjectState.WAITING, Reason.WAITING_FOR_OBJECTS, "waits"),
        ObjectStatus(REFS[3], ObjectState.FAILED, Reason.STATEMENT_FAILED, "no"),
    )
    found = outcome(MemberResult(ready=2, problems=problems, pending=changes(5), digest="sha256:0"))
    assert found.status["objects"] == {"ready": 2, "waiting": 4, "failed": 1}


def test_drift_that_a_pass_told_of_is_said_to_be_put_back_when_that_pass_died_after_the_repair():
    found = outcome(MemberResult(provisioned=True), told("DriftDetected", 2))
    assert events(found) == [
        (Reason.DRIFT_CORRECTED, "2 objects had been changed by hand; the database is as declared again")
    ]
    assert found.status["drift"] == 0


@pytest.mark.parametrize(
    ("obj", "spec"),
    [
        (told("DriftDetected", 2, generation=2), {}),
        (told("DriftDetected", 2), {"drift": "Report"}),
        (told("DriftDetected", 0), {}),
        (told("Verified", 2), {}),
    ],
)
def test_nothing_is_said_of_drift_that_nobody_put_back(obj: dict[str, Any], spec: dict[str, Any]):
    assert events(outcome(MemberResult(provisioned=True), obj, **spec)) == []


def test_drift_that_a_dead_pass_told_of_is_counted_by_the_pass_that_repairs_it():
    obj = told("DriftDetected", 1)
    assert not known_drift(obj, MemberResult(applied=changes(1), drift=REFS[:1]))
    refused = ObjectStatus(REFS[0], ObjectState.FAILED, Reason.STATEMENT_FAILED, "no")
    assert not known_drift(obj, MemberResult(problems=(refused,), drift=REFS[:1]))
    assert known_drift(obj, MemberResult(pending=changes(1), drift=REFS[:1])), "spec.drift is Report"


SECRET = "hunter2-and-more"


def test_no_part_of_a_secret_is_left_where_a_text_is_cut():
    """D9: half a secret is one that no net recognises, so texts are redacted first and cut second."""
    statement = "COMMENT ON ROLE app IS '" + "x" * (4096 - len("COMMENT ON ROLE app IS '") - 8) + SECRET + "'"
    change = ChangeSummary(REFS[0], Risk.ADDITIVE, statement)
    problem = ObjectStatus(REFS[1], ObjectState.FAILED, Reason.STATEMENT_FAILED, "y" * (1024 - 8) + SECRET)
    found = outcome(MemberResult(pending=(change,), problems=(problem,), digest="sha256:" + "a" * 64))
    redactor = Redactor()
    redactor.add(SECRET)
    status = finished(found, {}, 1, NOW, redactor.redact, DatabaseSchemaStatus)
    assert len(status["plan"]["statements"][0]) <= 4096
    assert "***" in status["notReady"][0]["message"]
    assert "hunter" not in str(status)


def test_what_is_lost_is_told_in_the_message_and_the_plan():
    lost = ChangeSummary(REFS[0], Risk.DESTRUCTIVE, "DROP", rows=RowCount(1204))
    found = outcome(MemberResult(provisioned=True, pending=(lost,), digest="sha256:a"))
    assert "1 change waits, since it loses 1,204 rows (counted)" in found.message
    assert found.status["plan"]["rows"] == "1,204 rows (counted)"
    more = ChangeSummary(REFS[1], Risk.DESTRUCTIVE, "DROP", rows=RowCount(10_000_000, Counted.ESTIMATE))
    found = outcome(MemberResult(provisioned=True, pending=(lost, more, *changes(1)), digest="sha256:a"))
    assert "2 of them lose about 10,001,204 rows (the server's estimate)" in found.message
    found = outcome(MemberResult(provisioned=True, pending=changes(1, Risk.DESTRUCTIVE), digest="sha256:a"))
    assert "since it loses data" in found.message
    assert found.status["plan"]["rows"] is None
