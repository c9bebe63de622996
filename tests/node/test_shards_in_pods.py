"""Shards in pods, as the chart runs them: each has its servers, and one operator takes over from all of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING

import pytest

from selvedge.core.shards import shard_of
from tests.cluster.release import WRITES
from tests.cluster.world import wait_for
from tests.node.availability_support import Deployed, deployed

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox.node import NodeHandle

SHARDS = 3
_SECONDS = 60.0


@pytest.fixture
def sharded(node: NodeHandle, operator_image: Path, clean_databases: None) -> Iterator[Deployed]:
    """Three shards of one pod each."""
    with node.postgres.connect() as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    try:
        with deployed(node, operator_image, "replicas=1") as made:
            made.helm(f"shards={SHARDS}")
            yield made
    finally:
        with node.postgres.connect() as connection:
            connection.execute("DROP EXTENSION IF EXISTS pg_stat_statements")


def _holders(sharded: Deployed) -> list[str]:
    """The pod of each shard's Lease, whose holder is called ``POD of 3 shards``."""
    return [sharded.leader(f"selvedge-shard-{index}").partition(" ")[0] for index in range(SHARDS)]


def _of(namespace: str, shard: int) -> str:
    """The name of a DatabaseServer that is this shard's."""
    return next(name for name in map("server-{}".format, count()) if shard_of(namespace, name, SHARDS) == shard)


def _passes(sharded: Deployed, pod: str) -> float:
    return sharded.value(pod, "selvedge_reconcile_total", kind="DatabaseSchema", result="success")


@pytest.mark.long
def test_each_shard_has_its_servers_and_one_operator_takes_over_without_a_write(sharded: Deployed):
    wait_for(lambda: set(_holders(sharded)) == sharded.names(), _SECONDS, what=lambda: _holders(sharded))
    assert sharded.leader() == f"{SHARDS} shards"
    holders = _holders(sharded)
    of_deployment = [pod.rsplit("-", 2)[0] for pod in holders]
    assert of_deployment == [f"selvedge-shard-{index}" for index in range(SHARDS)]

    servers = [_of(sharded.watched, index) for index in range(SHARDS)]
    for index, server in enumerate(servers):
        sharded.server(server)
        sharded.schema(f"orders-{index}", f"orders_{index}", ["stock"], server=server)
    sharded.all_ready(_SECONDS)
    # each pod counts its pass over what is its own a moment after that has its status
    wait_for(lambda: all(_passes(sharded, pod) for pod in holders), _SECONDS)
    probed = [sharded.served(pod, "/metrics") for pod in holders]
    assert [[server for server in servers if f'{server}"}}' in shown] for shown in probed] == [[s] for s in servers]

    written = sharded.ask("postgres", WRITES)
    assert written > [(SHARDS,)], "what made the databases is counted"
    before = {s["metadata"]["name"]: s["metadata"]["resourceVersion"] for s in sharded.api.list("DatabaseSchema")}
    sharded.install("shards=1")
    (pod,) = wait_for(lambda: names if len(names := sharded.names()) == 1 else set(), _SECONDS)
    assert pod.rsplit("-", 2)[0] == "selvedge"
    wait_for(lambda: _passes(sharded, pod) >= SHARDS, _SECONDS, what=lambda: _passes(sharded, pod))
    sharded.all_ready(_SECONDS)
    assert sharded.ask("postgres", WRITES) == written
    after = {s["metadata"]["name"]: s["metadata"]["resourceVersion"] for s in sharded.api.list("DatabaseSchema")}
    assert after == before, "a status was written, though nothing changed"
