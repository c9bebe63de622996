"""Approving is a right of its own: users of a real API server, with the chart's roles and admission policy."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
import yaml

from sandbox.kubectl import run_kubectl
from tests.cluster.chart_support import apply_objects, render
from tests.cluster.rights import as_account
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
    return _patch_as(kubectl, user, namespace, name, {"spec": spec}, kind)


def _patch_as(kubectl, user: str, namespace: str, name: str, patch: Any, kind: str = "dbs", how: str = "merge") -> str:
    arguments = (kind, name, "-n", namespace, f"--type={how}", "-p", json.dumps(patch))
    done = kubectl("patch", *arguments, f"--as={user}", check=False)
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


def _user(namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    return _schema(namespace, name) | {"kind": "DatabaseUser", "spec": {"schemaRef": {"name": "shop"}, **spec}}


def _run(namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    return _user(namespace, name, **spec) | {"kind": "MigrationRun"}


@pytest.mark.parametrize(
    ("make", "spec"),
    [
        (_schema, {"approvedPlan": _DIGEST}),
        (_schema, {"destructive": "Allow"}),
        (_schema, {"adoption": "Allow"}),
        (_schema, {"prune": "Owned"}),
        (_schema, {"deletionPolicy": "Delete"}),
        (_user, {"adoption": "Allow"}),
        (_run, {"approvedPlan": _DIGEST}),
        (_run, {"destructive": "Allow"}),
    ],
)
def test_an_editor_creates_nothing_that_carries_an_approval(kubectl, team, name, make, spec):
    document, (field,) = make(team, name, **spec), spec
    refused = f"editor may not set spec.{field} of {document['kind'].lower()}s {team}/{name}: that needs the verb"
    assert refused in _as(kubectl, "editor", "create", document)
    assert refused in _applied(kubectl, "editor", document), "by a patch that makes it"
    assert _as(kubectl, "approver", "create", document) == ""


def _applied(kubectl, user: str, document: dict[str, Any]) -> str:
    given = ("apply", "--server-side", "--force-conflicts", "-f", "-", f"--as={user}")
    done = kubectl(*given, input=json.dumps(document), check=False)
    return "" if done.returncode == 0 else done.stderr


def test_no_way_of_writing_goes_past_it(kubectl, team, name):
    assert _as(kubectl, "editor", "create", _schema(team, name)) == ""
    refused = f"editor may not set spec.destructive of databaseschemas {team}/{name}"
    looser = _schema(team, name, destructive="Allow")
    operations = [{"op": "add", "path": "/spec/destructive", "value": "Allow"}]
    assert refused in _patch_as(kubectl, "editor", team, name, operations, how="json")
    assert refused in _applied(kubectl, "editor", looser)
    assert refused in _as(kubectl, "editor", "replace", looser)
    assert _patch_as(kubectl, "approver", team, name, operations, how="json") == ""


def test_nobody_gives_himself_the_verb(kubectl, team, name):
    """Kubernetes lets nobody give what he has not; who may `bind` or `escalate` is not an admin of a namespace."""
    _bind(kubectl, team, "admin", "--user=chief")
    own = f"rolebinding {name} -n {team} --user=chief --as=chief --clusterrole".split()
    assert "is attempting to grant RBAC permissions not currently held" in _tried(
        kubectl, "create", *own, "selvedge-approve"
    )
    rule = f"role {name} -n {team} --as=chief --verb=approve --resource=databaseschemas.selvedge.dev".split()
    assert "is attempting to grant RBAC permissions not currently held" in _tried(kubectl, "create", *rule)
    assert "chief may not set spec.destructive" in _as(
        kubectl, "chief", "create", _schema(team, name, destructive="Allow")
    )


def _tried(kubectl, *arguments: str) -> str:
    return kubectl(*arguments, check=False).stderr


@pytest.mark.parametrize(
    ("gates", "there", "elsewhere"),
    [
        ({}, {"name": "main"}, {"name": "production"}),
        ({"destructive": "Allow"}, {"name": "main"}, {"name": "production"}),
        ({}, {"name": "main"}, {"name": "main", "namespace": "databases"}),
        ({}, {"name": "main", "namespace": "databases"}, {"name": "main", "namespace": None}),
    ],
)
def test_a_schema_is_moved_to_another_server_by_who_may_approve(kubectl, team, name, gates, there, elsewhere):
    """Its gates, and those of the logins beneath it, were opened for the server that it was on."""
    assert _as(kubectl, "approver", "create", _schema(team, name, serverRef=there, **gates)) == ""
    said = _patch(kubectl, "editor", team, name, {"serverRef": elsewhere})
    assert f"editor may not set spec.serverRef of databaseschemas {team}/{name}: that needs the verb approve" in said
    assert _patch(kubectl, "approver", team, name, {"serverRef": elsewhere}) == ""


def test_a_schema_on_any_server_is_created_and_its_namespace_written_out_by_whoever_may_edit(kubectl, team, name):
    assert _as(kubectl, "editor", "create", _schema(team, name, serverRef={"name": "production"})) == ""
    for namespace in (team, None):
        assert _patch(kubectl, "editor", team, name, {"serverRef": {"namespace": namespace}}) == "", "the same server"
    assert _as(kubectl, "editor", "delete", _schema(team, name)) == ""


def test_a_plan_of_a_migration_run_is_approved_by_who_may(kubectl, team, name):
    run = _run(team, name)
    refused = "editor may not set spec.approvedPlan"
    assert _as(kubectl, "editor", "create", run) == ""
    assert refused in _patch(kubectl, "editor", team, name, {"approvedPlan": _DIGEST}, "mig")
    assert _patch(kubectl, "approver", team, name, {"approvedPlan": _DIGEST}, "mig") == ""
    assert refused in _patch(kubectl, "editor", team, name, {"approvedPlan": _OTHER}, "mig")


def test_a_login_that_was_there_before_is_taken_over_by_who_may(kubectl, team, name):
    assert _as(kubectl, "editor", "create", _user(team, name)) == "", "that it goes with its resource is its default"
    assert "editor may not set spec.adoption of databaseusers" in _patch(
        kubectl, "editor", team, name, {"adoption": "Allow"}, "dbu"
    )
    assert _patch(kubectl, "editor", team, name, {"deletionPolicy": "Delete"}, "dbu") == ""
    assert _patch(kubectl, "approver", team, name, {"adoption": "Allow"}, "dbu") == ""


def test_the_floor_of_a_server_is_lowered_by_who_may(kubectl, team, name):
    assert _as(kubectl, "editor", "create", _server(team, name, policy={"destructive": "Refuse"})) == ""
    for looser in ({"policy": {"destructive": "Allow"}}, {"policy": None}):
        said = _patch(kubectl, "editor", team, name, looser, "dbsrv")
        assert "editor may not set spec.policy.destructive" in said
    assert _patch(kubectl, "approver", team, name, {"policy": None}, "dbsrv") == ""


def _account(kubectl, namespace: str, name: str, team: str, *roles: str) -> str:
    """A ServiceAccount with these roles in the namespace ``team``; the name that the API server has for it."""
    kubectl("create", "serviceaccount", name, "-n", namespace)
    for role in roles:
        _bind(kubectl, team, role, f"--serviceaccount={namespace}:{name}")
    return f"system:serviceaccount:{namespace}:{name}"


def test_gitops_by_a_service_account_with_the_verb(kubectl, team, namespace, name):
    user = _account(kubectl, namespace, name, team, "edit")
    document = _schema(team, name, approvedPlan=_DIGEST)
    assert f"{user} may not set spec.approvedPlan" in _as(kubectl, user, "create", document)
    _bind(kubectl, team, "selvedge-approve", f"--serviceaccount={namespace}:{name}")
    assert _as(kubectl, user, "create", document) == ""


def test_an_account_that_approves_is_safe_from_editors_in_another_namespace_only(
    kubectl, kubeconfig, team, namespace, name, tmp_path
):
    """Kubernetes' own role ``edit`` may act as every ServiceAccount of its namespace."""
    developer = tmp_path / "kubeconfig"
    _account(kubectl, namespace, "developer", team, "edit")
    developer.write_text(yaml.safe_dump(as_account(kubectl, kubeconfig, namespace, "developer")))
    document = json.dumps(_schema(team, name, approvedPlan=_DIGEST))

    def tries(*arguments: str, user: str = "") -> str:
        flags = [f"--as={user}"] if user else []
        return run_kubectl(developer, *arguments, *flags, input=document, check=False).stderr

    assert "developer may not set spec.approvedPlan" in tries("create", "--validate=false", "-f", "-")
    apart = _account(kubectl, namespace, "gitops", team, "edit", "selvedge-approve")
    assert "cannot impersonate" in tries("create", "--validate=false", "-f", "-", user=apart)
    assert 'cannot create resource "serviceaccounts/token"' in tries("create", "token", "gitops", "-n", namespace)
    beside = _account(kubectl, team, name, team, "edit", "selvedge-approve")
    assert tries("create", "--validate=false", "-f", "-", user=beside) == ""
    assert tries("create", "token", name, "-n", team) == ""


