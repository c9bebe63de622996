"""Taken away in every order: nothing hangs, no data is lost; installed again, everything is Ready without a write."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from selvedge.core.rights import LEASE_RIGHTS, RELEASE_RIGHTS
from tests.cluster.release import CHART, HANGING_SECONDS, OPS, SECONDS, SHOP, Jobs, Release, ends, release
from tests.cluster.rights import MODES, Mode, Verb, as_account, reduced, release_rights, verbs_of
from tests.cluster.world import World, wait_for
from tests.conftest import Kubectl


@pytest.fixture
def account(world: World, kubectl: Kubectl, tmp_path: Path) -> Path:
    """A kubeconfig of the account that the chart gives the Job, with the chart's rights."""
    _grant(kubectl, world)
    path = tmp_path / "account"
    config = as_account(kubectl, world.kubeconfig, world.namespace, "selvedge-release")
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def _grant(kubectl: Kubectl, world: World, *taken: Verb) -> None:
    documents = release_rights(world.namespace, "namespaces")
    for role in (document for document in documents if "rules" in document):
        role["rules"] = reduced(role, set(taken))
        for rule in role["rules"]:
            assert rule.get("resourceNames") in (None, ["selvedge"])
            if "resourceNames" in rule:
                rule["resourceNames"] = [world.operator.lease_name]
    kubectl("apply", "-f", "-", input="---\n".join(json.dumps(document) + "\n" for document in documents))


@pytest.mark.parametrize("mode", MODES)
def test_the_job_has_an_account_of_its_own_with_what_it_needs_and_no_more(mode: Mode):
    documents = release_rights("shop", mode)
    needed = {verb for right in (*RELEASE_RIGHTS, *LEASE_RIGHTS) for verb in right.each()}
    assert verbs_of([d for d in documents if "rules" in d]) == needed
    assert {subject["name"] for d in documents for subject in d.get("subjects", ())} == {"selvedge-release"}
    # nothing of it is there before, but Roles in watched namespaces, which grant nothing to anybody until then
    lasting = {d["kind"] for d in documents if "helm.sh/hook" not in d["metadata"].get("annotations", {})}
    assert lasting == ({"Role", "RoleBinding"} if mode == "namespaces" else set())


@pytest.mark.long
def test_each_verb_of_the_job_is_needed(world: World, account: Path, kubectl: Kubectl):
    world.schema("shop", postgres={"schemas": [{"name": "stock"}]})
    world.ready("DatabaseSchema", "shop")
    world.operator.stop()
    spec = {"schemaRef": {"name": "shop"}, "username": world.role("app"), "roles": []}
    world.api.apply({"kind": "DatabaseUser", "metadata": {"name": "app"}, "spec": spec})
    held = {"DatabaseSchema": "shop", "DatabaseUser": "app"}

    def hold() -> None:
        for kind, name in held.items():
            world.api.patch(kind, name, {"metadata": {"finalizers": ["selvedge.dev/cleanup"]}})

    user, lease = f"system:serviceaccount:{world.namespace}:selvedge-release", world.operator.lease_name
    for group, resource, verb in (each for right in (*LEASE_RIGHTS, *RELEASE_RIGHTS) for each in right.each()):
        hold()
        if verb == "create":
            kubectl("delete", "lease", lease, "-n", world.namespace)
        _grant(kubectl, world, (group, resource, verb))
        name = lease if verb in ("get", "update") else ""
        wait_for(lambda v=(group, resource, verb), n=name: not world.api.may(user, *v, name=n))
        done = _release(world, "--take-lease", account=account)
        if verb == "list":  # as where a namespace is gone, and with it the Role: left out
            (kind,) = (kind for kind in held if f"{kind.lower()}s" == resource)
            assert kind not in done.stdout
            assert "1 resource let go" in done.stdout
            continue
        assert done.returncode == 1, (resource, verb, done.stdout)
        assert f"selvedge-release may not {verb} {resource}" in done.stderr
        assert ("1 resource let go" in done.stdout) is (verb == "patch")  # the other one
    hold()
    _grant(kubectl, world)
    wait_for(lambda: world.api.may(user, "selvedge.dev", "databaseusers", "patch"))
    assert "2 resources let go" in _release(world, "--take-lease", account=account).stdout


