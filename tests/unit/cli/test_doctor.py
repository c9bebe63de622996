"""What the doctor makes of documents: CRDs of another version, what explains what, and what is said to people."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from selvedge.api import crd
from selvedge.api.resource import KINDS
from selvedge.cli import doctor_resources
from selvedge.cli.doctor_cluster import Operator, _lease_of, _problem
from selvedge.cli.findings import Finding, Ref, Report, Severity

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def obj(kind: str, name: str, reason: str = "Verified", *, since: float = 600, **more: Any) -> dict[str, Any]:
    good = reason in ("Verified", "Reachable", "Applied")
    condition = {"type": "Ready", "status": str(good), "reason": reason, "message": f"{name} is {reason}"}
    status = {
        "observedGeneration": 1,
        "conditions": [{**condition, "observedGeneration": 1, "lastTransitionTime": ago(since)}],
    }
    metadata = {"namespace": "shop", "name": name, "uid": f"{kind}-{name}", "generation": 1}
    metadata |= {"creationTimestamp": ago(3600), **more.pop("metadata", {})}
    return {
        "kind": kind,
        "metadata": metadata,
        "spec": more.pop("spec", {}),
        "status": {**status, **more.pop("status", {})},
    }


def examine(*objects: dict[str, Any], operator: Operator | None = None, patience: float = 60) -> Report:
    report = Report()
    if operator is not None and operator.finding is not None:
        report.add(operator.finding)
    kinds = ("DatabaseServer", "DatabaseSchema", "DatabaseUser", "MigrationRun")
    listed = {kind: [one for one in objects if one["kind"] == kind] for kind in kinds}
    doctor_resources.examine(report, listed, operator or Operator(), patience=patience, now=NOW)
    return report


def installed(plural: str = "databaseschemas") -> dict[str, Any]:
    kind = next(kind for kind in KINDS.values() if kind.plural == plural)
    document = copy.deepcopy(crd.crd(kind))
    conditions = [{"type": "NamesAccepted", "status": "True"}, {"type": "Established", "status": "True"}]
    return {**document, "status": {"conditions": conditions}}


def ours(plural: str = "databaseschemas") -> dict[str, Any]:
    return crd.crd(next(kind for kind in KINDS.values() if kind.plural == plural))


def spec_of(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return found


def test_a_crd_of_this_version_is_no_finding() -> None:
    assert all(_problem(installed(kind.plural), crd.crd(kind)) is None for kind in KINDS.values())


def test_an_older_crd_is_named_with_what_it_lacks() -> None:
    older = installed()
    postgres = spec_of(older)["properties"]["postgres"]["properties"]
    del postgres["audit"]
    problem = _problem(older, ours())
    assert problem is not None
    assert problem[0] == "CRDVersion"
    assert "lacks 1 field: spec.postgres.audit" in problem[1]
    assert "helm upgrade" in problem[2]


def test_a_newer_crd_asks_for_the_plugin_of_that_version() -> None:
    newer = installed()
    spec_of(newer)["properties"]["tomorrow"] = {"type": "string"}
    problem = _problem(newer, ours())
    assert problem is not None
    assert "spec.tomorrow" in problem[1]
    assert "kubectl-selvedge of the operator's version" in problem[2]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda crd: crd["metadata"].update(deletionTimestamp=ago(10)), "CRDTerminating"),
        (lambda crd: crd["status"]["conditions"].pop(), "CRDNotEstablished"),
        (lambda crd: crd["spec"]["versions"][0].update(served=False), "CRDVersion"),
    ],
)
def test_a_crd_that_cannot_be_used(change: Any, reason: str) -> None:
    document = installed()
    change(document)
    problem = _problem(document, ours())
    assert problem is not None
    assert problem[0] == reason


SERVER = {"serverRef": {"name": "main"}}
SCHEMA = {"schemaRef": {"name": "fw"}}


def test_what_suffers_from_a_server_is_named_there() -> None:
    report = examine(
        obj("DatabaseServer", "main", "Unreachable"),
        obj("DatabaseSchema", "fw", "CircuitOpen", spec=SERVER),
        obj("DatabaseSchema", "same", "Unreachable", spec=SERVER),
        obj("DatabaseUser", "app", "WaitingForSchema", spec=SCHEMA),
    )
    (finding,) = report.findings
    assert finding.ref == Ref("DatabaseServer", "main", "shop")
    assert [ref.name for ref in finding.affects] == ["fw", "same", "app"]


def test_what_is_wrong_by_itself_is_told_beside_its_server() -> None:
    report = examine(
        obj("DatabaseServer", "main", "Unreachable"), obj("DatabaseSchema", "fw", "InvalidSpec", spec=SERVER)
    )
    assert [finding.ref.name for finding in report.findings] == ["main", "fw"]


def test_a_failed_run_explains_the_schema_that_waits_and_an_old_one_nothing() -> None:
    old = {"metadata": {"creationTimestamp": ago(9000)}, "spec": SCHEMA, "status": {"phase": "Failed"}}
    new = {"metadata": {"creationTimestamp": ago(100)}, "spec": SCHEMA, "status": {"phase": "Failed"}}
    schema = obj("DatabaseSchema", "fw", "WaitingForMigrations", spec=SERVER)
    report = examine(
        schema,
        obj("MigrationRun", "old", "ChecksumMismatch", **copy.deepcopy(old)),
        obj("MigrationRun", "new", "StatementFailed", **new),
    )
    (finding,) = report.findings
    assert (finding.ref.name, [ref.name for ref in finding.affects]) == ("new", ["fw"])
    good = obj("MigrationRun", "good", "Applied", spec=SCHEMA, status={"phase": "Succeeded"})
    good["metadata"]["creationTimestamp"] = ago(50)
    report = examine(obj("MigrationRun", "old", "ChecksumMismatch", **old), good)
    assert report.findings == []


def test_what_is_under_way_is_told_only_when_it_lasts() -> None:
    assert examine(obj("DatabaseSchema", "fw", "WaitingForObjects", since=10)).findings == []
    (finding,) = examine(obj("DatabaseSchema", "fw", "WaitingForObjects", since=90)).findings
    assert finding.severity is Severity.NOTICE


def test_a_generation_that_nobody_looked_at() -> None:
    changed = {"generation": 2, "managedFields": [{"time": ago(90)}, {"time": ago(5), "subresource": "status"}]}
    (finding,) = examine(obj("DatabaseSchema", "fw", metadata=changed)).findings
    assert finding.reason == "NotSeen"
    assert "generation 2 for 90 s (it has seen generation 1)" in finding.message
    changed["managedFields"] = [{"time": ago(5)}]
    assert examine(obj("DatabaseSchema", "fw", metadata=changed)).findings == []


def test_a_retry_that_did_not_come() -> None:
    late = {"nextRetryTime": ago(300)}
    (finding,) = examine(obj("DatabaseServer", "main", "Unreachable", status=late)).findings
    assert finding.reason == "NotRetried"
    soon = {"nextRetryTime": ago(-30)}
    (finding,) = examine(obj("DatabaseServer", "main", "Unreachable", status=soon)).findings
    assert finding.reason == "Unreachable"


def test_a_namespace_that_is_not_watched() -> None:
    (finding,) = examine(obj("DatabaseServer", "main", "Reachable"), operator=Operator(watched=("billing",))).findings
    assert finding.reason == "NotWatched"
    assert "it watches billing" in finding.message
    assert examine(obj("DatabaseServer", "main", "Reachable"), operator=Operator(watched=("shop",))).healthy


def test_missing_privileges_are_the_statements_to_run() -> None:
    missing = {"missingPrivileges": [{"statement": "ALTER ROLE selvedge CREATEROLE"}]}
    (finding,) = examine(obj("DatabaseServer", "main", "InsufficientPrivileges", status=missing)).findings
    assert finding.details == ("ALTER ROLE selvedge CREATEROLE;",)


def test_an_operator_that_is_not_there_is_the_cause() -> None:
    lease = Ref("Lease", "selvedge", "selvedge-system")
    gone = Finding(Severity.ERROR, lease, "LeaseNotHeld", "nobody holds it", "start it")
    report = examine(
        obj("DatabaseServer", "main", metadata={"generation": 2}),
        obj("DatabaseSchema", "fw", metadata={"deletionTimestamp": ago(100), "finalizers": ["selvedge.dev/cleanup"]}),
        operator=Operator(finding=gone),
    )
    (finding,) = report.findings
    assert [ref.name for ref in finding.affects] == ["main", "fw"]


def test_people_see_each_finding_with_its_next_step_the_gravest_first() -> None:
    report = Report(looked={"DatabaseServer": 1, "DatabaseSchema": 0}, unchecked=["the Lease: no right"])
    report.add(Finding(Severity.NOTICE, Ref("DatabaseUser", "a", "shop"), "Suspended", "it sleeps", "wake it"))
    details = tuple(f"line {n}" for n in range(7))
    report.add(Finding(Severity.ERROR, Ref("Cluster", "kubernetes"), "Broken", "on\ntwo lines", "mend it", details))
    assert list(report.lines()) == [
        "Error: Cluster kubernetes: Broken: on two lines",
        *(f"    line {n}" for n in range(5)),
        "    … and 2 more: -o json shows them",
        "    next: mend it",
        "Notice: DatabaseUser shop/a: Suspended: it sleeps",
        "    next: wake it",
        "not checked: the Lease: no right",
        "1 error, 1 notice; looked at 1 DatabaseServer",
    ]
    assert not report.healthy
    assert report.document()["findings"][0]["details"] == list(details)


@pytest.mark.parametrize(
    ("shard", "lease"),
    [
        (None, "ours"),
        ("", "ours"),
        ("0/1", "ours"),
        ("no shard", "ours"),
        ("0/2", "ours-shard-0"),
        ("1/2", "ours-shard-1"),
    ],
)
def test_the_lease_is_the_one_that_the_operator_takes(shard, lease):
    environment = [{"name": "SELVEDGE_LEASE_NAME", "value": "ours"}]
    environment += [{"name": "SELVEDGE_SHARD", "value": shard}] if shard is not None else []
    pod = {"spec": {"containers": [{"env": environment}]}}
    assert _lease_of({"metadata": {"namespace": "ops"}, "spec": {"template": pod}}) == ("ops", lease)
