"""Approving is a right of its own: users of a real API server, with the chart's roles and admission policy."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from tests.cluster.chart_support import apply_objects, render
from tests.waiting import wait_for

_DIGEST = "sha256:" + "a" * 64
_OTHER = "sha256:" + "b" * 64


@pytest.fixture(scope="module")
def team(kubectl, served):
    """A namespace in which `editor` has the cluster's role edit, and `approver` selvedge-approve beside it."""
    namespace = f"team-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", namespace)
    documents = render(namespace, f"watchNamespaces={{{namespace}}}", "clusterUid=any")
    policies = [d for d in documents if d["kind"] == "ClusterRole" or d["kind"].startswith("Validating")]
    apply_objects(kubectl, policies, "--force-conflicts")
    for user, roles in {"editor": ["edit"], "approver": ["edit", "selvedge-approve"]}.items():
        for role in roles:
            _bind(kubectl, namespace, role, f"--user={user}")
    _wait_until_enforced(kubectl, namespace)
    yield namespace
    for document in policies:
        if document["kind"].startswith("Validating"):
            kubectl("delete", document["kind"], document["metadata"]["name"], "--wait=false")
    kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.fixture
def name() -> str:
    """The name of a resource that no other test uses."""
    return f"shop-{uuid.uuid4().hex[:8]}"


def _bind(kubectl, namespace: str, role: str, subject: str) -> None:
    name = f"{role}-{subject.rpartition('=')[2].replace(':', '-')}"
    kubectl("create", "rolebinding", name, f"--clusterrole={role}", subject, "-n", namespace)


def _schema(namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "selvedge.dev/v1alpha1",
        "kind": "DatabaseSchema",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"serverRef": {"name": "main"}, "database": "shop", "postgres": {}, **spec},
    }


def _as(kubectl, user: str, verb: str, document: dict[str, Any]) -> str:
    """What the user is told: nothing where it was done."""
    done = kubectl(verb, "-f", "-", f"--as={user}", input=json.dumps(document), check=False)
    return "" if done.returncode == 0 else done.stderr


def _patch(kubectl, user: str, namespace: str, name: str, spec: dict[str, Any], kind: str = "dbs") -> str:
    patch = json.dumps({"spec": spec})
    done = kubectl("patch", kind, name, "-n", namespace, "--type=merge", "-p", patch, f"--as={user}", check=False)
    return "" if done.returncode == 0 else done.stderr


def _wait_until_enforced(kubectl, namespace: str) -> None:
    """The API server compiles a policy a moment after it was made."""
    probe = _schema(namespace, "probe", approvedPlan=_DIGEST)

    def refused() -> bool:
        if "may not set" in _as(kubectl, "editor", "create", probe):
            return True
        kubectl("delete", "dbs", "probe", "-n", namespace, "--ignore-not-found")
        return False

    wait_for(refused)


@pytest.mark.parametrize(
    ("strict", "loose", "field"),
    [
        ({}, {"approvedPlan": _DIGEST}, "approvedPlan"),
        ({}, {"destructive": "Allow"}, "destructive"),
        ({"destructive": "Refuse"}, {"destructive": "RequireApproval"}, "destructive"),
        ({}, {"adoption": "Allow"}, "adoption"),
        ({"apply": "OnApproval"}, {"apply": "Auto"}, "apply"),
        ({"apply": "OnApproval"}, {"apply": None}, "apply"),
        ({}, {"prune": "Owned"}, "prune"),
        ({}, {"deletionPolicy": "Delete"}, "deletionPolicy"),
    ],
)
def test_an_editor_loosens_nothing_and_an_approver_may(kubectl, team, name, strict, loose, field):
    assert _as(kubectl, "editor", "create", _schema(team, name, **strict)) == ""
    said = _patch(kubectl, "editor", team, name, loose)
    assert f"editor may not set spec.{field} of databaseschemas {team}/{name}: that needs the verb approve" in said
    assert _patch(kubectl, "approver", team, name, loose) == ""
    assert _patch(kubectl, "editor", team, name, {"interval": "6m"}) == "", "what is loose already holds nobody up"
    assert _patch(kubectl, "editor", team, name, {key: strict.get(key) for key in loose}) == "", "anybody may tighten"


@pytest.mark.parametrize(
    "spec", [{"approvedPlan": _DIGEST}, {"destructive": "Allow"}, {"adoption": "Allow"}, {"deletionPolicy": "Delete"}]
)
def test_an_editor_creates_nothing_that_carries_an_approval(kubectl, team, name, spec):
    assert "editor may not set" in _as(kubectl, "editor", "create", _schema(team, name, **spec))
    assert _as(kubectl, "approver", "create", _schema(team, name, **spec)) == ""