def test_released_resources_go_without_an_operator_and_come_back_without_a_write(world: World, account: Path):
    world.schema("shop", deletionPolicy="Delete", postgres={"schemas": [{"name": "stock"}]})
    world.ready("DatabaseSchema", "shop")
    wait_for(lambda: world.api.get("DatabaseSchema", "shop")["metadata"].get("finalizers"))
    world.sql("CREATE TABLE stock.items (id int)")
    document = world.api.get("DatabaseSchema", "shop")
    xid = world.ask("SELECT count(*) FROM selvedge.claims")
    # the Lease ends its operator, which would set the finalizer again
    done = _release(world, "--take-lease", account=account)
    assert done.returncode == 0, done.stderr
    assert f"released DatabaseSchema {world.namespace}/shop" in done.stdout
    wait_for(lambda: not world.operator.daemon.alive)
    assert "finalizers" not in world.api.get("DatabaseSchema", "shop")["metadata"]
    world.api.delete("DatabaseSchema", "shop")
    assert world.api.get("DatabaseSchema", "shop") is None  # at once, and nothing was dropped
    assert world.ask("SELECT count(*) FROM stock.items") == 0
    assert world.ask("SELECT count(*) FROM selvedge.claims") == xid
    # the way back: the same declaration, the same claims
    world.operator.start(leading=False)
    metadata = {"name": "shop"}
    world.api.apply({"kind": "DatabaseSchema", "metadata": metadata, "spec": document["spec"]})
    wait_for(world.operator.leads, 60)
    world.ready("DatabaseSchema", "shop", 60)
    wait_for(lambda: world.api.get("DatabaseSchema", "shop")["metadata"].get("finalizers"))
    assert world.ask("SELECT count(*) FROM selvedge.claims") == xid


@pytest.mark.long
def test_beside_a_live_operator_it_gives_up_and_says_what_to_do(world: World, account: Path):
    world.schema("shop", deletionPolicy="Delete", postgres={"schemas": [{"name": "stock"}]})
    world.ready("DatabaseSchema", "shop")
    wait_for(lambda: world.api.get("DatabaseSchema", "shop")["metadata"].get("finalizers"))
    done = _release(world, account=account)
    assert done.returncode == 1, done.stdout
    sentence = f"an operator sets the finalizer again (DatabaseSchema {world.namespace}/shop): uninstall it first"
    assert f"error: {sentence}, or use --take-lease" in done.stderr
    # which goes on leading, holds what it held, and removes it when that is asked for
    assert world.operator.leads()
    wait_for(lambda: world.api.get("DatabaseSchema", "shop")["metadata"].get("finalizers"))
    world.api.delete("DatabaseSchema", "shop")
    wait_for(lambda: world.api.get("DatabaseSchema", "shop") is None)
    assert world.sql(f"SELECT 1 FROM pg_database WHERE datname = '{world.name}'", database="postgres") == []


def test_what_may_not_be_looked_at_is_named_and_is_no_success(world: World, account: Path):
    world.schema("shop", deletionPolicy="Delete", postgres={"schemas": [{"name": "stock"}]})
    world.ready("DatabaseSchema", "shop")
    wait_for(lambda: world.api.get("DatabaseSchema", "shop")["metadata"].get("finalizers"))
    world.operator.stop()
    done = _release(world, "-n", "elsewhere", account=account)
    assert done.returncode == 1
    assert f"released DatabaseSchema {world.namespace}/shop\n1 resource let go" in done.stdout
    for kind in ("DatabaseSchema", "DatabaseUser"):
        assert f"not released: {kind}s in namespace elsewhere: " in done.stderr
    assert "selvedge release -n elsewhere" in done.stderr
    assert "finalizers" not in world.api.get("DatabaseSchema", "shop")["metadata"]