def _server(namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    hosts = [{"host": "db.example.com"}]
    guarded = {"engine": "Postgres", "hosts": hosts, "credentials": {"secretRef": {"name": "admin"}}, **spec}
    return _schema(namespace, name) | {"kind": "DatabaseServer", "spec": guarded}


@pytest.mark.parametrize(
    ("make", "strict", "field"),
    [
        (_server, {"policy": {"destructive": "Refuse"}}, "policy.destructive"),
        (_server, {"policy": {}}, "policy.destructive"),
        (_schema, {"apply": "OnApproval"}, "apply"),
        (_schema, {"destructive": "Refuse"}, "destructive"),
        (_schema, {"adoption": "Refuse"}, "adoption"),
        (_schema, {"apply": "OnApproval", "destructive": "Refuse"}, "destructive, spec.apply"),
        (_user, {"adoption": "Refuse"}, "adoption"),
    ],
)
def test_a_gate_does_not_go_by_deleting_its_resource_and_making_it_again(kubectl, team, name, make, strict, field):
    guarded = make(team, name, **strict)
    plural = f"{guarded['kind'].lower()}s"
    assert _as(kubectl, "editor", "create", guarded) == ""
    needs = f": that needs the verb approve on {plural}.selvedge.dev (ClusterRole selvedge-approve)"
    refused = f"editor may not delete, with the gate of its spec.{field}, {plural} {team}/{name}{needs}"
    assert refused in _as(kubectl, "editor", "delete", guarded)
    forced = ("replace", "--force", "-f", "-", "--as=editor")
    assert refused in kubectl(*forced, input=json.dumps(make(team, name)), check=False).stderr
    assert _as(kubectl, "approver", "delete", guarded) == ""


def test_a_gate_does_not_go_with_all_of_its_namespace_at_once(kubectl, team, name):
    kinds = ("--resource=databaseschemas.selvedge.dev", "--verb=delete,deletecollection")
    kubectl("create", "role", name, *kinds, "-n", team)
    kubectl("create", "rolebinding", name, f"--role={name}", "--user=sweeper", "-n", team)
    assert _as(kubectl, "editor", "create", _schema(team, name, apply="OnApproval")) == ""
    these = f"/apis/selvedge.dev/v1alpha1/namespaces/{team}/databaseschemas?fieldSelector=metadata.name%3D{name}"
    said = kubectl("delete", "--raw", these, "--as=sweeper", check=False).stderr
    assert f"sweeper may not delete, with the gate of its spec.apply, databaseschemas {team}/{name}" in said
    kubectl("get", "dbs", name, "-n", team)
    _bind(kubectl, team, "selvedge-approve", "--user=sweeper")
    kubectl("delete", "--raw", these, "--as=sweeper")
    assert "NotFound" in kubectl("get", "dbs", name, "-n", team, check=False).stderr


def test_a_resource_whose_name_the_api_server_makes_is_judged_as_well(kubectl, team, name):
    document = _schema(team, name, approvedPlan=_DIGEST)
    document["metadata"] = {"namespace": team, "generateName": f"{name}-"}
    assert f"editor may not set spec.approvedPlan of databaseschemas {team}/{name}-" in _as(
        kubectl, "editor", "create", document
    )
    assert _as(kubectl, "approver", "create", document) == ""


@pytest.mark.parametrize(
    ("make", "spec"),
    [
        (_server, {}),
        (_server, {"policy": {"destructive": "Allow"}}),
        (_schema, {}),
        (_schema, {"apply": "Auto", "destructive": "RequireApproval", "adoption": "RequireApproval"}),
        (_user, {}),
    ],
)
def test_what_guards_no_more_than_the_defaults_is_deleted_by_whoever_may_delete(kubectl, team, name, make, spec):
    document = make(team, name, **spec)
    for user in ("editor", "system:serviceaccount:kube-system:generic-garbage-collector"):
        assert _as(kubectl, "editor", "create", document) == ""
        assert _as(kubectl, user, "delete", document) == ""


def test_a_gate_does_not_go_with_an_owner_that_an_editor_gives_its_resource(kubectl, team, name):
    """The owner stays here: this cluster's own garbage collector is one of system:masters, and may do anything."""
    guarded = _schema(team, name, apply="OnApproval")
    assert _as(kubectl, "editor", "create", guarded) == ""
    kubectl("create", "configmap", name, "-n", team, "--as=editor")
    uid = kubectl("get", "configmap", name, "-n", team, "-o", "jsonpath={.metadata.uid}").stdout
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid}
    assert _patch_as(kubectl, "editor", team, name, {"metadata": {"ownerReferences": [owner]}}) == ""
    collector = "system:serviceaccount:kube-system:generic-garbage-collector"
    assert f"{collector} may not delete, with the gate of its spec.apply" in _as(kubectl, collector, "delete", guarded)