def test_a_plan_of_a_migration_run_is_approved_by_who_may(kubectl, team, name):
    run = _schema(team, name) | {"kind": "MigrationRun", "spec": {"schemaRef": {"name": "shop"}}}
    refused = "editor may not set spec.approvedPlan"
    assert _as(kubectl, "editor", "create", run) == ""
    assert refused in _patch(kubectl, "editor", team, name, {"approvedPlan": _DIGEST}, "mig")
    assert _patch(kubectl, "approver", team, name, {"approvedPlan": _DIGEST}, "mig") == ""
    assert refused in _patch(kubectl, "editor", team, name, {"approvedPlan": _OTHER}, "mig")


def test_a_login_that_was_there_before_is_taken_over_by_who_may(kubectl, team, name):
    user = _schema(team, name) | {"kind": "DatabaseUser", "spec": {"schemaRef": {"name": "shop"}}}
    assert _as(kubectl, "editor", "create", user) == "", "that it goes with its resource is its default"
    assert "editor may not set spec.adoption of databaseusers" in _patch(
        kubectl, "editor", team, name, {"adoption": "Allow"}, "dbu"
    )
    assert _patch(kubectl, "editor", team, name, {"deletionPolicy": "Delete"}, "dbu") == ""
    assert _patch(kubectl, "approver", team, name, {"adoption": "Allow"}, "dbu") == ""


def test_the_floor_of_a_server_is_lowered_by_who_may(kubectl, team, name):
    spec = {
        "engine": "Postgres",
        "hosts": [{"host": "db.example.com"}],
        "credentials": {"secretRef": {"name": "db"}},
        "policy": {"destructive": "Refuse"},
    }
    assert _as(kubectl, "editor", "create", _schema(team, name) | {"kind": "DatabaseServer", "spec": spec}) == ""
    for looser in ({"policy": {"destructive": "Allow"}}, {"policy": None}):
        said = _patch(kubectl, "editor", team, name, looser, "dbsrv")
        assert "editor may not set spec.policy.destructive" in said
    assert _patch(kubectl, "approver", team, name, {"policy": None}, "dbsrv") == ""


def test_gitops_by_a_service_account_with_the_verb(kubectl, team, name):
    kubectl("create", "serviceaccount", "gitops", "-n", team)
    user = f"system:serviceaccount:{team}:gitops"
    _bind(kubectl, team, "edit", f"--serviceaccount={team}:gitops")
    document = _schema(team, name, approvedPlan=_DIGEST)
    assert f"{user} may not set spec.approvedPlan" in _as(kubectl, user, "create", document)
    _bind(kubectl, team, "selvedge-approve", f"--serviceaccount={team}:gitops")
    assert _as(kubectl, user, "create", document) == ""


def _server(namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    hosts = [{"host": "db.example.com"}]
    return {
        "apiVersion": "selvedge.dev/v1alpha1",
        "kind": "DatabaseServer",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"engine": "Postgres", "hosts": hosts, "credentials": {"secretRef": {"name": "admin"}}, **spec},
    }


def test_a_floor_does_not_go_by_deleting_the_server_and_making_it_again(kubectl, team, name):
    guarded = _server(team, name, policy={"destructive": "Refuse"})
    assert _as(kubectl, "editor", "create", guarded) == ""
    told = _as(kubectl, "editor", "delete", guarded)
    assert f"editor may not delete, with the floor of its spec.policy, databaseservers {team}/{name}" in told
    assert _as(kubectl, "approver", "delete", guarded) == ""
    for loose in ({}, {"policy": {"destructive": "Allow"}}):
        open_to_all = _server(team, name, **loose)
        assert _as(kubectl, "editor", "create", open_to_all) == ""
        assert _as(kubectl, "editor", "delete", open_to_all) == ""


def test_a_namespace_takes_its_servers_with_it_whatever_their_floor(kubectl, served, name):
    kubectl("create", "namespace", name)
    documents = render(name, f"watchNamespaces={{{name}}}", "clusterUid=any", "rbac.userRoles=false")
    policies = [d for d in documents if d["kind"].startswith("Validating")]
    apply_objects(kubectl, policies, "--force-conflicts")
    _bind(kubectl, name, "edit", "--user=editor")
    guarded = _server(name, "main", policy={"destructive": "RequireApproval"})
    try:
        wait_for(lambda: _refused(kubectl, guarded))
        kubectl("delete", "namespace", name, "--timeout=60s")
    finally:
        for document in policies:
            kubectl("delete", document["kind"], document["metadata"]["name"], "--wait=false")


def _refused(kubectl, server: dict[str, Any]) -> bool:
    """Whether the policy holds already; the server is there in any case."""
    kubectl("apply", "-f", "-", input=json.dumps(server))
    return "may not delete" in _as(kubectl, "editor", "delete", server)
