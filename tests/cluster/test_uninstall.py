"""Taken away in every order: nothing hangs, no data is lost; installed again, everything is Ready without a write."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.release import CHART, HANGING_SECONDS, OPS, SECONDS, SHOP, Jobs, Release, ends, release
from tests.cluster.world import World, wait_for


def test_released_resources_go_without_an_operator_and_come_back_without_a_write(world: World):
    world.schema("shop", deletionPolicy="Delete", postgres={"schemas": [{"name": "stock"}]})
    world.ready("DatabaseSchema", "shop")
    wait_for(lambda: world.api.get("DatabaseSchema", "shop")["metadata"].get("finalizers"))
    world.sql("CREATE TABLE stock.items (id int)")
    document = world.api.get("DatabaseSchema", "shop")
    xid = world.ask("SELECT count(*) FROM selvedge.claims")
    # beside an operator that sets it again, the command gives up and says so; the Lease ends the operator
    done = _release(world, "--take-lease")
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


def _release(world: World, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "selvedge", "release", "-n", world.namespace, *options]
    environment = {
        "KUBECONFIG": str(world.kubeconfig),
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
    here.stop()
    here.sandbox.kubectl("delete", "namespace", SHOP, "--wait=false")
    ends(lambda: here.gone(SHOP))
    assert (here.rows("kept"), here.rows("scratch")) == (5, 5)


@pytest.mark.long
def test_without_the_hook_the_namespace_waits_until_somebody_releases_it(here: Release):
    here.stop()
    here.helm("uninstall", "selvedge", "--no-hooks")
    here.sandbox.kubectl("delete", "namespace", SHOP, "--wait=false")
    conditions = ("get", "namespace", SHOP, "-o", "jsonpath={.status.conditions[*].message}")
    wait_for(lambda: "selvedge.dev/cleanup in 2 resource" in here.sandbox.kubectl(*conditions).stdout, SECONDS)
    assert not here.gone(SHOP)
    # one by kubectl, as the page has it; the rest by the program
    nothing = '{"metadata":{"finalizers":null}}'
    here.sandbox.kubectl("patch", "dbs", "scratch", "-n", SHOP, "--type=merge", "-p", nothing)
    command = [sys.executable, "-m", "selvedge", "release", "-n", SHOP, "--kubeconfig", str(here.sandbox.kubeconfig)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 resource let go" in done.stdout
    ends(lambda: here.gone(SHOP))
    assert (here.rows("kept"), here.rows("scratch")) == (5, 5)


@pytest.mark.long
def test_the_namespace_of_the_resources_first(here: Release):
    here.sandbox.kubectl("delete", "namespace", SHOP, "--wait=false")
    ends(lambda: here.gone(SHOP), what=lambda: (here.finalizers(), here.world.operator.logs()[-1500:]))
    assert here.rows("kept") == 5
    with Jobs(here):
        here.helm("uninstall", "selvedge")
    assert here.rows("kept") == 5


@pytest.mark.long
def test_the_namespace_of_the_operator_first(here: Release):
    """The operator's account goes with it: it ends, and what it held is let go by whoever may."""
    here.sandbox.kubectl("delete", "namespace", OPS, "--wait=false")
    ends(lambda: here.gone(OPS))
    wait_for(lambda: not here.world.operator.daemon.alive, SECONDS)
    command = [sys.executable, "-m", "selvedge", "release", "--kubeconfig", str(here.sandbox.kubeconfig)]
    assert subprocess.run(command, capture_output=True, timeout=SECONDS, check=False).returncode == 0
    here.sandbox.kubectl("delete", "namespace", SHOP, "--wait=false")
    ends(lambda: here.gone(SHOP))
    assert (here.rows("kept"), here.rows("scratch")) == (5, 5)


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
    here.sandbox.kubectl("delete", "namespace", SHOP, "--wait=false")
    ends(lambda: here.gone(SHOP))
    assert here.rows("kept") == 5


@pytest.mark.long
def test_in_namespaces_the_namespace_first(tmp_path: Path):
    """The operator's rights go with the namespace: the Job that may not look there has nothing to do there."""
    with release(tmp_path) as here:
        here.sandbox.kubectl("create", "namespace", SHOP)
        here.sandbox.kubectl("create", "namespace", "other")
        here.install(CHART, f"watchNamespaces={{{SHOP},other}}")
        here.sandbox.kubectl("delete", "namespace", SHOP, "--wait=false")
        ends(lambda: here.gone(SHOP))
        with Jobs(here) as jobs:
            here.helm("uninstall", "selvedge", timeout=HANGING_SECONDS)
        assert jobs.outputs == ["0 resources let go\n"]
