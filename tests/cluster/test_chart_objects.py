"""What of the chart points at something else of it: monitoring at a port, affinity and budgets at the pods."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.chart_support import render

Document = dict[str, Any]


def _of(documents: list[Document], kind: str) -> list[Document]:
    return [document for document in documents if document["kind"] == kind]


@pytest.mark.parametrize("shards", [1, 3])
def test_prometheus_finds_every_pod_once(shards: int) -> None:
    settings = ("serviceMonitor.enabled=true", "serviceMonitor.labels.team=data", f"shards={shards}")
    documents = render("ops", *settings)
    (monitor,) = _of(documents, "ServiceMonitor")
    assert monitor["metadata"]["namespace"] == "ops"  # where it looks for Services
    assert monitor["metadata"]["labels"]["team"] == "data"
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    (service,) = (found for found in _of(documents, "Service") if wanted <= found["metadata"]["labels"].items())
    (endpoint,) = monitor["spec"]["endpoints"]
    (port,) = (port for port in service["spec"]["ports"] if port["name"] == endpoint["port"])
    deployments = _of(documents, "Deployment")
    assert len(deployments) == shards
    for deployment in deployments:
        template = deployment["spec"]["template"]
        assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        ports = [port["name"] for container in template["spec"]["containers"] for port in container["ports"]]
        assert ports.count(port["targetPort"]) == 1


@pytest.mark.parametrize("shards", [1, 3])
def test_the_pods_of_one_lease_prefer_different_nodes_and_one_stays(shards: int) -> None:
    documents = render("ops", f"shards={shards}")
    deployments, budgets = _of(documents, "Deployment"), _of(documents, "PodDisruptionBudget")
    assert len(deployments) == len(budgets) == shards
    for deployment in deployments:
        template = deployment["spec"]["template"]
        pod = template["metadata"]["labels"].items()
        (term,) = template["spec"]["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
        apart = term["podAffinityTerm"]
        assert apart["topologyKey"] == "kubernetes.io/hostname"
        assert apart["labelSelector"]["matchLabels"].items() <= pod
        (budget,) = (b["spec"] for b in budgets if b["spec"]["selector"]["matchLabels"].items() <= pod)
        assert (budget["minAvailable"], deployment["spec"]["replicas"]) == (1, 2)
        labels = [other["spec"]["template"]["metadata"]["labels"] for other in deployments if other is not deployment]
        assert not any(apart["labelSelector"]["matchLabels"].items() <= other.items() for other in labels)


def test_a_single_pod_has_no_budget_that_would_keep_its_node() -> None:
    assert _of(render("ops", "replicas=1"), "PodDisruptionBudget") == []
