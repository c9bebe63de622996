"""Shards in pods, as the chart runs them: each has its servers, and one operator takes over from all of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING

import pytest

from sandbox.node_wallet import helm
from sandbox.wallet import KINDS
from selvedge.core.shards import shard_of
from tests.cluster.release import WRITES
from tests.cluster.world import wait_for
from tests.node.availability_support import Deployed
from tests.node.conftest import RESTRICTED

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox.node import NodeHandle

SHARDS = 3
_SECONDS = 60.0


@pytest.fixture
def deployed(node: NodeHandle, operator_image: Path, clean_databases: None) -> Iterator[Deployed]:
    """Three shards of one pod each."""
    suffix = uuid.uuid4().hex[:8]
    made = Deployed(node, operator_image, f"operator-{suffix}", f"shop-{suffix}", ("replicas=1",))
    for namespace in (made.namespace, made.watched):
        node.kubectl("create", "namespace", namespace)
        node.kubectl("label", "namespace", namespace, RESTRICTED)
    with node.postgres.connect() as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    made.helm(f"shards={SHARDS}")
    yield made
    node.kubectl("delete", KINDS, "--all", "-n", made.watched, "--timeout=60s", check=False, timeout=90)
    helm(node, "uninstall", "selvedge", "--namespace", made.namespace, "--wait")
    node.kubectl("delete", "namespace", made.watched, made.namespace, "--timeout=60s", timeout=90)
    with node.postgres.connect() as connection:
        connection.execute("DROP EXTENSION pg_stat_statements")
    made.api.close()
    made.own.close()


def _holders(deployed: Deployed) -> list[str]:
    """The pod of each shard's Lease, whose holder is called ``POD of 3 shards``."""
    return [deployed.leader(f"selvedge-shard-{index}").partition(" ")[0] for index in range(SHARDS)]


def _of(namespace: str, shard: int) -> str:
    """The name of a DatabaseServer that is this shard's."""
    return next(name for name in map("server-{}".format, count()) if shard_of(namespace, name, SHARDS) == shard)


def _passes(deployed: Deployed, pod: str) -> float:
    return deployed.value(pod, "selvedge_reconcile_total", kind="DatabaseSchema", result="success")


@pytest.mark.long
def test_each_shard_has_its_servers_and_one_operator_takes_over_without_a_write(deployed: Deployed):
    wait_for(lambda: set(_holders(deployed)) == deployed.names(), _SECONDS, what=lambda: _holders(deployed))
    assert deployed.leader() == f"{SHARDS} shards"
    holders = _holders(deployed)
    of_deployment = [pod.rsplit("-", 2)[0] for pod in holders]
    assert of_deployment == [f"selvedge-shard-{index}" for index in range(SHARDS)]

    servers = [_of(deployed.watched, index) for index in range(SHARDS)]
    for index, server in enumerate(servers):
        deployed.server(server)
        deployed.schema(f"orders-{index}", f"orders_{index}", ["stock"], server=server)
    deployed.all_ready(_SECONDS)
    assert all(_passes(deployed, pod) for pod in holders), "each pod has looked at what is its own"
    probed = [deployed.served(pod, "/metrics") for pod in holders]
    assert [[server for server in servers if f'{server}"}}' in shown] for shown in probed] == [[s] for s in servers]

    written = deployed.ask("postgres", WRITES)
    assert written > [(SHARDS,)], "what made the databases is counted"
    before = {s["metadata"]["name"]: s["metadata"]["resourceVersion"] for s in deployed.api.list("DatabaseSchema")}
    deployed.install("shards=1")
    (pod,) = wait_for(lambda: deployed.names() if len(deployed.names()) == 1 else set(), _SECONDS)
    assert pod.rsplit("-", 2)[0] == "selvedge"
    wait_for(lambda: _passes(deployed, pod) >= SHARDS, _SECONDS, what=lambda: _passes(deployed, pod))
    deployed.all_ready(_SECONDS)
    assert deployed.ask("postgres", WRITES) == written
    after = {s["metadata"]["name"]: s["metadata"]["resourceVersion"] for s in deployed.api.list("DatabaseSchema")}
    assert after == before, "a status was written, though nothing changed"
