"""The leading pod goes, and the other one goes on with its work."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from sandbox.node_wallet import NodeWallet, helm, leader, pods
from sandbox.wallet import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox.node import NodeHandle

_LEASE_SECONDS = 15


@pytest.fixture
def operator(
    node: NodeHandle, operator_image: Path, clean_databases: None, node_namespace: str
) -> Iterator[NodeWallet]:
    """An operator of two pods that watches its own namespace alone."""
    wallet = NodeWallet(node, settings=(f"watchNamespaces={{{node_namespace}}}",), archive=operator_image)
    wallet.namespace = node_namespace
    wallet.start_operator()
    yield wallet
    helm(node, "uninstall", "selvedge", "--namespace", node_namespace, "--wait")


@pytest.mark.long
@pytest.mark.parametrize("politely", [True, False], ids=["deleted", "killed"])
def test_the_other_pod_takes_over(node: NodeHandle, operator: NodeWallet, node_namespace: str, politely: bool):
    first = leader(node, node_namespace)
    flags = [] if politely else ["--grace-period=0", "--force"]
    node.kubectl("delete", "pod", first, "-n", node_namespace, "--wait=false", *flags)
    gone = time.monotonic()

    def taken() -> bool:
        return leader(node, node_namespace) in set(pods(node, node_namespace)) - {first}

    wait_until(taken, "no other pod leads", 60)
    # a pod that is asked to go gives the Lease back; after one that cannot, it has to run out
    assert time.monotonic() - gone < (_LEASE_SECONDS if politely else 3 * _LEASE_SECONDS)
    spec = {
        "engine": "Postgres",
        "hosts": [{"host": node.postgres_host, "port": 5432}],
        "credentials": {"secretRef": {"name": "login"}},
        "tls": {"mode": "VerifyFull", "caSecretRef": {"name": "ca", "key": "ca.crt"}},
    }
    for name, data in (
        ("login", {"username": "postgres", "password": node.postgres.password}),
        ("ca", {"ca.crt": node.postgres.ca}),
    ):
        metadata = {"name": name, "namespace": node_namespace}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}
        node.kubectl("apply", "-f", "-", input=json.dumps(secret))
    metadata = {"name": "main", "namespace": node_namespace}
    server = {"apiVersion": "selvedge.dev/v1alpha1", "kind": "DatabaseServer", "metadata": metadata, "spec": spec}
    node.kubectl("apply", "-f", "-", input=json.dumps(server))
    node.kubectl("wait", "-n", node_namespace, "--for=condition=Ready", "dbsrv/main", "--timeout=60s", timeout=90)
    node.kubectl("rollout", "status", "-n", node_namespace, "deployment/selvedge", "--timeout=60s", timeout=90)
