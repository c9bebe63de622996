"""The doctor and what belongs to a whole cluster: CRDs, the Deployment, an API server that is gone."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from sandbox import Sandbox, run_kubectl
from selvedge.cli.crds import files
from tests.cluster.chart_support import apply_objects, render
from tests.cluster.plugin import Plugin
from tests.cluster.world import wait_for

pytestmark = pytest.mark.long

Finding = dict[str, Any]
_LABELS = {"app.kubernetes.io/name": "selvedge"}


@pytest.fixture(scope="module")
def own() -> Iterator[Sandbox]:
    with Sandbox.start(postgres=(), mongodb=False) as sandbox:
        yield sandbox


@pytest.fixture
def bare() -> Iterator[Sandbox]:
    """A cluster that no other test has been in."""
    with Sandbox.start(postgres=(), mongodb=False) as sandbox:
        yield sandbox


def doctor(own: Sandbox, *arguments: str) -> tuple[int, list[Finding]]:
    done = Plugin(own.kubeconfig, "default")("doctor", "-o", "json", *arguments)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)["findings"]


def reasons(findings: list[Finding]) -> dict[str, str]:
    return {finding["object"]["name"]: finding["reason"] for finding in findings}


def apply(own: Sandbox, *documents: Any) -> None:
    text = yaml.safe_dump_all(documents)
    run_kubectl(own.kubeconfig, "apply", "--server-side", "--force-conflicts", "-f", "-", input=text)


def crds() -> dict[str, Any]:
    return {name.removesuffix(".yaml"): yaml.safe_load(text) for name, text in files().items()}


def install(own: Sandbox, documents: dict[str, Any]) -> None:
    apply(own, *documents.values())
    names = [f"crd/{name}.selvedge.dev" for name in documents]
    run_kubectl(own.kubeconfig, "wait", "--for=condition=Established", "--timeout=60s", *names)
    for name in documents:
        wait_for(lambda name=name: run_kubectl(own.kubeconfig, "get", name, "-A", check=False).returncode == 0, 60)


def test_a_cluster_without_anything_then_with_old_crds_then_without_an_operator(bare: Sandbox) -> None:
    own = bare
    status, found = doctor(own)
    missing = {f"{name}.selvedge.dev": "CRDMissing" for name in crds()}
    assert (status, reasons(found)) == (1, {**missing, "selvedge": "NoOperator"})
    assert all("selvedge crds | kubectl apply" in f["next"] for f in found if f["reason"] == "CRDMissing")

    older = copy.deepcopy(crds())
    schema = older["databaseschemas"]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del schema["properties"]["postgres"]["properties"]["audit"]
    install(own, older)
    status, found = doctor(own)
    assert reasons(found) == {"databaseschemas.selvedge.dev": "CRDVersion", "selvedge": "NoOperator"}
    assert "spec.postgres.audit" in next(f["message"] for f in found if f["reason"] == "CRDVersion")

    # with the right ones only the operator is missing, which explains that nobody looks at what is there
    install(own, crds())
    server = {
        "apiVersion": "selvedge.dev/v1alpha1",
        "kind": "DatabaseServer",
        "metadata": {"name": "main", "namespace": "default"},
        "spec": {"engine": "Postgres", "hosts": [{"host": "db"}], "credentials": {"secretRef": {"name": "admin"}}},
    }
    apply(own, server)
    status, found = doctor(own, "--patience", "0")
    assert (status, reasons(found)) == (1, {"selvedge": "NoOperator", "main": "SecretNotFound"})
    assert [ref["name"] for ref in found[0]["affects"]] == ["main"]


def test_the_deployment_and_what_its_pods_say(own: Sandbox) -> None:
    install(own, crds())
    own.ensure("scheduler")
    container = {
        "name": "operator",
        "image": "selvedge",
        "env": [{"name": "SELVEDGE_NAMESPACES", "value": "default,shop"}],
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "selvedge", "namespace": "default", "labels": _LABELS},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": _LABELS},
            "template": {"metadata": {"labels": _LABELS}, "spec": {"containers": [container]}},
        },
    }
    apply(own, deployment)

    def pending() -> Finding | None:
        found = doctor(own)[1]
        one = next((f for f in found if f["reason"] == "PodsNotAvailable"), None)
        return one if one is not None and "no nodes available" in one["message"] else None

    finding = wait_for(pending, 60)
    assert finding["severity"] == "Error"
    assert "0 of 1 pod is available" in finding["message"]
    # the account that the pods run as has no rights at all here
    assert "KubernetesForbidden" in reasons(doctor(own)[1]).values()
    # and the namespace that it is to watch is not there
    assert reasons(doctor(own)[1])["shop"] == "NamespaceGone"
    # or hangs, since what has to let its resources go lost its rights before them
    run_kubectl(own.kubeconfig, "create", "namespace", "shop")
    metadata = {"name": "app", "namespace": "shop", "finalizers": ["selvedge.dev/cleanup"]}
    spec = {"schemaRef": {"name": "shop"}}
    apply(own, {"apiVersion": "selvedge.dev/v1alpha1", "kind": "DatabaseUser", "metadata": metadata, "spec": spec})
    run_kubectl(own.kubeconfig, "delete", "namespace", "shop", "--wait=false")
    done = Plugin(own.kubeconfig, "shop")("doctor", "-o", "json")
    (held,) = (f for f in json.loads(done.stdout)["findings"] if f["reason"] == "NamespaceHeld")
    assert "selvedge release -n shop" in held["next"]
    nothing = '{"metadata":{"finalizers":null}}'
    run_kubectl(own.kubeconfig, "patch", "dbu", "app", "-n", "shop", "--type=merge", "-p", nothing)
    assert "ApprovalNotEnforced" in [f["reason"] for f in doctor(own)[1]]
    apply_objects(lambda *arguments, **options: run_kubectl(own.kubeconfig, *arguments, **options), _policies())
    assert "ApprovalNotEnforced" not in [f["reason"] for f in doctor(own)[1]]
    run_kubectl(own.kubeconfig, "scale", "deploy", "selvedge", "--replicas=0", "-n", "default")
    assert reasons(doctor(own)[1])["selvedge"] in ("ScaledToZero", "NoOperator")
    assert "ScaledToZero" in [f["reason"] for f in doctor(own)[1]]


def test_secrets_that_are_reached_in_named_namespaces_only(bare: Sandbox) -> None:
    """Where one is needed its right is asked for, and nowhere else; a label on one has no meaning."""
    own = bare
    install(own, crds())
    kubectl = functools.partial(run_kubectl, own.kubeconfig)
    for name in ("ops", "cellar", "garden", "harbour"):
        kubectl("create", "namespace", name)
    chart = render("ops", "rbac.secretNamespaces={cellar}", "migrationImages.enabled=true", "crds.install=false")
    wanted = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "Deployment")
    parts = [d for d in chart if d["kind"] in wanted and "helm.sh/hook" not in d["metadata"].get("annotations", {})]
    apply(own, *parts)
    secret = {"apiVersion": "v1", "kind": "Secret", "stringData": {"username": "a", "password": "b"}}
    server = {"engine": "Postgres", "hosts": [{"host": "127.0.0.1"}], "credentials": {"secretRef": {"name": "pg"}}}
    images = {"source": {"image": {"reference": "registry.example/migrations:1"}}}
    for name in ("cellar", "garden"):
        apply(own, {**secret, "metadata": {"name": "pg", "namespace": name}})
        apply(own, _resource("DatabaseServer", name, server))
    apply(own, _resource("DatabaseSchema", "ops", {"serverRef": {"name": "pg"}, "database": "one", "postgres": {}}))
    apply(own, _resource("MigrationRun", "harbour", {"schemaRef": {"name": "one"}, **images}))

    found = doctor(own, "--all-namespaces", "--lease", "ops/selvedge")[1]
    assert "SecretNotWatched" not in reasons(found).values()
    lacking = {f["message"]: f for f in found if f["reason"] == "KubernetesForbidden"}
    assert list(lacking) == [
        f"it may not do in namespace {name} what the operator needs" for name in ("garden", "harbour")
    ]
    garden, harbour = lacking.values()
    assert garden["next"].startswith("helm upgrade with garden in rbac.secretNamespaces")
    assert garden["details"] == [
        "get secrets: read the credentials that resources name",
        "create, update, delete secrets: write the Secrets of DatabaseUsers",
    ]
    assert any("jobs.batch" in rule for rule in harbour["details"])
    assert harbour["next"] == "helm upgrade with migrationImages.enabled, and harbour in rbac.secretNamespaces"
    # what was never about Secrets has another step
    account, role = "--serviceaccount=ops:selvedge", "--clusterrole=ops-selvedge-secrets"
    kubectl("delete", "clusterrolebinding", "ops-selvedge")
    done = Plugin(own.kubeconfig, "cellar")("doctor", "-o", "json", "--lease", "ops/selvedge")
    (other,) = (f for f in json.loads(done.stdout)["findings"] if f["reason"] == "KubernetesForbidden")
    assert "secretNamespaces" not in other["next"]
    apply(own, *(part for part in parts if part["kind"] == "ClusterRoleBinding"))
    # as docs/guide/security.md has it
    for name in ("garden", "harbour"):
        kubectl("create", "rolebinding", "selvedge-secrets-too", "-n", name, role, account)
    wait_for(lambda: "KubernetesForbidden" not in reasons(doctor(own, "--all-namespaces")[1]).values(), 60)


def _resource(kind: str, namespace: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": "one", "namespace": namespace}
    return {"apiVersion": "selvedge.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def _policies() -> list[dict[str, Any]]:
    return [document for document in render("default") if document["kind"].startswith("Validating")]


def test_an_api_server_that_does_not_answer(own: Sandbox, tmp_path: Any) -> None:
    config = yaml.safe_load(own.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    done = Plugin(path, "default")("doctor", "-o", "json")
    (finding,) = json.loads(done.stdout)["findings"]
    assert (done.returncode, finding["reason"]) == (1, "KubernetesApiError")
    assert "kubectl get --raw /readyz" in finding["next"]
