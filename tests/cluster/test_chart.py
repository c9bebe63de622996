"""The Helm chart against a real API server: it renders, it is accepted, and its rights are no wider than needed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from sandbox import tools

if TYPE_CHECKING:
    from tests.conftest import Kubectl

CHART = Path(__file__).parents[2] / "charts" / "selvedge"
_UID = "7d0f0c0e-0000-4000-8000-000000000000"


def _helm(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [str(tools.helm()), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


def _render(namespace: str, *settings: str) -> list[dict[str, Any]]:
    """The chart's objects, those of ``helm test`` included."""
    flags = [flag for setting in settings for flag in ("--set", setting)]
    text = _helm("template", "selvedge", str(CHART), "--namespace", namespace, *flags).stdout
    return [document for document in yaml.safe_load_all(text) if document]


def _apply(kubectl: Kubectl, documents: list[dict[str, Any]], *flags: str) -> str:
    text = "---\n".join(json.dumps(document) + "\n" for document in documents)
    return kubectl("apply", "--server-side", *flags, "-f", "-", input=text).stdout


def test_the_chart_has_no_fault_that_helm_knows():
    assert "0 chart(s) failed" in _helm("lint", "--strict", str(CHART)).stdout


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("replicas", "none"),
        ("replica", 2),
        ("logLevel", "loud"),
        ("image", {"digest": "latest"}),
        ("watchNamespaces", ["Shop"]),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_name(name, value):
    done = _helm("template", "selvedge", str(CHART), "--set-json", f"{name}={json.dumps(value)}", check=False)
    assert done.returncode != 0
    assert name in done.stderr


def test_in_namespaces_the_cluster_has_to_be_named():
    done = _helm("template", "selvedge", str(CHART), "--set", "watchNamespaces={shop}", check=False)
    assert done.returncode != 0
    assert "set clusterUid to what `kubectl get namespace kube-system" in done.stderr


@pytest.mark.parametrize("mode", ["cluster", "namespaces"])
def test_the_api_server_accepts_every_object(kubectl, namespace, mode):
    settings = ["networkPolicy.enabled=true"]
    if mode == "namespaces":
        settings += [f"watchNamespaces={{{namespace}}}", f"clusterUid={_UID}"]
    answer = _apply(kubectl, _render(namespace, *settings), "--dry-run=server", "--force-conflicts")
    assert "deployment.apps/selvedge" in answer
    assert "validatingadmissionpolicy" in answer


def test_in_namespaces_no_right_reaches_beyond_them(namespace):
    documents = _render(namespace, f"watchNamespaces={{{namespace},other}}", f"clusterUid={_UID}")
    account = [d for d in documents if d["kind"].endswith("Binding") and d["apiVersion"].startswith("rbac")]
    assert {d["kind"] for d in account} == {"RoleBinding"}
    assert {d["metadata"]["namespace"] for d in account} == {namespace, "other"}
    roles = {(d["metadata"]["name"]) for d in documents if d["kind"] == "ClusterRole"}
    assert roles == {"selvedge-view", "selvedge-edit", "selvedge-approve", "selvedge-admin"}


def test_two_releases_in_one_cluster_share_no_name():
    def names(release: str, namespace: str, *settings: str) -> set[tuple[str, str, str]]:
        flags = [flag for one in (*settings, f"clusterUid={_UID}") for flag in ("--set", one)]
        text = _helm("template", release, str(CHART), "--namespace", namespace, *flags).stdout
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
    (policy,) = (d for d in _render("ops", "rbac.userRolePrefix=billing") if d["kind"] == "ValidatingAdmissionPolicy")
    assert "(ClusterRole billing-approve)" in str(policy["spec"]["validations"])


def test_the_pod_keeps_to_the_restricted_profile(kubectl, namespace):
    kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    (deployment,) = (d for d in _render(namespace) if d["kind"] == "Deployment")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "operator", "namespace": namespace}}
    kubectl("create", "serviceaccount", "selvedge", "-n", namespace)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    _apply(kubectl, [{**pod, "spec": deployment["spec"]["template"]["spec"]}], "--dry-run=server")
    del container["securityContext"]["capabilities"]
    with pytest.raises(Exception, match="restricted"):
        _apply(kubectl, [{**pod, "spec": deployment["spec"]["template"]["spec"]}], "--dry-run=server")