def _release(world: World, *options: str, account: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "selvedge", "release", "-n", world.namespace, *options]
    environment = {
        "KUBECONFIG": str(account),
        "SELVEDGE_LEASE_NAMESPACE": world.namespace,
        "SELVEDGE_LEASE_NAME": world.operator.lease_name,
    }
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Release]:
    """The chart, an operator in the place of its pod, and live resources."""
    with release(tmp_path) as made:
        made.install()
        made.operator()
        made.declare()
        made.all_ready()
        wait_for(lambda: set(made.finalizers()) == {"DatabaseSchema/scratch", "DatabaseUser/scratch"}, SECONDS)
        yield made


@pytest.mark.long
def test_chart_first_and_installed_again(here: Release):
    writes, uids = here.writes(), here.world.api.list("DatabaseSchema")
    with Jobs(here) as jobs:
        here.helm("uninstall", "selvedge", timeout=HANGING_SECONDS)
    assert f"released DatabaseSchema {SHOP}/scratch" in jobs.outputs[0]
    # the Job's account and its rights went with it
    for kind in ("serviceaccount", "role", "rolebinding", "clusterrole", "clusterrolebinding"):
        left = here.sandbox.kubectl(
            "get", kind, "-n", OPS, "-l", "app.kubernetes.io/name=selvedge", "-o", "name"
        ).stdout
        assert [name for name in left.split() if "release" in name] == []
    wait_for(lambda: not here.world.operator.daemon.alive, SECONDS)  # its Lease was taken
    assert here.finalizers() == {}
    assert [o["metadata"]["uid"] for o in here.world.api.list("DatabaseSchema")] == [o["metadata"]["uid"] for o in uids]
    assert (here.rows("kept"), here.rows("scratch")) == (5, 5)
    here.install()
    again = here.operator(leading=False)
    wait_for(again.leads, SECONDS)  # the Lease that was taken expires
    here.passes(again)
    here.all_ready()
    assert here.writes() == writes
    wait_for(lambda: set(here.finalizers()) == {"DatabaseSchema/scratch", "DatabaseUser/scratch"}, SECONDS)


@pytest.mark.long
def test_chart_first_then_the_namespace(here: Release):
    with Jobs(here):
        here.helm("uninstall", "selvedge")
    # what was not released is said in the Job's log: helm asks for it before it deletes the Job
    requests = here.sandbox.kubectl("get", "--raw", "/metrics").stdout.splitlines()
    assert [
        line
        for line in requests
        if "request_total" in line and 'resource="pods"' in line and 'subresource="log"' in line
    ]
    here.stop()
    here.delete(SHOP)
    ends(lambda: here.gone(SHOP))
    assert (here.rows("kept"), here.rows("scratch")) == (5, 5)


@pytest.mark.long
def test_without_the_hook_the_namespace_waits_until_somebody_releases_it(here: Release):
    here.stop()
    here.helm("uninstall", "selvedge", "--no-hooks")
    here.delete(SHOP)
    wait_for(lambda: "selvedge.dev/cleanup in 2 resource" in here.message(SHOP), SECONDS)
    assert not here.gone(SHOP)
    # one by kubectl, as the page has it; the rest by the program
    nothing = '{"metadata":{"finalizers":null}}'
    here.sandbox.kubectl("patch", "dbs", "scratch", "-n", SHOP, "--type=merge", "-p", nothing)
    done = here.let_go("-n", SHOP)
    assert done.returncode == 0, done.stderr
    assert "1 resource let go" in done.stdout
    ends(lambda: here.gone(SHOP))
    assert (here.rows("kept"), here.rows("scratch")) == (5, 5)


@pytest.mark.long
def test_the_namespace_of_the_resources_first(here: Release):
    here.delete(SHOP)
    ends(lambda: here.gone(SHOP), what=lambda: (here.finalizers(), here.world.operator.logs()[-1500:]))
    assert here.rows("kept") == 5
    with Jobs(here):
        here.helm("uninstall", "selvedge")
    assert here.rows("kept") == 5


