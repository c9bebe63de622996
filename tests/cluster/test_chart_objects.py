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
        assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        labels = [other["spec"]["template"]["metadata"]["labels"] for other in deployments if other is not deployment]
        assert not any(apart["labelSelector"]["matchLabels"].items() <= other.items() for other in labels)


def test_a_single_pod_has_no_budget_that_would_keep_its_node() -> None:
    assert _of(render("ops", "replicas=1"), "PodDisruptionBudget") == []


def _ports(rule: Document) -> set[int]:
    return {port["port"] for port in rule.get("ports", ())}


def test_where_the_namespace_denies_by_default_every_pod_of_the_chart_reaches_what_it_needs() -> None:
    network = ("networkPolicy.apiServer[0].ipBlock.cidr=10.0.0.1/32", "networkPolicy.apiServerPorts={8443}")
    for policy in _of(render("ops", "networkPolicy.enabled=true"), "NetworkPolicy"):
        assert _ports(policy["spec"]["egress"][0]) == {53}
    network += ("networkPolicy.dnsPorts={5353}",)
    documents = render("ops", "networkPolicy.enabled=true", "networkPolicy.databasePorts={5433}", *network)
    policies = _of(documents, "NetworkPolicy")
    pods = [*_of(documents, "Pod"), *(d["spec"]["template"] for d in documents if d["kind"] in ("Deployment", "Job"))]
    allowed: dict[str, list[Document]] = {}
    for pod in pods:
        labels = pod["metadata"]["labels"]
        (policy,) = (p for p in policies if p["spec"]["podSelector"]["matchLabels"].items() <= labels.items())
        allowed[labels["app.kubernetes.io/name"]] = policy["spec"]["egress"]
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        dns = {(port["port"], port["protocol"]) for port in policy["spec"]["egress"][0]["ports"]}
        assert dns == {(5353, "UDP"), (5353, "TCP")}
    assert len(policies) == len(allowed) == 3
    (api,) = (rule for rule in allowed["selvedge"] if rule.get("to") == [{"ipBlock": {"cidr": "10.0.0.1/32"}}])
    assert _ports(api) == {8443}
    assert allowed["selvedge-release"][1:] == [api]
    assert [_ports(rule) for rule in allowed["selvedge"]] == [{5353}, {8443}, {5433}]
    (operator,) = (
        pod["metadata"]["labels"] for pod in pods if pod["metadata"]["labels"]["app.kubernetes.io/name"] == "selvedge"
    )
    (to_operator,) = allowed["selvedge-test"][1:]
    assert to_operator["to"][0]["podSelector"]["matchLabels"].items() <= operator.items()
    assert _ports(to_operator) == {8080}


def test_no_policy_is_there_for_a_job_that_is_not() -> None:
    settings = ("networkPolicy.enabled=true", "uninstall.release=false")
    names = {d["metadata"]["name"] for d in _of(render("ops", *settings), "NetworkPolicy")}
    assert names == {"selvedge", "selvedge-test"}
