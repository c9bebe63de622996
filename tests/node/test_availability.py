"""Pods go, in each of the ways in which they do: another goes on, nothing is lost and nothing happens twice."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from sandbox.node_config import NAME
from tests.cluster.world import condition, wait_for
from tests.node.availability_support import QUICK, Deployed, Migration, deployed, handover

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox.node import NodeHandle

Deploy = Callable[..., Deployed]
#: Of the rolling upgrade: resources, on how many databases, and the seconds of the migration that runs meanwhile.
RESOURCES, DATABASES, MIGRATION_SECONDS = 200, 40, 60.0
_OF_OURS = ("--delete-emptydir-data", "--pod-selector=app.kubernetes.io/name=selvedge")
#: What stands still here is the operator's own thread, in which its loop runs: a signal's handler is run by it.
BLOCK = "import signal, time\nsignal.signal(signal.SIGUSR1, lambda *_: time.sleep(3600))\n"


@pytest.fixture
def deploy(node: NodeHandle, operator_image: Path, clean_databases: None) -> Iterator[Deploy]:
    """Install the operator with these settings of the chart, and give it the node's Postgres to look after."""
    with ExitStack() as until_the_end:

        def start(*settings: str) -> Deployed:
            made = until_the_end.enter_context(deployed(node, operator_image, *settings))
            made.install()
            made.server()
            made.ready("DatabaseServer", "main")
            return made

        yield start


def test_a_standby_goes_on_where_the_leaders_pod_is_lost(deploy: Deploy, node: NodeHandle):
    """As with a machine that hangs: it renews nothing, releases nothing, and its sessions stay until it is gone."""
    deployed = deploy(*QUICK)
    leader = deployed.wait_leader()
    (standby,) = deployed.names() - {leader}
    assert deployed.served(standby, "/livez") == "ok\n"
    assert deployed.served(standby, "/readyz") == "standby\n"
    assert deployed.value(standby, "selvedge_leader") == 0
    assert deployed.value(standby, "db_queries_total") == 0
    assert json.loads(deployed.served(standby, "/health"))["status"] == "healthy"
    migration = Migration(deployed, "lost_leader", 5.0)
    migration.start()
    with handover(deployed) as seen:
        deployed.signal(leader, "STOP")
        node.kubectl("delete", "pod", leader, "-n", deployed.namespace, "--force", "--grace-period=0", "--wait=false")
        deployed.schema("meanwhile", "lost_leader_too", ["shared"])
    print(f"a leader's pod is lost, Lease of 6 s: {seen}")
    assert seen.seconds < 20
    deployed.ready("DatabaseSchema", "meanwhile")
    migration.ran_exactly_once()
    wait_for(lambda: len(deployed.ready_pods()) == 2, 60, what=deployed.pods)
    assert "Traceback" not in deployed.logs()


@pytest.mark.long
def test_a_container_that_is_killed_goes_on_at_once(deploy: Deploy):
    """It is started again in its pod, under the name that the Lease has: nobody waits for the Lease to expire."""
    deployed = deploy()
    leader = deployed.wait_leader()
    migration = Migration(deployed, "killed", 10.0)
    migration.start()
    began = time.monotonic()
    deployed.signal(leader, "KILL")
    wait_for(lambda: deployed.restarts()[leader] == 1, 60, what=deployed.restarts)
    deployed.schema("after", "killed_after", ["shared"])
    deployed.ready("DatabaseSchema", "after")
    print(f"a container is killed: something new is Ready after {time.monotonic() - began:.1f} s")
    assert time.monotonic() - began < 30
    migration.ran_exactly_once()


@pytest.mark.long
def test_a_drain_takes_one_pod_after_the_other(deploy: Deploy, node: NodeHandle):
    deployed = deploy()
    leader = deployed.wait_leader()
    migration = Migration(deployed, "drained", 45.0)
    migration.start()
    (standby,) = deployed.names() - {leader}
    node.kubectl("cordon", NAME)
    with handover(deployed) as seen:
        deployed.evict(leader)
    assert seen.to == standby
    # there is no other node: the leader's successor can start nowhere, so that the budget has to keep the last one
    drained = node.kubectl("drain", NAME, "--ignore-daemonsets", *_OF_OURS, "--timeout=15s", check=False, timeout=60)
    assert drained.returncode != 0
    assert "violate the pod's disruption budget" in drained.stdout + drained.stderr
    assert deployed.ready_pods() == {standby}
    print(f"a node is drained: {seen}")
    deployed.schema("meanwhile", "drained_too", ["shared"])
    deployed.ready("DatabaseSchema", "meanwhile")
    node.kubectl("uncordon", NAME)
    wait_for(lambda: len(deployed.ready_pods()) == 2, 90, what=deployed.pods)
    migration.ran_exactly_once(120)


