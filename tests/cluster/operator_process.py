"""The operator as a process of its own: started, told to stop, killed, and asked for its metrics."""

from __future__ import annotations

import http.client
import os
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from sandbox.ports import LOOPBACK, free_port
from sandbox.process import Daemon

_START_SECONDS = 90.0

Sample = tuple[str, frozenset[tuple[str, str]]]


class OperatorProcess:
    """``selvedge run`` against one cluster; it ends with this process, however that ends."""

    def __init__(
        self,
        kubeconfig: Path,
        log_path: Path,
        *,
        namespaces: tuple[str, ...] = (),
        lease_namespace: str = "default",
        lease_name: str = "",
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.http_port = free_port()
        self.lease_name = lease_name or f"selvedge-{uuid.uuid4().hex[:12]}"
        # not ours: the settings of a person, and what the test run hands to its own workers
        base = {name: value for name, value in os.environ.items() if not name.startswith(("SELVEDGE_", "KUBE", "PG"))}
        settings = {
            "KUBECONFIG": str(kubeconfig),
            "SELVEDGE_NAMESPACES": ",".join(namespaces),
            "SELVEDGE_LEASE_NAMESPACE": lease_namespace,
            "SELVEDGE_LEASE_NAME": self.lease_name,
            "SELVEDGE_HTTP_HOST": LOOPBACK,
            "SELVEDGE_HTTP_PORT": str(self.http_port),
        }
        command = [sys.executable, "-m", "selvedge", "run"]
        self.daemon = Daemon("the operator", command, log_path, env={**base, **settings, **(env or {})})

    def start(self, *, leading: bool = True) -> None:
        """Start it and wait until it leads, or (``leading`` false) until it answers at all."""
        self.daemon.start_until(self.leads if leading else self.answers, _START_SECONDS)

    def stop(self) -> int | None:
        """SIGTERM, and wait; returns the exit status."""
        self.daemon.stop()
        return self.daemon.returncode

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.daemon.kill()

    def logs(self) -> str:
        """What it wrote since it was started last."""
        return self.daemon.log_since_start()

    def answers(self) -> bool:
        """Whether it serves HTTP."""
        try:
            return self.http("/livez")[0] == 200
        except OSError:
            return False

    def leads(self) -> bool:
        """Whether it holds the Lease."""
        try:
            return self.value("selvedge_leader") == 1
        except OSError:
            return False

    def http(self, path: str) -> tuple[int, str]:
        """Status and text of a GET."""
        connection = http.client.HTTPConnection(LOOPBACK, self.http_port, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def metrics(self) -> dict[Sample, float]:
        """Every sample by its name and labels."""
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.http("/metrics")[1])
            for sample in family.samples
        }

    def value(self, name: str, **labels: Any) -> float:
        """The sum of all samples of this name that carry these labels."""
        wanted = {key: str(value) for key, value in labels.items()}.items()
        return sum(value for (found, has), value in self.metrics().items() if found == name and wanted <= set(has))

    def writes(self) -> dict[Sample, float]:
        """Requests to the Kubernetes API that write, apart from those for the Lease."""
        return {
            (name, labels): value
            for (name, labels), value in self.metrics().items()
            if name == "selvedge_kubernetes_requests_total"
            and dict(labels)["verb"] != "get"
            and dict(labels)["resource"] != "leases"
        }
