"""Fashion Wallet on a node: the operator in pods, installed by helm from the chart, as in any other cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sandbox import node_config, node_image, tools
from sandbox.errors import SandboxError
from sandbox.image_archive import read
from sandbox.kubectl import kube_environment
from sandbox.process import last_line, run
from sandbox.waiting import wait_until
from sandbox.wallet import EXAMPLES, POSTGRES, ROOT, Wallet

if TYPE_CHECKING:
    from sandbox.mongodb import MongoEndpoint
    from sandbox.node import NodeHandle
    from sandbox.postgres import PostgresEndpoint
    from sandbox.sandbox import Sandbox

CHART = ROOT / "charts" / "selvedge"
OPERATOR_NAMESPACE = "selvedge"
_RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"
_HELM_SECONDS = 120
_START_SECONDS = 120.0


def helm(node: NodeHandle, *arguments: str) -> str:
    """Run helm on the node's cluster, at most two minutes; what it printed.

    Raises:
        SandboxError: it failed; the message carries its last line.
    """
    env = {**kube_environment(node.kubeconfig), "HELM_CACHE_HOME": str(node.directory / "helm")}
    command: list[str | Path] = [tools.helm(), *arguments, "--kubeconfig", node.kubeconfig]
    return run(command, what=f"helm {arguments[0]}", timeout=_HELM_SECONDS, env=env).stdout


def install(
    node: NodeHandle,
    namespace: str,
    *settings: str,
    release: str = "selvedge",
    chart: Path = CHART,
    archive: Path | None = None,
    wait: bool = True,
) -> str:
    """Install the chart in ``namespace``, or upgrade what is there; what helm printed.

    Each of ``settings`` is what ``--set`` takes. The image is the one in ``archive``, by default that of this working
    tree. With ``wait`` it returns when all pods are ready.

    Raises:
        SandboxError: helm or the API server refuse it, or the pods do not become ready.
    """
    archive = archive or node_image.operator()
    node.import_image(archive)
    name, _, tag = read(archive).reference.rpartition(":")
    values = (f"image.repository={name}", f"image.tag={tag}", "image.pullPolicy=Never", *settings)
    flags = [word for value in values for word in ("--set", value)]
    flags += ["--wait", f"--timeout={_HELM_SECONDS - 10}s"] if wait else []
    # The custom resource definitions outlive a release, and belong to the namespace of the first one.
    flags.append("--take-ownership")
    try:
        return helm(node, "upgrade", "--install", release, str(chart), "--namespace", namespace, *flags)
    except SandboxError as error:
        # helm says only that it waited
        warnings = ("get", "events", "-n", namespace, "--field-selector=type=Warning", "-o")
        shown = node.kubectl(*warnings, 'jsonpath={range .items[*]}{.message}{"\\n"}{end}', check=False).stdout
        if not shown.strip():
            raise
        raise SandboxError(f"{error}; the last warning in namespace {namespace}: {last_line(shown)}") from error


def pods(node: NodeHandle, namespace: str, release: str = "selvedge") -> list[str]:
    """The names of the operator's pods that are not about to end."""
    selector = f"app.kubernetes.io/instance={release}"
    found = json.loads(node.kubectl("get", "pods", "-n", namespace, "-l", selector, "-o", "json").stdout)["items"]
    return [pod["metadata"]["name"] for pod in found if "deletionTimestamp" not in pod["metadata"]]


def leader(node: NodeHandle, namespace: str, lease: str = "selvedge") -> str:
    """The pod that holds the Lease; empty while none does."""
    shown = node.kubectl("get", "lease", lease, "-n", namespace, "-o", "jsonpath={.spec.holderIdentity}", check=False)
    return shown.stdout.strip()


def served(node: NodeHandle, namespace: str, pod: str, path: str) -> str:
    """What a pod of the operator answers on its HTTP port, for a path such as ``/metrics``."""
    return node.kubectl("get", "--raw", f"/api/v1/namespaces/{namespace}/pods/{pod}:8080/proxy{path}").stdout


