"""Fashion Wallet in a sandbox: what a person would apply to a cluster, put in by kubectl, and the operator."""

from __future__ import annotations

import base64
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox.errors import SandboxError
from sandbox.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sandbox.sandbox import Sandbox

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples" / "fashion-wallet"
NAMESPACE = "shop"
POSTGRES = "18"
KINDS = "dbsrv,dbs,mig,dbu"
WATCHED = "selvedge.dev/watch=true"
_START_SECONDS = 60.0


class Wallet:
    """The deployment in one sandbox. Every method raises SandboxError with a sentence where something does not hold."""

    #: What the demo says of :meth:`install` and :meth:`start_operator`, and of what :meth:`manifests` changes.
    shows = "Four kinds are added to Kubernetes, and one process acts on them."
    commands = ("kubectl apply --server-side -f crds/", "selvedge run")
    changed = "ports put in"

    def __init__(self, sandbox: Sandbox, examples: Path = EXAMPLES, interval: str = "5m") -> None:
        self.sandbox = sandbox
        self.examples = examples
        self.interval = interval
        self.url = ""

    @property
    def operator_log(self) -> Path:
        """Where the operator writes."""
        return self.sandbox.directory / "operator.log"

    def install(self) -> None:
        """The custom resource definitions; returns when the API server serves them."""
        # Server-side: the schema of a DatabaseSchema is too long for the annotation of a client-side apply.
        self.sandbox.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
        self.sandbox.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(ROOT / "crds"))

    def start_operator(self) -> None:
        """Start ``selvedge run`` under supervision and wait until it leads and says that it is ready."""
        env = self.sandbox.environment()
        self.url = f"http://127.0.0.1:{env['SELVEDGE_HTTP_PORT']}"
        self.sandbox.supervise("operator", [sys.executable, "-m", "selvedge", "run"], env)
        what = f"the operator did not become ready: see {self.operator_log}"
        wait_until(lambda: self._serves("/readyz"), what, _START_SECONDS)
        # A standby is ready too; there is only one process here, and the Lease is its own in a moment.
        wait_until(lambda: self.metric("selvedge_leader") == 1, what, _START_SECONDS)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of an own metric of the operator over all series with these labels."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as answer:  # noqa: S310 - our own, on loopback
            lines = answer.read().decode().splitlines()
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.startswith((f"{name}{{", f"{name} ")) and all(label in line for label in wanted)
        )

    def secrets(self) -> None:
        """The administrators' logins and the servers' CA, labelled so that a change is seen at once."""
        self.apply((self.examples / "00-namespace.yaml").read_text(encoding="utf-8"))
        for prefix, server in (("pg", self.sandbox.postgres[POSTGRES]), ("mongo", self.sandbox.mongodb)):
            login = {"username": server.username, "password": server.password}
            for name, data in ((f"{prefix}-admin", login), (f"{prefix}-ca", {"ca.crt": server.ca})):
                key, value = WATCHED.split("=")
                metadata = {"name": name, "namespace": NAMESPACE, "labels": {key: value}}
                secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}
                self.apply(json.dumps(secret))

    def migrations(self) -> None:
        """The migrations, as ConfigMaps."""
        for engine in ("postgres", "mongodb"):
            self.sandbox.kubectl("apply", "-k", str(ROOT / "migrations" / engine))

    def places(self) -> Mapping[str, str]:
        """Where the examples name the servers, and what stands there for these."""
        return {
            "port: 5432": f"port: {self.sandbox.postgres[POSTGRES].port}",
            "port: 27017": f"port: {self.sandbox.mongodb.port}",
        }

    def manifests(self) -> Iterator[tuple[str, str]]:
        """The examples' names and contents, with the servers' places and the interval put in."""
        changes = {**self.places(), "interval: 5m": f"interval: {self.interval}"}
        for path in sorted(self.examples.glob("*.yaml")):
            text = path.read_text(encoding="utf-8")
            for before, after in changes.items():
                text = text.replace(before, after)
            yield path.name, text

    def apply(self, manifest: str) -> str:
        """``kubectl apply`` of a text; what kubectl printed."""
        answer = self.sandbox.kubectl("apply", "-f", "-", input=manifest, check=False)
        if answer.returncode != 0:
            raise SandboxError(f"kubectl apply was refused: {' '.join(answer.stderr.split())}")
        return answer.stdout

    def wait_ready(self, kinds: str, *names: str, timeout: int = 60) -> None:
        """``kubectl wait --for=condition=Ready``."""
        arguments = ("wait", "--for=condition=Ready", f"--timeout={timeout}s", "-n", NAMESPACE, kinds)
        self.sandbox.kubectl(*arguments, *(names or ("--all",)), timeout=timeout * 3)

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """One resource, whole."""
        found: dict[str, Any] = json.loads(
            self.sandbox.kubectl("get", kind, name, "-n", NAMESPACE, "-o", "json").stdout
        )
        return found

    def secret(self, name: str) -> dict[str, str]:
        """The data of a Secret, as an application reads it."""
        data = self.get("secret", name)["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def condition(self, kind: str, name: str, wanted: str = "Ready") -> dict[str, Any]:
        """One condition of a resource's status; empty before there is one."""
        for condition in self.get(kind, name).get("status", {}).get("conditions", ()):
            if condition["type"] == wanted:
                return dict(condition)
        return {}

    def wait_reason(self, kind: str, name: str, reason: str, timeout: float = 60.0) -> str:
        """Wait until Ready is False for this reason; the message."""
        what = f"{kind} {name} did not become Ready=False with reason {reason} in {timeout:.0f} s"
        wait_until(lambda: self.condition(kind, name).get("reason") == reason, what, timeout)
        ready = self.condition(kind, name)
        if ready["status"] != "False":
            raise SandboxError(f"{kind} {name} has reason {reason} and Ready={ready['status']}")
        return str(ready["message"])

    def events(self, reason: str) -> list[str]:
        """The messages of the namespace's events with this reason."""
        selector = f"--field-selector=reason={reason}"
        answer = self.sandbox.kubectl("get", "events", "-n", NAMESPACE, selector, "-o", "json").stdout
        items = json.loads(answer)["items"]
        return [f"{item['involvedObject']['name']}: {item['message']}" for item in items]

    def _serves(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=2) as answer:  # noqa: S310 - our own, on loopback
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
