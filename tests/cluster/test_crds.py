"""The CRDs on a real API server: established, every example accepted, every column shown; and what may change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.manifests import RUN, SCHEMA, SERVER, altered, postgres

EXAMPLES = sorted((Path(__file__).parent / "examples").glob("*.yaml"))
KINDS = ("databaseservers", "databaseschemas", "migrationruns")


def test_every_crd_is_established_and_has_no_complaint(kubectl, served):
    found = json.loads(kubectl("get", "crd", *(f"{kind}.selvedge.dev" for kind in KINDS), "-o", "json").stdout)
    for crd in found["items"]:
        conditions = {entry["type"]: entry["status"] for entry in crd["status"]["conditions"]}
        assert conditions["Established"] == "True"
        assert conditions["NamesAccepted"] == "True"
        assert "NonStructuralSchema" not in conditions
        assert crd["spec"]["names"]["categories"] == ["selvedge"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_accepted_and_applying_it_again_changes_nothing(kubectl, namespace, served, path):
    first = kubectl("-n", namespace, "apply", "-f", str(path))
    assert "created" in first.stdout
    second = kubectl("-n", namespace, "apply", "-f", str(path))
    assert {line.rsplit(" ", 1)[1] for line in second.stdout.splitlines()} == {"unchanged"}


def test_what_is_applied_comes_back_as_it_was_written(kubectl, namespace, served):
    path = Path(__file__).parent / "examples" / "databaseschema_mongodb.yaml"
    kubectl("-n", namespace, "apply", "-f", str(path))
    stored = json.loads(kubectl("-n", namespace, "get", "dbs", "designs", "-o", "json").stdout)
    assert stored["spec"]["mongodb"] == yaml.safe_load(path.read_text())["spec"]["mongodb"]


def test_short_names_and_the_category_list_every_kind(kubectl, namespace, apply):
    assert apply(SERVER, SCHEMA, RUN).returncode == 0
    for short, name in (("dbsrv", "main-postgres"), ("dbs", "fashion-wallet"), ("mig", "fashion-wallet-1")):
        assert name in kubectl("-n", namespace, "get", short).stdout
    assert kubectl("-n", namespace, "get", "selvedge", "-o", "name").stdout.split() == [
        "databaseschema.selvedge.dev/fashion-wallet",
        "databaseserver.selvedge.dev/main-postgres",
        "migrationrun.selvedge.dev/fashion-wallet-1",
    ]


def test_kubectl_get_shows_the_columns_of_the_example(kubectl, namespace, apply):
    assert apply(SERVER, SCHEMA, RUN).returncode == 0

    def ready(reason: str) -> list[dict[str, str]]:
        return [{"type": "Stalled", "status": "False"}, {"type": "Ready", "status": "True", "reason": reason}]

    statuses = {
        "dbsrv/main-postgres": {
            "version": "16.14",
            "role": "Primary",
            "replicasReady": "2/2",
            "conditions": ready("Reachable"),
        },
        "dbs/fashion-wallet": {"drift": 0, "pending": 0, "conditions": ready("Verified")},
        "mig/fashion-wallet-1": {
            "phase": "Succeeded",
            "progress": "14/14",
            "version": "20251115120000",
            "conditions": ready("Applied"),
        },
    }
    shown = {}
    for name, status in statuses.items():
        write_status(kubectl, namespace, name, status)
        header, row = kubectl("-n", namespace, "get", name).stdout.splitlines()
        shown[name] = (header.split(), row.split()[:-1])
    assert shown == {
        "dbsrv/main-postgres": (
            ["NAME", "ENGINE", "VERSION", "ROLE", "REPLICAS", "READY", "REASON", "AGE"],
            ["main-postgres", "Postgres", "16.14", "Primary", "2/2", "True", "Reachable"],
        ),
        "dbs/fashion-wallet": (
            ["NAME", "SERVER", "DATABASE", "READY", "REASON", "DRIFT", "PENDING", "AGE"],
            ["fashion-wallet", "main-postgres", "fashion_wallet", "True", "Verified", "0", "0"],
        ),
        "mig/fashion-wallet-1": (
            ["NAME", "SCHEMA", "ACTION", "PHASE", "PROGRESS", "VERSION", "READY", "REASON", "AGE"],
            ["fashion-wallet-1", "fashion-wallet", "Up", "Succeeded", "14/14", "20251115120000", "True", "Applied"],
        ),
    }


def write_status(kubectl, namespace, name: str, status: dict[str, Any]) -> None:
    patch = json.dumps({"status": status})
    kubectl("-n", namespace, "patch", name, "--subresource=status", "--type=merge", "-p", patch)


@pytest.mark.parametrize("name", ["dbsrv/main-postgres", "dbs/fashion-wallet", "mig/fashion-wallet-1"])
def test_a_status_that_holds_only_an_error_can_be_written(kubectl, namespace, apply, name):
    assert apply(SERVER, SCHEMA, RUN).returncode == 0
    condition = {"type": "Ready", "status": "False", "reason": "Unreachable", "message": "no connection to localhost"}
    # without the generation that it speaks of, nobody has looked yet (the default), and kubectl waits on
    status = {"conditions": [condition], "observedGeneration": 1}
    write_status(kubectl, namespace, name, status)
    stored = json.loads(kubectl("-n", namespace, "get", name, "-o", "json").stdout)
    assert stored["status"] == status
    assert kubectl("-n", namespace, "wait", name, "--for=condition=Ready=False", "--timeout=30s").returncode == 0


EDITS = {
    "engine": (
        SERVER,
        altered(SERVER, engine="MongoDB"),
        "spec.engine: Invalid value: engine cannot be changed: make a new DatabaseServer",
    ),
    "database": (
        SCHEMA,
        altered(SCHEMA, database="other"),
        "spec.database: Invalid value: database cannot be changed: make a new DatabaseSchema",
    ),
    "target of a run": (
        RUN,
        altered(RUN, target="20250101000000"),
        "spec: Invalid value: a MigrationRun cannot be changed, approvedPlan aside: make a new one",
    ),
    "file of a run": (
        RUN,
        altered(RUN, source={"inline": {"files": {"20250101000000_a.sql": "select 2;"}}}),
        "spec: Invalid value: a MigrationRun cannot be changed, approvedPlan aside: make a new one",
    ),
    "timeouts of a run": (
        RUN,
        altered(RUN, timeouts={"lock": "1s"}),
        "spec: Invalid value: a MigrationRun cannot be changed, approvedPlan aside: make a new one",
    ),
    "action of a run": (
        RUN,
        altered(RUN, action="Down"),
        "spec: Invalid value: a MigrationRun cannot be changed, approvedPlan aside: make a new one",
    ),
}


@pytest.mark.parametrize("case", EDITS)
def test_what_cannot_be_changed_is_refused_with_its_message(apply, case):
    before, after, message = EDITS[case]
    assert apply(before).returncode == 0
    answer = apply(after)
    assert answer.returncode != 0
    assert message in answer.stderr


def test_a_migration_run_can_be_approved(apply):
    assert apply(RUN).returncode == 0
    answer = apply(altered(RUN, approvedPlan="sha256:" + "0" * 64))
    assert answer.returncode == 0, answer.stderr


def test_a_field_that_nobody_declared_can_be_added_later(apply, kubectl, namespace):
    assert apply(SCHEMA).returncode == 0
    assert apply(postgres(schemas=[{"name": "shared"}])).returncode == 0
    stored = json.loads(kubectl("-n", namespace, "get", "dbs", "fashion-wallet", "-o", "json").stdout)
    assert stored["metadata"]["generation"] == 2
    assert stored["spec"]["deletionPolicy"] == "Retain"
