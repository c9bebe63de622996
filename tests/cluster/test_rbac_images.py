"""Each verb that the chart gives for migrations out of images, and each shard's Lease: taken away, it is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox import PostgresEndpoint
from selvedge.core.rights import IMAGE_RIGHTS, LEASE_RIGHTS, RIGHTS, RIGHTS_BESIDE_SECRETS, SECRET_RIGHTS
from tests.cluster.kube_api import Document
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.rights import MODES, Confined, Mode, Verb, chart_rights, confined, verbs_of
from tests.cluster.world import World, condition, wait_for
from tests.conftest import Kubectl

pytestmark = pytest.mark.xdist_group("rights")

#: A Job that was lost is made again after ten seconds, a pass that failed after at most a minute.
_SECONDS = 150.0
_NO_NODE = "has no node yet"


@pytest.mark.parametrize("mode", MODES)
def test_what_images_need_is_given_where_they_are_enabled(mode: Mode):
    roles = [d for d in chart_rights("shop", mode, images=True) if "rules" in d]
    rights = (*RIGHTS_BESIDE_SECRETS, *SECRET_RIGHTS) if mode == "secrets" else RIGHTS
    needed = {verb for right in (*rights, *IMAGE_RIGHTS, *LEASE_RIGHTS) for verb in right.each()}
    assert verbs_of(roles) == needed
    assert {verb for right in IMAGE_RIGHTS for verb in right.each()} == set(CASES)


@pytest.fixture(scope="module")
def account(
    served: object,
    kubectl: Kubectl,
    kubeconfig: Path,
    postgres18: PostgresEndpoint,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Confined]:
    """The operator with the chart's rights in one namespace, and a database that is Ready."""
    directory = tmp_path_factory.mktemp("rights")
    with confined(kubectl, kubeconfig, postgres18, directory, "namespaces", images=True) as found:
        found.world.server()
        role = found.world.role("owner")
        found.world.schema("shop", postgres={"owner": role, "roles": [{"name": role}]})
        found.world.ready("DatabaseSchema", "shop", _SECONDS)
        yield found


def _run(world: World, name: str) -> None:
    """A run whose migrations are in an image."""
    spec = {"schemaRef": {"name": "shop"}, "source": {"image": {"reference": "registry.example/migrations:1"}}}
    world.api.apply({"kind": "MigrationRun", "metadata": {"name": name}, "spec": spec})


def _says(world: World, name: str, text: str) -> None:
    def said() -> str:
        return str(condition(world.api.get("MigrationRun", name))["message"])

    wait_for(lambda: text in said(), _SECONDS, what=said)


def _reading(world: World, name: str) -> None:
    _run(world, name)
    _says(world, name, _NO_NODE)


def _ended(account: Confined, name: str, **status: str) -> None:
    """The pod of a run says what a kubelet would."""
    uid = account.world.api.get("MigrationRun", name)["metadata"]["uid"]
    pods: list[Document] = account.world.api.list("Pod")
    labels = {pod["metadata"]["name"]: pod["metadata"]["labels"] for pod in pods}
    (pod,) = (pod for pod, has in labels.items() if has.get("selvedge.dev/migration-run") == uid)
    patch = ("--type=merge", "--subresource=status", "-p", json.dumps({"status": status}))
    account.kubectl("patch", "pod", pod, "-n", account.world.namespace, *patch)


Act = Callable[[Confined, str], None]

#: Whether the run is there before, and what is done without the verb. When it is back, a Job waits for a node.
CASES: dict[Verb, tuple[bool, Act]] = {
    ("batch", "jobs", "get"): (False, lambda a, name: _run(a.world, name)),
    ("batch", "jobs", "create"): (False, lambda a, name: _run(a.world, name)),
    # of a Job whose pod was lost, in whose place there will be another
    ("batch", "jobs", "delete"): (
        True,
        lambda a, name: _ended(a, name, phase="Failed", reason="Evicted", message="the node is low on memory"),
    ),
    ("", "pods", "list"): (False, lambda a, name: _run(a.world, name)),
    # there is no kubelet: with the right the log is empty, and another Job is made
    ("", "pods/log", "get"): (True, lambda a, name: _ended(a, name, phase="Succeeded")),
}


@pytest.mark.long
@pytest.mark.parametrize("verb", CASES, ids=lambda verb: f"{verb[2]}-{verb[1].replace('/', '-')}")
def test_a_verb_that_is_missing_is_named_and_its_return_is_enough(account: Confined, verb: Verb):
    known, act = CASES[verb]
    name = f"{verb[2]}-{verb[1].replace('/', '-')}"
    if known:
        _reading(account.world, name)
    with account.without(verb):
        act(account, name)
        wait_for(lambda: account.told(verb), _SECONDS, what=lambda: account.world.operator.logs()[-2000:])
        _says(account.world, name, "set migrationImages.enabled in the chart's values")
        assert condition(account.world.api.get("MigrationRun", name))["reason"] == "KubernetesForbidden"
    _says(account.world, name, _NO_NODE)


@pytest.mark.long
def test_a_shard_needs_its_own_lease(account: Confined):
    """Taken away, the log names it; given back, the shard has it and waits for the operator that serves everything."""
    world, kubectl = account.world, account.kubectl
    user = f"system:serviceaccount:{world.namespace}:selvedge"
    (role,) = (role for role in account.roles if role["metadata"]["name"] == "selvedge-lease")
    ((_, _, get), *_) = (verb for right in LEASE_RIGHTS for verb in right.each())
    namespace = ("-n", world.namespace)

    def grant(*, shards: bool) -> None:
        rules = json.loads(json.dumps(role["rules"]))
        for rule in rules:
            if "resourceNames" in rule:
                rule["resourceNames"] = [name for name in rule["resourceNames"] if shards or "shard" not in name]
        kubectl("patch", "role", "selvedge-lease", *namespace, "--type=merge", "-p", json.dumps({"rules": rules}))
        asked = ("coordination.k8s.io", "leases", get)
        wait_for(lambda: world.api.may(user, *asked, name="selvedge-shard-1") is shards)

    log = world.operator.daemon.log_path.with_suffix(".shard.log")
    env = {"SELVEDGE_SHARD": "1/2", "SELVEDGE_CLUSTER_UID": "test"}
    path = account.kubeconfig
    shard = OperatorProcess(
        path, log, namespaces=(world.namespace,), lease_namespace=world.namespace, lease_name="selvedge", env=env
    )
    grant(shards=False)
    try:
        shard.daemon.start()
        refused = "selvedge may not get leases.coordination.k8s.io"
        wait_for(lambda: refused in shard.logs(), _SECONDS)
        assert f"{world.namespace}/selvedge-shard-1" in shard.logs()
        grant(shards=True)
        lease = ("get", "lease", "selvedge-shard-1", *namespace, "-o", "jsonpath={.spec.holderIdentity}")
        wait_for(lambda: kubectl(*lease, check=False).stdout, _SECONDS, what=lambda: shard.logs()[-1500:])
    finally:
        shard.kill()
        grant(shards=True)