@dataclass(slots=True)
class _View:
    """A node, by the names under which the demo knows a sandbox."""

    node: NodeHandle

    @property
    def directory(self) -> Path:
        return self.node.directory

    @property
    def postgres(self) -> Mapping[str, PostgresEndpoint]:
        return {POSTGRES: self.node.postgres}

    @property
    def mongodb(self) -> MongoEndpoint:
        return self.node.mongodb

    def kubectl(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.node.kubectl(*arguments, **options)

    def environment(self) -> dict[str, str]:
        """As :meth:`Sandbox.environment`, for kubectl's plugin."""
        programs = (Path(sys.executable).parent, tools.control_plane(), tools.postgres_client(), os.environ["PATH"])
        path = os.pathsep.join(str(directory) for directory in programs)
        return {**kube_environment(self.node.kubeconfig), "KUBECONFIG": str(self.node.kubeconfig), "PATH": path}


class NodeWallet(Wallet):
    """The deployment on a node. Every method raises SandboxError with a sentence where something does not hold."""

    shows = "Four kinds are added to Kubernetes; two pods are ready to act on them, one of which leads."
    commands = (
        f"kubectl create namespace {OPERATOR_NAMESPACE}   # and label it {_RESTRICTED}",
        f"helm install selvedge charts/selvedge -n {OPERATOR_NAMESPACE} --set image.pullPolicy=Never",
    )
    changed = "servers' names put in"

    def __init__(
        self,
        node: NodeHandle,
        examples: Path = EXAMPLES,
        interval: str = "5m",
        settings: Sequence[str] = (),
        archive: Path | None = None,
    ) -> None:
        super().__init__(cast("Sandbox", _View(node)), examples, interval)
        self.node = node
        self.settings = settings
        self.archive = archive
        self.namespace = OPERATOR_NAMESPACE

    @property
    def operator_log(self) -> Path:
        """What all pods of the operator have written until now."""
        path = self.node.directory / "operator.log"
        selector = ("-l", "app.kubernetes.io/name=selvedge", "--tail=-1")
        path.write_text(
            self.node.kubectl("logs", "-n", self.namespace, *selector, check=False).stdout, encoding="utf-8"
        )
        return path

    def install(self) -> None:
        """Make the operator's namespace, in which no pod may have more rights than the restricted profile gives."""
        self.node.kubectl("create", "namespace", self.namespace)
        self.node.kubectl("label", "namespace", self.namespace, _RESTRICTED)

    def start_operator(self) -> None:
        """``helm install``, and wait until one of the pods leads."""
        install(self.node, self.namespace, *self.settings, archive=self.archive)
        what = f"no pod of the operator leads: see kubectl logs -n {self.namespace} deploy/selvedge"
        wait_until(lambda: leader(self.node, self.namespace) in pods(self.node, self.namespace), what, _START_SECONDS)
        self.url = f"Service selvedge-metrics.{self.namespace}:8080"

    def metric(self, name: str, **labels: str) -> float:
        """The sum of an own metric of the operator over all pods and all series with these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(
            float(line.rsplit(" ", 1)[1])
            for pod in pods(self.node, self.namespace)
            for line in served(self.node, self.namespace, pod, "/metrics").splitlines()
            if line.startswith((f"{name}{{", f"{name} ")) and all(label in line for label in wanted)
        )

    def places(self) -> Mapping[str, str]:
        """Pods know the servers by their names, on the usual ports."""
        return {
            "- host: localhost\n    port: 5432": f"- host: {node_config.POSTGRES_HOST}\n    port: 5432",
            "- host: localhost\n    port: 27017": f"- host: {node_config.MONGODB_HOST}\n    port: 27017",
        }

    def secret(self, name: str) -> dict[str, str]:
        """The data of a Secret, with a URI that works from outside the node, too."""
        data = super().secret(name)
        there = f"@{node_config.POSTGRES_HOST}:{node_config.POSTGRES_PORT}/"
        if "uri" in data:
            data["uri"] = data["uri"].replace(there, f"@localhost:{self.node.postgres.port}/")
        return data
