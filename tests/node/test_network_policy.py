"""The chart's NetworkPolicy in effect: what the operator needs goes on, and nobody else comes in."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from sandbox.image_archive import read
from sandbox.node_config import API_PORT, KUBELET_PORT, MONGODB_PORT, POSTGRES_PORT
from sandbox.node_wallet import NodeWallet, helm, install, pods
from sandbox.wallet import wait_until
from tests.node.policies import enforced
from tests.node.probe import client, reached

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox.node import NodeHandle

pytestmark = pytest.mark.long


@pytest.fixture
def operator(node: NodeHandle, operator_image: Path, node_namespace: str) -> Iterator[NodeWallet]:
    """An operator behind the chart's policy, which lets it reach databases at the node's address alone."""
    settings = (
        f"watchNamespaces={{{node_namespace}}}",
        "networkPolicy.enabled=true",
        f"networkPolicy.databases[0].ipBlock.cidr={node.address}/32",
    )
    wallet = NodeWallet(node, settings=settings, archive=operator_image)
    wallet.namespace = node_namespace
    wallet.start_operator()
    yield wallet
    helm(node, "uninstall", "selvedge", "--namespace", node_namespace, "--wait")


@pytest.fixture
def elsewhere(node: NodeHandle) -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex[:10]}"
    node.kubectl("create", "namespace", name)
    yield name
    node.kubectl("delete", "namespace", name, "--wait=false")


def test_the_operator_reaches_what_it_needs_and_its_port_is_open_to_its_namespace_alone(
    node: NodeHandle, operator: NodeWallet, operator_image: Path, node_namespace: str, elsewhere: str
):
    image = read(operator_image).reference
    beside, outside = client(node, node_namespace, image), client(node, elsewhere, image)
    ours = pods(node, node_namespace)
    shown = json.loads(node.kubectl("get", "pods", "-n", node_namespace, *ours, "-o", "json").stdout)["items"]
    metrics = {f"{pod['status']['podIP']}:8080" for pod in shown}
    databases = {f"{node.postgres_host}:{POSTGRES_PORT}", f"{node.mongodb_host}:{MONGODB_PORT}"}
    kubelet = f"{node.address}:{KUBELET_PORT}"
    assert reached(node, elsewhere, outside, *metrics) == metrics
    assert reached(node, node_namespace, ours[0], "api", *databases, kubelet) == {"api", *databases, kubelet}

    with enforced(node, node_namespace):
        assert reached(node, elsewhere, outside, *metrics) == set()
        assert reached(node, node_namespace, beside, *metrics) == metrics
        for pod in ours:
            assert reached(node, node_namespace, pod, "api", *databases, kubelet) == {"api", *databases}
        renewed = ("get", "lease", "selvedge", "-n", node_namespace, "-o", "jsonpath={.spec.renewTime}")
        last = node.kubectl(*renewed).stdout
        wait_until(lambda: node.kubectl(*renewed).stdout != last, "the Lease is not renewed behind the policy", 30)
    assert reached(node, elsewhere, outside, *metrics) == metrics


def _peer(kind: str, address: str) -> str:
    return f"networkPolicy.{kind}[0].ipBlock.cidr={address}/32"


def test_a_namespace_that_is_named_reads_the_metrics_and_addresses_that_are_not_are_cut_off(
    node: NodeHandle, operator: NodeWallet, operator_image: Path, node_namespace: str, elsewhere: str
):
    """The values of docs/guide/security.md: peers for the metrics, for the API server and for the databases."""
    image = read(operator_image).reference
    beside, outside = client(node, node_namespace, image), client(node, elsewhere, image)
    monitoring = r"networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.kubernetes\.io/metadata\.name"
    databases = {f"{node.postgres_host}:{POSTGRES_PORT}", f"{node.mongodb_host}:{MONGODB_PORT}"}
    api = f"{node.address}:{API_PORT}"

    def behind(pod: str) -> set[str]:
        with enforced(node, node_namespace):
            return reached(node, node_namespace, pod, api, *databases)

    def upgrade(*settings: str) -> str:
        # of the policy alone: the pods stay
        install(node, node_namespace, *operator.settings, *settings, archive=operator_image)
        return pods(node, node_namespace)[0]

    there, nowhere = node.address, "192.0.2.1"
    pod = upgrade(f"{monitoring}={elsewhere}", _peer("apiServer", there), _peer("databases", there))
    shown = json.loads(node.kubectl("get", "pod", pod, "-n", node_namespace, "-o", "json").stdout)
    metrics = f"{shown['status']['podIP']}:8080"
    assert reached(node, node_namespace, beside, metrics) == {metrics}
    with enforced(node, node_namespace):
        assert reached(node, elsewhere, outside, metrics) == {metrics}
        assert reached(node, node_namespace, beside, metrics) == set()
        assert reached(node, node_namespace, pod, "api", *databases) == {"api", *databases}

    assert behind(upgrade(_peer("apiServer", there), _peer("databases", nowhere))) == {api}
    assert behind(upgrade(_peer("apiServer", nowhere), _peer("databases", there))) == databases
    assert behind(upgrade(_peer("apiServer", there), _peer("databases", there))) == {api, *databases}