@pytest.mark.long
def test_the_namespace_of_the_operator_first(here: Release):
    """The operator's account goes with it: it ends, and what it held is let go by whoever may."""
    here.delete(OPS)
    ends(lambda: here.gone(OPS))
    wait_for(lambda: not here.world.operator.daemon.alive, SECONDS)
    here.delete(SHOP)
    wait_for(lambda: "selvedge.dev/cleanup in 2 resource" in here.message(SHOP), SECONDS)  # nobody is left who would
    done = here.let_go()
    assert done.returncode == 0, done.stderr
    assert "2 resources let go" in done.stdout
    ends(lambda: here.gone(SHOP))
    assert (here.rows("kept"), here.rows("scratch")) == (5, 5)
    # what the release made outside of its namespace, as the page has it
    kinds = (
        "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings",
        "-l=app.kubernetes.io/name=selvedge",
    )
    assert here.sandbox.kubectl("get", *kinds, "-o", "name").stdout
    here.sandbox.kubectl("delete", *kinds)
    assert "selvedge" not in here.sandbox.kubectl("get", kinds[0], "-o", "name").stdout


@pytest.mark.long
def test_the_namespace_of_the_operator_first_and_installed_again(here: Release):
    writes = here.writes()
    here.delete(OPS)
    ends(lambda: here.gone(OPS))
    wait_for(lambda: not here.world.operator.daemon.alive, SECONDS)
    here.install()
    here.passes(here.operator())
    here.all_ready()
    assert here.writes() == writes
    assert set(here.finalizers()) == {"DatabaseSchema/scratch", "DatabaseUser/scratch"}


@pytest.mark.long
def test_resources_first(here: Release):
    for kind in ("databaseusers", "databaseschemas", "databaseservers"):
        here.sandbox.kubectl("delete", kind, "--all", "-n", SHOP, "--wait=false")
    kinds = "databaseusers,databaseschemas,databaseservers,migrationruns"
    ends(lambda: not here.sandbox.kubectl("get", kinds, "-n", SHOP, "-o", "name").stdout)
    with Jobs(here):
        here.helm("uninstall", "selvedge")
    # and everything that is left in the cluster
    plurals = ("databaseusers", "migrationruns", "databaseschemas", "databaseservers")
    here.sandbox.kubectl("delete", "crd", *(f"{plural}.selvedge.dev" for plural in plurals))
    here.delete(SHOP)
    ends(lambda: here.gone(SHOP))
    assert here.rows("kept") == 5


@pytest.mark.long
def test_a_job_that_cannot_run_stops_helm_after_a_minute_and_changes_nothing(here: Release):
    """There is no node and nobody who runs the Job."""
    held, started = here.finalizers(), time.monotonic()
    done = here.helm("uninstall", "selvedge", check=False)
    took = time.monotonic() - started
    assert done.returncode == 1
    assert "Job/ops/selvedge-release not ready. status: Failed" in done.stderr  # the page's sentence
    assert took > 55
    # the operator goes on; of the Job there is what says why, and its account is gone
    assert here.world.operator.leads()
    assert here.finalizers() == held
    assert "DeadlineExceeded" in here.sandbox.kubectl("describe", "job", "selvedge-release", "-n", OPS).stdout
    accounts = here.sandbox.kubectl("get", "serviceaccounts", "-n", OPS, "-o", "name").stdout.split()
    assert set(accounts) == {"serviceaccount/default", "serviceaccount/selvedge"}
    assert json.loads(here.helm("list", "-o", "json").stdout)[0]["status"] == "uninstalling"
    # who stays after all
    assert "has no deployed releases" in here.helm("upgrade", "selvedge", str(CHART), check=False).stderr
    here.helm("rollback", "selvedge", "1")
    assert json.loads(here.helm("list", "-o", "json").stdout)[0]["status"] == "deployed"
    assert here.helm("uninstall", "selvedge", "--timeout=5s", check=False).returncode == 1
    # who goes on
    here.stop()
    here.helm("uninstall", "selvedge", "--no-hooks")
    done = here.let_go()
    assert done.returncode == 0, done.stderr
    assert "2 resources let go" in done.stdout
    here.sandbox.kubectl("delete", "job", "selvedge-release", "-n", OPS)
    left = here.sandbox.kubectl("get", "all,roles,rolebindings", "-n", OPS, "-o", "name").stdout.split()
    assert left == []
    here.delete(SHOP)
    ends(lambda: here.gone(SHOP))
    assert (here.rows("kept"), here.rows("scratch")) == (5, 5)
