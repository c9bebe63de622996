"""NetworkPolicies put into effect on the node by iptables, for the pods that run now: its own network knows none.

What a policy says is read from the API server, and packets are refused as it says. Only what the chart's policy uses is
understood; anything else is an error, so that no test passes because a rule was overlooked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandbox.node import NodeHandle

Document = dict[str, Any]


@contextmanager
def enforced(node: NodeHandle, namespace: str) -> Iterator[None]:
    """While the block runs, each pod that a policy of ``namespace`` selects sends and takes only what that allows."""
    rules: list[list[str]] = []
    pods = _Pods(node, namespace)
    for policy in _items(node, "networkpolicies", "-n", namespace):
        spec = policy["spec"]
        assert set(spec) <= {"podSelector", "policyTypes", "ingress", "egress"}
        for pod in pods.selected(spec["podSelector"]):
            address = pod["status"]["podIP"]
            if "Ingress" in spec["policyTypes"]:
                rules += _chain(f"NP-IN-{address}", spec.get("ingress", ()), "from", "-s", pods, pod)
                rules.append(["-I", "FORWARD", "-d", address, "-j", f"NP-IN-{address}"])
            if "Egress" in spec["policyTypes"]:
                rules += _chain(f"NP-OUT-{address}", spec.get("egress", ()), "to", "-d", pods, pod)
                # to another pod, and to what listens on the node itself
                rules += [["-I", chain, "-s", address, "-j", f"NP-OUT-{address}"] for chain in ("FORWARD", "INPUT")]
    assert rules, f"no policy of {namespace} selects a pod"
    for rule in rules:
        node.enter("iptables", "-w", *rule)
    try:
        yield
    finally:
        for rule in reversed(rules):
            if rule[0] == "-I":
                node.enter("iptables", "-w", "-D", *rule[1:])
            elif rule[0] == "-N":
                node.enter("iptables", "-w", "-F", rule[1])
                node.enter("iptables", "-w", "-X", rule[1])


class _Pods:
    """The pods that run now, of all namespaces, as a policy of ``namespace`` names them."""

    def __init__(self, node: NodeHandle, namespace: str) -> None:
        self._namespace = namespace
        self._pods = _items(node, "pods", "--all-namespaces")
        self._namespaces = _items(node, "namespaces")

    def selected(self, pods: Document, namespaces: Document | None = None) -> list[Document]:
        """Those with these labels; without a selector of namespaces, in the policy's own."""
        chosen = {self._namespace}
        if namespaces is not None:
            chosen = {space["metadata"]["name"] for space in self._namespaces if _selects(namespaces, space)}
        return [pod for pod in self._pods if pod["metadata"]["namespace"] in chosen and _selects(pods, pod)]


def _chain(name: str, allowed: list[Document], side: str, flag: str, pods: _Pods, pod: Document) -> Iterator[list[str]]:
    """A chain that returns for what is allowed, and refuses the rest."""
    yield ["-N", name]
    yield ["-A", name, "-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "RETURN"]
    for rule in allowed:
        assert set(rule) <= {side, "ports"}
        addresses = _peers(rule[side], pods) if rule.get(side) else [None]
        for address in addresses:
            for port in rule["ports"]:
                where = [flag, address] if address else []
                number = _number(port["port"], pod)
                protocol = port.get("protocol", "TCP").lower()
                yield ["-A", name, *where, "-p", protocol, "--dport", str(number), "-j", "RETURN"]
    yield ["-A", name, "-j", "REJECT"]


def _peers(peers: list[Document], pods: _Pods) -> Iterator[str]:
    for peer in peers:
        if "ipBlock" in peer:
            assert set(peer) == {"ipBlock"}
            assert set(peer["ipBlock"]) == {"cidr"}
            yield peer["ipBlock"]["cidr"]
        else:
            assert set(peer) <= {"podSelector", "namespaceSelector"}
            found = pods.selected(peer.get("podSelector", {}), peer.get("namespaceSelector"))
            # a pod that has ended, or has no address yet, sends nothing
            yield from (pod["status"]["podIP"] for pod in found if "podIP" in pod["status"])


def _selects(selector: Document, labelled: Document) -> bool:
    assert set(selector) <= {"matchLabels"}
    labels = labelled["metadata"].get("labels", {})
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def _number(port: int | str, pod: Document) -> int:
    """A named port is one of the selected pod's own; the chart names only the one on which it listens."""
    if isinstance(port, int):
        return port
    (number,) = (
        known["containerPort"]
        for container in pod["spec"]["containers"]
        for known in container.get("ports", ())
        if known.get("name") == port
    )
    return int(number)


def _items(node: NodeHandle, kind: str, *where: str) -> list[Document]:
    found: list[Document] = json.loads(node.kubectl("get", kind, *where, "-o", "json").stdout)["items"]
    return found
