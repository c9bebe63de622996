"""With ``watchNamespaces``: the operator's rights in a namespace that is deleted go after what needs them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.cluster.chart_support import apply_objects, render
from tests.cluster.kube_api import Document, KubeApi
from tests.cluster.world import wait_for
from tests.conftest import Kubectl

pytestmark = pytest.mark.cluster

_HELD = "the operator still needs its rights here: "
_CLEANUP = "selvedge.dev/cleanup"
_RIGHTS = ("role/selvedge", "rolebinding/selvedge", "role/selvedge-release", "rolebinding/selvedge-release")
_SPECS = {
    "DatabaseSchema": {"serverRef": {"name": "main"}, "database": "shop", "postgres": {}},
    "DatabaseUser": {"schemaRef": {"name": "shop"}},
}
#: The namespace controller's account, with and without --use-service-account-credentials.
_CONTROLLERS = ("system:serviceaccount:kube-system:namespace-controller", "system:kube-controller-manager")


@pytest.fixture
def api(kubectl: Kubectl, kubeconfig: Path, served: None) -> Iterator[KubeApi]:
    """A namespace with the chart's rights and policies, and without an operator; it may be gone at the end."""
    namespace = f"test-{uuid.uuid4().hex[:12]}"
    kubectl("create", "namespace", namespace)
    documents = _documents(namespace)
    try:
        with closing(KubeApi(kubeconfig, namespace)) as client:
            apply_objects(kubectl, documents)
            yield client
    finally:
        for kind in _SPECS:
            nothing = '{"metadata":{"finalizers":null}}'
            kubectl("patch", kind, "shop", "-n", namespace, "--type=merge", "-p", nothing, check=False)
        for policy in (d for d in documents if d["kind"].startswith("Validating")):
            kubectl("delete", policy["kind"], policy["metadata"]["name"], "--wait=false")
        kubectl("delete", "namespace", namespace, "--wait=false", "--ignore-not-found")


def _documents(namespace: str, *settings: str) -> list[Document]:
    rendered = render(namespace, f"watchNamespaces={{{namespace}}}", "clusterUid=any", *settings)
    roles = [d for d in rendered if f"{d['kind']}/{d['metadata']['name']}".lower() in _RIGHTS]
    assert len(roles) == len(_RIGHTS)
    return [*roles, *(d for d in rendered if "-rights-last-" in d["metadata"]["name"])]


def test_the_namespace_controller_alone_is_held_up_and_as_long_as_something_holds_the_finalizer(
    api: KubeApi, kubectl: Kubectl
):
    def told(*what: str, user: str = "") -> list[str]:
        """What somebody is told who deletes it; nothing is deleted."""
        command = ("delete", *what, "-n", api.namespace, "--dry-run=server")
        other = (f"--as={user}", "--as-group=system:masters") if user else ()
        return kubectl(*command, *other, check=False).stderr.splitlines()

    # other Roles here are no concern of the chart's
    kubectl("create", "role", "other", "--verb=get", "--resource=pods", "-n", api.namespace)
    for kind, user in zip(_SPECS, _CONTROLLERS, strict=True):
        _hold(api, kind)
        wait_for(lambda u=user: len(told(*_RIGHTS, "role/other", user=u)) == len(_RIGHTS), 60)
        refused = told(*_RIGHTS, "role/other", user=user)
        assert all(f"{_HELD}{kind} shop has the finalizer {_CLEANUP}; " in line for line in refused)
        assert all(line.endswith(f"selvedge release -n {api.namespace}") for line in refused)
        assert told(*_RIGHTS) == []
        api.patch(kind, "shop", {"metadata": {"finalizers": []}})
        wait_for(lambda u=user: told(*_RIGHTS, user=u) == [], 60)


def test_a_namespace_goes_whole_as_soon_as_nothing_holds_it(api: KubeApi, kubectl: Kubectl):
    for kind in _SPECS:
        _hold(api, kind)
    command = ("delete", _RIGHTS[0], "-n", api.namespace, "--dry-run=server", f"--as={_CONTROLLERS[0]}")
    wait_for(lambda: _HELD in kubectl(*command, check=False).stderr, 60)
    kubectl("delete", "namespace", api.namespace, "--wait=false")
    conditions = ("get", "namespace", api.namespace, "-o", "jsonpath={.status.conditions[*].message}")

    def waits() -> bool:
        message = kubectl(*conditions).stdout
        return _HELD in message and f"{_CLEANUP} in 2 resource" in message

    wait_for(waits, 60)
    left = kubectl("get", "role,rolebinding", "-n", api.namespace, "-o", "name").stdout.split()
    assert {name.replace(".rbac.authorization.k8s.io", "") for name in left} == set(_RIGHTS)
    for kind in _SPECS:
        api.patch(kind, "shop", {"metadata": {"finalizers": []}})
    wait_for(lambda: kubectl("get", "namespace", api.namespace, check=False).returncode != 0, 60)


def _hold(api: KubeApi, kind: str) -> None:
    api.apply({"kind": kind, "metadata": {"name": "shop", "finalizers": [_CLEANUP]}, "spec": _SPECS[kind]})


def test_there_is_nothing_to_keep_cluster_wide_and_it_can_be_left_out():
    def kept(*settings: str) -> list[str]:
        return [d["metadata"]["name"] for d in render("ops", *settings) if "-rights-last-" in d["metadata"]["name"]]

    assert kept() == []
    namespaces = ("watchNamespaces={shop}", "clusterUid=any")
    assert kept(*namespaces, "uninstall.keepRights=false") == []
    # with the values of a chart before it, as helm upgrade --reuse-values has them
    assert len(set(kept(*namespaces, "uninstall=null"))) == 2
