"""The Helm chart against a real API server: it renders, it is accepted, and its rights are no wider than needed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import yaml

from tests.cluster.chart_support import CHART, apply_objects, helm, render
from tests.waiting import wait_for

_UID = "7d0f0c0e-0000-4000-8000-000000000000"


def test_the_chart_has_no_fault_that_helm_knows():
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART)).stdout


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("replicas", "none"),
        ("replica", 2),
        ("logLevel", "loud"),
        ("image", {"digest": "latest"}),
        ("watchNamespaces", ["Shop"]),
        ("rbac", {"secretNamespaces": ["Shop"]}),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_name(name, value):
    done = helm("template", "selvedge", str(CHART), "--set-json", f"{name}={json.dumps(value)}", check=False)
    assert done.returncode != 0
    assert name in done.stderr


def test_in_namespaces_the_cluster_has_to_be_named():
    done = helm("template", "selvedge", str(CHART), "--set", "watchNamespaces={shop}", check=False)
    assert done.returncode != 0
    assert "set clusterUid to what `kubectl get namespace kube-system" in done.stderr


def test_secrets_are_limited_in_one_way_or_the_other():
    both = ("watchNamespaces={shop}", "rbac.secretNamespaces={shop}", f"clusterUid={_UID}")
    flags = [flag for setting in both for flag in ("--set", setting)]
    done = helm("template", "selvedge", str(CHART), *flags, check=False)
    assert done.returncode != 0
    assert "rbac.secretNamespaces is for an operator that watches all namespaces" in done.stderr


@pytest.mark.parametrize("mode", ["cluster", "namespaces", "secrets"])
def test_the_api_server_accepts_every_object(kubectl, namespace, mode):
    settings = ["networkPolicy.enabled=true"]
    if mode == "namespaces":
        settings += [f"watchNamespaces={{{namespace}}}", f"clusterUid={_UID}"]
    elif mode == "secrets":
        settings += [f"rbac.secretNamespaces={{{namespace}}}", "migrationImages.enabled=true"]
    answer = apply_objects(kubectl, render(namespace, *settings), "--dry-run=server", "--force-conflicts")
    assert "deployment.apps/selvedge" in answer
    assert "validatingadmissionpolicy" in answer


@pytest.fixture
def service_monitors(kubectl) -> Iterator[None]:
    """The Prometheus operator's kind with the fields that the chart uses, unless the cluster has the real one."""
    name = "servicemonitors.monitoring.coreos.com"
    if kubectl("get", "crd", name, check=False).returncode == 0:
        yield
        return
    text, labels = {"type": "string"}, {"type": "object", "additionalProperties": {"type": "string"}}
    endpoints = {"type": "array", "items": {"type": "object", "properties": {"port": text, "interval": text}}}
    selector = {"type": "object", "properties": {"matchLabels": labels}}
    spec = {"type": "object", "properties": {"selector": selector, "endpoints": endpoints}}
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}
    version = {"name": "v1", "served": True, "storage": True, "schema": schema}
    names = {"plural": "servicemonitors", "singular": "servicemonitor", "kind": "ServiceMonitor"}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": name},
        "spec": {"group": "monitoring.coreos.com", "scope": "Namespaced", "names": names, "versions": [version]},
    }
    apply_objects(kubectl, [definition])
    kubectl("wait", "--for=condition=Established", f"crd/{name}", "--timeout=30s")
    # it is served a moment later
    wait_for(lambda: kubectl("get", "servicemonitors", check=False).returncode == 0)
    yield
    kubectl("delete", "crd", name, "--wait=false")


@pytest.mark.usefixtures("service_monitors")
def test_the_api_server_accepts_every_object_with_all_switched_on(kubectl, namespace):
    switches = ("networkPolicy", "migrationImages", "serviceMonitor")
    lists = ("networkPolicy.metricsFrom", "networkPolicy.apiServer", "networkPolicy.databases")
    documents = render(
        namespace,
        "shards=3",
        *(f"{name}.enabled=true" for name in switches),
        *(f"{name}[0].ipBlock.cidr=10.0.0.0/8" for name in lists),
        "serviceMonitor.labels.team=data",
        "podLabels.team=data",
        "podAnnotations.team=data",
        "serviceAccount.annotations.team=data",
        "imagePullSecrets[0].name=registry",
        "nodeSelector.disk=ssd",
        "tolerations[0].operator=Exists",
        "priorityClassName=urgent",
        "extraEnv[0].name=NO_PROXY",
        "extraEnv[0].value=10.0.0.0/8",
    )
    answer = apply_objects(kubectl, documents, "--dry-run=server", "--force-conflicts")
    kinds = {line.partition("/")[0] for line in answer.splitlines()}
    assert {"servicemonitor.monitoring.coreos.com", "networkpolicy.networking.k8s.io", "job.batch"} <= kinds
    assert answer.count("deployment.apps/selvedge-shard-") == 3


