"""The operator with the rights that the chart gives it, and no other, through everything that it does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.cluster.operator_process import OperatorProcess
from tests.cluster.rights import Mode, as_account, chart_rights
from tests.cluster.user_support import bound, changed, logs_in, shop, user
from tests.cluster.world import World, condition, secret, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Kubectl

pytestmark = pytest.mark.cluster


@pytest.fixture(params=["namespaces", "secrets"])
def mode(request: pytest.FixtureRequest) -> Mode:
    """How the operator's rights are limited to the test's namespace: all of them, or those on Secrets."""
    found: Mode = request.param
    return found


@pytest.fixture
def confined(mode: Mode, kubectl: Kubectl, unwatched: World, kubeconfig: Path, tmp_path: Path) -> Iterator[World]:
    """A world whose operator is the chart's ServiceAccount of a release that is limited to this namespace.

    With rights everywhere it watches this one alone all the same: the others are those of other tests.
    """
    namespace = unwatched.namespace
    rights = chart_rights(namespace, mode)
    path = tmp_path / "kubeconfig"
    unwatched.operator = OperatorProcess(
        path,
        tmp_path / "operator.log",
        namespaces=(namespace,),
        lease_namespace=namespace,
        lease_name="selvedge",
        env={"SELVEDGE_CLUSTER_UID": "test", "SELVEDGE_WATCH_SECRETS": str(mode == "namespaces")},
    )
    try:
        kubectl("apply", "-f", "-", input="---\n".join(json.dumps(document) + "\n" for document in rights))
        path.write_text(yaml.safe_dump(as_account(kubectl, kubeconfig, namespace)))
        unwatched.operator.start()
        yield unwatched
    finally:
        unwatched.operator.kill()
        for document in rights:
            if document["kind"].startswith("Cluster"):
                name = document["metadata"]["name"]
                kubectl("delete", document["kind"], name, "--ignore-not-found", "--wait=false")
        unwatched.clean()


def test_the_chart_rights_are_enough_for_everything(confined: World):
    world = confined
    selector = {"matchLabels": {"kubernetes.io/metadata.name": world.namespace}}
    namespaces = {"from": "Selector", "selector": selector}
    world.server(access=[{"namespaces": namespaces, "rolePrefixes": [world.name]}])
    data = {"20250101000000_a.sql": "CREATE TABLE a (id int);"}
    source = {"kind": "ConfigMap", "metadata": {"name": "files", "labels": {"selvedge.dev/watch": "true"}}}
    world.api.apply({**source, "data": data})
    migrations = {"source": {"configMaps": [{"name": "files"}]}, "historyLimit": 1}
    postgres = {"owner": world.role("owner"), "roles": [{"name": world.role("owner")}]}
    world.schema("shop", migrations=migrations, postgres=postgres, deletionPolicy="Delete")
    world.ready("DatabaseSchema", "shop", 60)
    spec = {"schemaRef": {"name": "shop"}, "username": world.role("app"), "roles": []}
    world.api.apply({"kind": "DatabaseUser", "metadata": {"name": "app"}, "spec": spec})
    world.ready("DatabaseUser", "app", 60)
    # a run replaces the one before; a plan that waits is written to a ConfigMap
    world.api.apply({**source, "data": {**data, "20250102000000_b.sql": "CREATE TABLE b (id int);"}})
    wait_for(lambda: world.ask("SELECT to_regclass('b') IS NOT NULL"), 60)
    world.schema("shop", migrations=migrations, postgres=postgres, deletionPolicy="Delete", apply="OnApproval")
    world.ready("DatabaseSchema", "shop", 60)
    postgres["schemas"] = [{"name": "more"}]
    world.schema("shop", migrations=migrations, postgres=postgres, deletionPolicy="Delete", apply="OnApproval")
    world.until("DatabaseSchema", "shop", "False", "WaitingForApproval", 60)
    for kind, name in (("DatabaseUser", "app"), ("DatabaseSchema", "shop")):
        world.api.delete(kind, name)
        wait_for(lambda kind=kind, name=name: world.api.get(kind, name) is None, 60)
    signs = ("orbidden", " 403", " may not ", "lacks rights")
    assert not [line for line in world.operator.logs().splitlines() if any(sign in line for sign in signs)]


@pytest.mark.parametrize("mode", ["secrets"], indirect=True)
def test_secrets_that_are_not_watched_are_read_with_the_next_pass(confined: World):
    world = confined
    world.server(login=(world.endpoint.username, "not it"))
    world.until("DatabaseServer", "main", "False", "AuthenticationFailed", 60)
    world.server()
    world.ready("DatabaseServer", "main", 60)

    shop(world)
    world.api.apply(secret("given", password="first-5f0c1e"))
    user(world, "app", password={"secretRef": {"name": "given"}}, roles=[])
    before = bound(world, "app")
    world.api.apply(secret("given", password="second-77ab04"))
    world.now("DatabaseUser", "app")
    data = changed(world, "app-db", before)
    assert data["password"] == "second-77ab04"
    wait_for(lambda: logs_in(world, data))
    signs = (" may not ", "lacks rights")
    assert not [line for line in world.operator.logs().splitlines() if any(sign in line for sign in signs)]


@pytest.mark.parametrize("mode", ["secrets"], indirect=True)
def test_a_secret_out_of_reach_is_told_with_its_namespace_and_found_once_that_is_bound(
    confined: World, kubectl: Kubectl
):
    world = confined
    binding, namespace = "selvedge-secrets", world.namespace
    kubectl("delete", "rolebinding", binding, "-n", namespace)
    account = f"{namespace}:selvedge"
    wait_for(lambda: not world.api.may(f"system:serviceaccount:{account}", "", "secrets", "get"))
    world.server()
    world.until("DatabaseServer", "main", "False", "KubernetesForbidden", 60)
    told = condition(world.api.get("DatabaseServer", "main"))["message"]
    assert f"may not get secrets in namespace {namespace}: " in told
    assert "rbac.secretNamespaces" in told
    # as the chart's notes have it
    role = f"--clusterrole={namespace}-selvedge-secrets"
    kubectl("create", "rolebinding", f"{binding}-too", "-n", namespace, role, f"--serviceaccount={account}")
    world.ready("DatabaseServer", "main", 90)
