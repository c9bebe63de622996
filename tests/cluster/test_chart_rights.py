"""The operator with the rights that the chart gives it, and no other, through everything that it does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.cluster.chart_support import render
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.rights import as_account
from tests.cluster.world import World, wait_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.cluster


@pytest.fixture
def confined(kubectl, unwatched: World, kubeconfig: Path, tmp_path: Path) -> World:
    """A world whose operator is the chart's ServiceAccount of a release that watches this namespace alone."""
    namespace = unwatched.namespace
    documents = render(namespace, f"watchNamespaces={{{namespace}}}", "clusterUid=test", "rbac.userRoles=false")
    rights = [d for d in documents if d["kind"] in ("ServiceAccount", "Role", "RoleBinding")]
    kubectl("apply", "-f", "-", input="---\n".join(json.dumps(document) + "\n" for document in rights))
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(as_account(kubectl, kubeconfig, namespace)))
    unwatched.operator = OperatorProcess(
        path,
        tmp_path / "operator.log",
        namespaces=(namespace,),
        lease_namespace=namespace,
        lease_name="selvedge",
        env={"SELVEDGE_CLUSTER_UID": "test"},
    )
    unwatched.operator.start()
    return unwatched


def test_the_chart_rights_are_enough_for_everything(confined: World):
    world = confined
    try:
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
    finally:
        world.operator.kill()
        world.clean()