def test_the_notes_say_what_to_do_next():
    def notes(*settings: str) -> str:
        flags = [flag for setting in (*settings, f"clusterUid={_UID}") for flag in ("--set", setting)]
        done = helm("install", "selvedge", str(CHART), "--dry-run=client", "--namespace", "ops", *flags)
        return done.stdout.partition("NOTES:")[2]

    said = notes()
    assert "No image is published" in said
    assert "ops" in said
    assert "may read every Secret" in said
    assert "selvedge doctor" in said
    named = notes("image.repository=registry.example.com/selvedge", "watchNamespaces={shop}")
    assert "No image is published" not in named
    assert "may read every Secret" not in named
    limited = notes("rbac.secretNamespaces={shop,billing}")
    assert "Secrets are read in shop, billing only" in limited
    assert "may read every Secret" not in limited


def test_in_namespaces_no_right_reaches_beyond_them(namespace):
    documents = render(namespace, f"watchNamespaces={{{namespace},other}}", f"clusterUid={_UID}")
    account = [d for d in documents if d["kind"].endswith("Binding") and d["apiVersion"].startswith("rbac")]
    assert {d["kind"] for d in account} == {"RoleBinding"}
    assert {d["metadata"]["namespace"] for d in account} == {namespace, "other"}
    roles = {(d["metadata"]["name"]) for d in documents if d["kind"] == "ClusterRole"}
    assert roles == {"selvedge-view", "selvedge-edit", "selvedge-approve", "selvedge-admin"}


def test_with_named_namespaces_nothing_reaches_secrets_elsewhere(namespace):
    """Nor makes pods there, which are given whatever Secret they name."""
    documents = render(namespace, "rbac.secretNamespaces={shop,billing}", "migrationImages.enabled=true")
    everywhere = {d["roleRef"]["name"] for d in documents if d["kind"] == "ClusterRoleBinding"}
    reached = {
        resource
        for d in documents
        if d["kind"] == "ClusterRole" and d["metadata"]["name"] in everywhere
        for rule in d["rules"]
        for resource in rule["resources"]
    }
    assert reached.isdisjoint({"secrets", "jobs", "pods", "pods/log", "*"})
    bound = [d for d in documents if d["kind"] == "RoleBinding" and d["roleRef"]["kind"] == "ClusterRole"]
    assert {d["metadata"]["namespace"] for d in bound} == {"shop", "billing"}
    assert {d["roleRef"]["name"] for d in bound} == {f"{namespace}-selvedge-secrets"}
    (deployment,) = (d for d in documents if d["kind"] == "Deployment")
    env = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "SELVEDGE_WATCH_SECRETS", "value": "false"} in env


def test_two_releases_in_one_cluster_share_no_name():
    def names(release: str, namespace: str, *settings: str) -> set[tuple[str, str, str]]:
        flags = [flag for one in (*settings, f"clusterUid={_UID}") for flag in ("--set", one)]
        text = helm("template", release, str(CHART), "--namespace", namespace, *flags).stdout
        found = [document for document in yaml.safe_load_all(text) if document]
        return {(d["kind"], d["metadata"].get("namespace", ""), d["metadata"]["name"]) for d in found}

    first = names("selvedge", "ops", "watchNamespaces={shop}")
    settings = ("watchNamespaces={billing}", "crds.install=false", "rbac.userRolePrefix=billing")
    for release, namespace in (("selvedge", "other"), ("second", "ops")):
        second = names(release, namespace, *settings)
        assert {name for kind, _, name in second if kind == "ClusterRole"} == {
            f"billing-{word}" for word in ("view", "edit", "approve", "admin")
        }
        assert not first & second
    assert "ClusterRole" not in {kind for kind, _, _ in names("second", "ops", *settings, "rbac.userRoles=false")}
    # what is refused to an editor names the role that this release has
    (policy,) = (d for d in render("ops", "rbac.userRolePrefix=billing") if d["kind"] == "ValidatingAdmissionPolicy")
    assert "(ClusterRole billing-approve)" in str(policy["spec"]["validations"])


def test_the_pod_keeps_to_the_restricted_profile(kubectl, namespace):
    kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    (deployment,) = (d for d in render(namespace) if d["kind"] == "Deployment")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "operator", "namespace": namespace}}
    kubectl("create", "serviceaccount", "selvedge", "-n", namespace)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    apply_objects(kubectl, [{**pod, "spec": deployment["spec"]["template"]["spec"]}], "--dry-run=server")
    del container["securityContext"]["capabilities"]
    with pytest.raises(Exception, match="restricted"):
        apply_objects(kubectl, [{**pod, "spec": deployment["spec"]["template"]["spec"]}], "--dry-run=server")