def test_a_finalizer_is_taken_away_and_a_run_is_removed_without_the_verb(kubectl, team, name):
    """What the operator does: its account may not approve either."""
    guarded = _schema(team, name, apply="OnApproval")
    guarded["metadata"]["finalizers"] = ["selvedge.dev/cleanup"]
    assert _as(kubectl, "editor", "create", guarded) == ""
    kubectl("delete", "dbs", name, "-n", team, "--wait=false", "--as=approver")
    patch = json.dumps({"metadata": {"finalizers": None}})
    kubectl("patch", "dbs", name, "-n", team, "--type=merge", "-p", patch, "--as=editor")
    assert "NotFound" in kubectl("get", "dbs", name, "-n", team, check=False).stderr
    run = _run(team, name, destructive="Refuse")
    assert _as(kubectl, "editor", "create", run) == ""
    assert _as(kubectl, "editor", "delete", run) == ""


def test_a_namespace_takes_its_resources_with_it_whatever_they_guard(kubectl, served, name):
    kubectl("create", "namespace", name)
    documents = render(name, f"watchNamespaces={{{name}}}", "clusterUid=any", "rbac.userRoles=false")
    policies = [d for d in documents if d["kind"].startswith("Validating")]
    apply_objects(kubectl, policies, "--force-conflicts")
    _bind(kubectl, name, "edit", "--user=editor")
    guarded = [
        _server(name, "main", policy={"destructive": "RequireApproval"}),
        _schema(name, "shop", apply="OnApproval", destructive="Refuse"),
        _user(name, "app", adoption="Refuse"),
    ]
    try:
        for document in guarded:
            wait_for(lambda document=document: _refused(kubectl, document))
        kubectl("delete", "namespace", name, "--timeout=60s")
    finally:
        for document in policies:
            kubectl("delete", document["kind"], document["metadata"]["name"], "--wait=false")


def _refused(kubectl, document: dict[str, Any]) -> bool:
    """Whether the policy holds already; the resource is there in any case."""
    kubectl("apply", "-f", "-", input=json.dumps(document))
    return "may not delete" in _as(kubectl, "editor", "delete", document)