@pytest.mark.long
def test_a_rolling_upgrade_loses_nothing_and_does_nothing_twice(deploy: Deploy, node: NodeHandle):
    deployed = deploy()
    names = [f"unit-{number:03}" for number in range(RESOURCES)]
    for number, name in enumerate(names):
        deployed.schema(name, f"rolled_{number % DATABASES:02}", [f"first_{number:03}"])
    deployed.all_ready(300)
    migration = Migration(deployed, "rolled", MIGRATION_SECONDS)
    migration.start()
    log = node.postgres.log_path
    assert log is not None
    logged = log.stat().st_size
    for number, name in enumerate(names):
        deployed.schema(name, f"rolled_{number % DATABASES:02}", [f"first_{number:03}", f"second_{number:03}"])
    old = deployed.names()
    began = time.monotonic()
    with handover(deployed, 180) as seen:
        deployed.install("podAnnotations.rolled=again")
    print(f"a rolling upgrade: done in {time.monotonic() - began:.0f} s; {seen}")
    wait_for(lambda: not deployed.names() & old and len(deployed.ready_pods()) == 2, 120, what=deployed.names)
    deployed.all_ready(300)
    migration.ran_exactly_once(240)
    for number in range(DATABASES):
        there = deployed.ask(
            f"rolled_{number:02}", "SELECT nspname FROM pg_namespace WHERE nspname ~ '^(first|second)_'"
        )
        wanted = {f"{which}_{unit:03}" for which in ("first", "second") for unit in range(number, RESOURCES, DATABASES)}
        assert {name for (name,) in there} == wanted
    # whoever does what is done already is told so by the server
    with log.open(encoding="utf-8", errors="replace") as lines:
        lines.seek(logged)
        twice = [line for line in lines if "already exists" in line or "duplicate key" in line]
    assert not twice
    assert set(deployed.restarts().values()) == {0}


@pytest.mark.long
def test_a_loop_that_stands_still_is_restarted(deploy: Deploy, node: NodeHandle):
    deployed = deploy("extraEnv[0].name=PYTHONPATH", "extraEnv[0].value=/block")
    node.kubectl("create", "configmap", "block", "-n", deployed.namespace, f"--from-literal=sitecustomize.py={BLOCK}")
    container = {"name": "operator", "volumeMounts": [{"name": "block", "mountPath": "/block"}]}
    volumes = [{"name": "block", "configMap": {"name": "block"}}]
    patch = {"spec": {"template": {"spec": {"containers": [container], "volumes": volumes}}}}
    node.kubectl("patch", "deployment", "selvedge", "-n", deployed.namespace, "-p", json.dumps(patch))
    rollout = ("rollout", "status", "deployment/selvedge", "-n", deployed.namespace, "--timeout=150s")
    node.kubectl(*rollout, timeout=180)
    wait_for(lambda: len(deployed.pods()) == 2, 90)
    leader = deployed.wait_leader()
    (standby,) = deployed.names() - {leader}
    began = time.monotonic()
    with handover(deployed) as seen:
        deployed.signal(leader, "USR1")
        deployed.schema("meanwhile", "blocked", ["shared"])
    assert seen.to == standby
    deployed.ready("DatabaseSchema", "meanwhile")
    wait_for(lambda: deployed.restarts()[leader] == 1, 180, what=deployed.restarts)
    print(f"a loop stands still: {seen}; its container is another after {time.monotonic() - began:.0f} s")
    wait_for(lambda: len(deployed.ready_pods()) == 2, 60, what=deployed.pods)
    assert deployed.restarts()[standby] == 0
    assert deployed.leader() == standby


@pytest.mark.long
def test_a_dead_database_restarts_nobody(deploy: Deploy, node: NodeHandle):
    deployed = deploy()
    deployed.schema("one", "outlived", ["shared"])
    deployed.ready("DatabaseSchema", "one")
    leader = deployed.wait_leader()
    began = time.monotonic()
    node.stop("postgres", immediate=True)
    try:
        wait_for(lambda: condition(deployed.api.get("DatabaseServer", "main"))["status"] == "False", 90)
        # three failed probes in a row restart a container: half a minute, twice
        while time.monotonic() < began + 70:
            assert set(deployed.restarts().values()) == {0}
            assert deployed.ready_pods() == deployed.names()
            time.sleep(1)
        assert deployed.leader() == leader
        assert deployed.served(leader, "/readyz") == "leader\n"
        assert json.loads(deployed.served(leader, "/health"))["status"] == "degraded"
    finally:
        node.start("postgres")
    deployed.ready("DatabaseServer", "main", 120)
    deployed.schema("one", "outlived", ["shared", "later"])
    deployed.ready("DatabaseSchema", "one")
    assert set(deployed.restarts().values()) == {0}
