"""An operator in pods, what it looks after, and the ways in which pods go: for the tests of its availability."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psycopg import sql

from sandbox.node import NodeHandle
from sandbox.node_config import NAME, SOCKET
from sandbox.node_wallet import helm, install, served
from sandbox.wallet import KINDS
from tests.cluster.kube_api import Document, KubeApi
from tests.cluster.world import secret, unready, verdict, wait_for
from tests.node.conftest import RESTRICTED

#: A Lease that is lost soon, for tests that wait until it is; the ratios are those of the defaults.
QUICK = ("lease.duration=6s", "lease.renewDeadline=4s", "lease.retryPeriod=800ms")
_START_SECONDS = 180.0


@dataclass(slots=True)
class Deployed:
    """The chart's release ``selvedge`` in ``namespace``, watching ``watched``; times are seconds."""

    node: NodeHandle
    archive: Path
    namespace: str
    watched: str
    settings: tuple[str, ...] = ()
    api: KubeApi = field(init=False)
    own: KubeApi = field(init=False)

    def __post_init__(self) -> None:
        """Connect to the API server, as its administrator."""
        self.api = KubeApi(self.node.kubeconfig, self.watched)
        self.own = KubeApi(self.node.kubeconfig, self.namespace)

    # The operator

    def install(self, *more: str) -> None:
        """Install or upgrade, and return when every pod is ready and one of them leads."""
        self.helm(*more)
        self.wait_leader()

    def helm(self, *more: str) -> None:
        """Install or upgrade, and return when every pod is ready."""
        settings = (f"watchNamespaces={{{self.watched}}}", *self.settings, *more)
        install(self.node, self.namespace, *settings, archive=self.archive)

    def pods(self) -> list[Document]:
        """The operator's pods that are not about to end."""
        found = [pod for pod in self.own.list("Pod") if "app.kubernetes.io/instance" in pod["metadata"]["labels"]]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def names(self) -> set[str]:
        """Their names."""
        return {pod["metadata"]["name"] for pod in self.pods()}

    def ready_pods(self) -> set[str]:
        """The names of those that are Ready."""
        return {pod["metadata"]["name"] for pod in self.pods() if _is_ready(pod)}

    def leader(self, lease_name: str = "selvedge") -> str:
        """Who holds the Lease; empty where nobody does."""
        lease = self.own.get("Lease", lease_name)
        return str((lease or {}).get("spec", {}).get("holderIdentity") or "")

    def wait_leader(self, *, other_than: str = "", timeout: float = _START_SECONDS) -> str:
        """Wait until a pod that is there leads, and knows it; its name."""

        def leads() -> str:
            name = self.leader()
            if name in ("", other_than) or name not in self.names():
                return ""
            shown = self.node.kubectl("get", "--raw", self._proxy(name, "/readyz"), check=False)
            return name if shown.stdout.strip() == "leader" else ""

        return wait_for(leads, timeout, what=lambda: (self.leader(), self.names()))

    def _proxy(self, pod: str, path: str) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods/{pod}:8080/proxy{path}"

    def served(self, pod: str, path: str) -> str:
        """What a pod answers for a path of its HTTP port."""
        return served(self.node, self.namespace, pod, path)

    def value(self, pod: str, name: str, **labels: str) -> float:
        """The sum of a metric of one pod over all its series with these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = [line for line in self.served(pod, "/metrics").splitlines() if all(label in line for label in wanted)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))

    def restarts(self) -> dict[str, int]:
        """How often each pod's container was started anew."""
        return {
            pod["metadata"]["name"]: sum(
                status["restartCount"] for status in pod["status"].get("containerStatuses", ())
            )
            for pod in self.pods()
        }

    def evict(self, pod: str) -> None:
        """Ask for its eviction, as `kubectl drain` does; raises SandboxError where a budget forbids it."""
        metadata = {"name": pod, "namespace": self.namespace}
        document = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/eviction"
        self.node.kubectl("create", "--raw", path, "-f", "-", input=json.dumps(document))

    def process(self, pod: str) -> int:
        """The first process of a pod's container, as the node counts."""
        document = self.own.get("Pod", pod)
        assert document is not None
        container = document["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
        listed = self.node.enter("ctr", "--address", SOCKET, "--namespace", "k8s.io", "tasks", "ls").stdout
        (number,) = [line.split()[1] for line in listed.splitlines() if line.startswith(container)]
        return int(number)

    def signal(self, pod: str, name: str) -> None:
        """Send a signal to that process, from outside of the container."""
        self.node.enter("kill", f"-{name}", str(self.process(pod)))

    def logs(self) -> str:
        """What all its pods have written, those of the containers before the present ones too."""
        found = ""
        for pod in sorted(self.names()):
            for previous in ("true", "false"):
                arguments = ("logs", pod, "-n", self.namespace, f"--previous={previous}", "--tail=-1")
                found += self.node.kubectl(*arguments, check=False).stdout
        return found

    # What it looks after

    def server(self, name: str = "main") -> None:
        """The node's Postgres as a DatabaseServer."""
        postgres = self.node.postgres
        self.api.apply(secret("main-admin", username=postgres.username, password=postgres.password))
        self.api.apply(secret("main-ca", ca__crt=postgres.ca))
        spec = {
            "engine": "Postgres",
            "hosts": [{"host": self.node.postgres_host, "port": 5432}],
            "credentials": {"secretRef": {"name": "main-admin"}},
            "tls": {"mode": "VerifyFull", "caSecretRef": {"name": "main-ca"}},
        }
        self.api.apply({"kind": "DatabaseServer", "metadata": {"name": name}, "spec": spec})

    def schema(self, name: str, database: str, schemas: list[str], *, server: str = "main", **postgres: Any) -> None:
        """A DatabaseSchema with these schemas."""
        declared = {"schemas": [{"name": schema} for schema in schemas], **postgres}
        spec = {"serverRef": {"name": server}, "database": database, "interval": "30s", "postgres": declared}
        self.api.apply({"kind": "DatabaseSchema", "metadata": {"name": name}, "spec": spec})

    def ready(self, kind: str, name: str, timeout: float = 60) -> Document:
        """Wait until it is Ready for its present generation."""

        def reached() -> Document | None:
            document = self.api.get(kind, name)
            return document if verdict(document)[0] == "True" else None

        return wait_for(reached, timeout, what=lambda: verdict(self.api.get(kind, name)))

    def all_ready(self, timeout: float) -> None:
        """Wait until every DatabaseSchema is Ready for its present generation."""
        kind = "DatabaseSchema"
        wait_for(lambda: not unready(self.api, kind), timeout, what=lambda: unready(self.api, kind))

    def ask(self, database: str, question: str) -> list[tuple[Any, ...]]:
        """Rows of a query as the administrator."""
        with closing(self.node.postgres.connect(database)) as connection:
            return connection.execute(question.encode()).fetchall()

    def active(self, beginning: str, timeout: float = 60) -> None:
        """Wait until some session runs a statement that begins so."""
        query = sql.SQL("SELECT 1 FROM pg_stat_activity WHERE starts_with(query, {}) AND state = 'active'")
        with closing(self.node.postgres.connect()) as watcher:
            wait_for(lambda: watcher.execute(query.format(beginning)).fetchall(), timeout)


def _is_ready(pod: Document) -> bool:
    conditions = pod["status"].get("conditions", ())
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


@contextmanager
def deployed(node: NodeHandle, archive: Path, *settings: str) -> Iterator[Deployed]:
    """Namespaces of its own for a release with these settings of the chart, which the block installs.

    At the end nothing of it is left, however far the block came.
    """
    suffix = uuid.uuid4().hex[:8]
    made = Deployed(node, archive, f"operator-{suffix}", f"shop-{suffix}", settings)
    spaces = (made.watched, made.namespace)
    with closing(made.api), closing(made.own):
        try:
            for namespace in spaces:
                node.kubectl("create", "namespace", namespace)
            node.kubectl("label", "namespace", made.namespace, RESTRICTED)
            yield made
        finally:
            node.kubectl("uncordon", NAME)
            # the operator lets go of them while it is there
            node.kubectl("delete", KINDS, "--all", "-n", made.watched, "--timeout=120s", check=False, timeout=150)
            helm(node, "uninstall", "selvedge", "--namespace", made.namespace, "--wait", "--ignore-not-found")
            gone = ("--ignore-not-found", "--timeout=90s")
            node.kubectl("delete", "namespace", *spaces, *gone, timeout=120)


class Migration:
    """A run of three migrations, of which the second takes ``seconds``; each of their statements leaves a row."""

    def __init__(self, deployed: Deployed, database: str, seconds: float) -> None:
        self.deployed = deployed
        self.database = database
        self.seconds = seconds
        self.sleep = f"SELECT pg_sleep({seconds:g})"

    def start(self) -> None:
        """Declare the database and the run, and return while the long statement is under way."""
        owner = f"{self.database}_owner"
        declared = {"owner": owner, "roles": [{"name": owner}], "schemas": [{"name": "shop", "owner": owner}]}
        spec = {"serverRef": {"name": "main"}, "database": self.database, "postgres": declared}
        self.deployed.api.apply({"kind": "DatabaseSchema", "metadata": {"name": "migrated"}, "spec": spec})
        pause = {1: "SELECT 1", 2: self.sleep, 3: "SELECT 3"}
        files = {
            f"2025010{day}000000_m.sql": f"-- migrate:up\nINSERT INTO shop.log VALUES ('{day}a');\n{pause[day]};\n"
            f"INSERT INTO shop.log VALUES ('{day}b');\n"
            for day in (1, 2, 3)
        }
        files["20250100000000_log.sql"] = "-- migrate:up\nCREATE TABLE shop.log (what text);\n"
        run = {"schemaRef": {"name": "migrated"}, "source": {"inline": {"files": files}}}
        self.deployed.api.apply({"kind": "MigrationRun", "metadata": {"name": "run"}, "spec": run})
        self.deployed.active(self.sleep)

    def ran_exactly_once(self, timeout: float = 60) -> None:
        """Wait for its end; the rows of its statements, the history and its events say so alike."""
        run = self.deployed.ready("MigrationRun", "run", timeout + self.seconds)
        assert run["status"]["phase"] == "Succeeded"
        ask = self.deployed.ask
        rows = [what for (what,) in ask(self.database, "SELECT what FROM shop.log ORDER BY what")]
        assert rows == ["1a", "1b", "2a", "2b", "3a", "3b"]
        history = ask(self.database, "SELECT version::text, state FROM selvedge.history ORDER BY version")
        versions = [f"2025010{day}000000" for day in (0, 1, 2, 3)]
        assert history == [(version, "Applied") for version in versions]
        applied = "SELECT version::text FROM selvedge.events WHERE event = 'Applied' ORDER BY version"
        assert ask(self.database, applied) == [(version,) for version in versions]
        left = f"SELECT pid FROM pg_stat_activity WHERE usename = '{self.database}_migrator'"
        assert ask(self.database, left) == []


@dataclass(slots=True)
class Handover:
    """Who held the Lease, and since when in seconds, as somebody sees it who asks ten times a second."""

    before: str
    changes: list[tuple[float, str]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """From the beginning until another one led; 0 where that was never seen."""
        return next((seconds for seconds, name in self.changes if name not in ("", self.before)), 0.0)

    @property
    def to(self) -> str:
        """The first other one that led."""
        return next((name for _, name in self.changes if name not in ("", self.before)), "")

    @property
    def without(self) -> float:
        """The seconds in which the Lease was free."""
        pairs = zip(self.changes, self.changes[1:], strict=False)
        return sum(after - seconds for (seconds, name), (after, _) in pairs if not name)

    def __str__(self) -> str:
        """For the test's report."""
        shown = ", ".join(f"{seconds:.1f} s {name or 'nobody'}" for seconds, name in self.changes)
        return f"another leads after {self.seconds:.1f} s, the Lease was free for {self.without:.1f} s ({shown})"


@contextmanager
def handover(deployed: Deployed, timeout: float = 90) -> Iterator[Handover]:
    """Watch the Lease from the block's beginning to its end, and further until another leads, at most ``timeout``."""
    found, over = Handover(deployed.leader()), threading.Event()
    began = time.monotonic()
    failures: list[BaseException] = []

    def watch() -> None:
        try:
            last = found.before
            while not over.wait(0.1):
                name = deployed.leader()
                if name != last:
                    found.changes.append((time.monotonic() - began, name))
                    last = name
        except BaseException as error:  # noqa: BLE001 - raised again where the block ends
            failures.append(error)

    watcher = threading.Thread(target=watch, name="handover")
    watcher.start()
    try:
        yield found
        wait_for(lambda: found.to or failures, timeout, what=lambda: found.changes)
    finally:
        over.set()
        watcher.join()
    if failures:
        raise failures[0]


def steadily(check: Callable[[], bool], seconds: float) -> None:
    """``check`` holds all the time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert check()
        time.sleep(0.5)
