"""Many small databases on one small server, and what that server and the API server themselves counted of us.

The operator has a login and a Kubernetes user of its own here, so that no request and no connection of a test, of
another operator or of a controller is taken for one of its own.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from psycopg import sql

from sandbox import PostgresEndpoint, PostgresServer, Sandbox, tools
from sandbox.errors import SandboxError
from sandbox.kubectl import kube_environment
from tests.cluster.kube_api import Document, KubeApi
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.world import World, verdict, wait_for

LOGIN, PERSON = "fleet_operator", "person"
#: Of ``spec.connections.max``; the server has room for nine, so that a pool for each database would fill it at once.
LIMIT = 4
_SETTINGS = {
    "max_connections": "9",
    "superuser_reserved_connections": "1",
    "max_wal_senders": "2",
    "log_connections": "on",
    "log_disconnections": "on",
}
_ARRIVED = re.compile(r"\[(\d+)\] .*connection authorized: user=(\S+) database=(\S+)")
_GONE = re.compile(r"\[(\d+)\] .*disconnection: session time: .* user=(\S+)")
_DISPATCHED = re.compile(r'^apiserver_flowcontrol_dispatched_requests_total\{[^}]*flow_schema="([^"]+)"[^}]*\} (\S+)')
#: What the API server counts apart, in the order in which a request is matched: verbs and resources.
_CLASSES = {
    "leases": (["*"], ["leases"]),
    # a question to the API server, which keeps nothing of it
    "reviews": (["create"], ["selfsubjectrulesreviews", "selfsubjectaccessreviews"]),
    "writes": (["create", "update", "patch", "delete", "deletecollection"], ["*"]),
    "lists": (["list"], ["*"]),
    "watches": (["watch"], ["*"]),
    "reads": (["*"], ["*"]),
}


@dataclass(frozen=True, slots=True)
class Use:
    """What the operator has used until now."""

    requests: Counter[str]
    logins: int
    statements: int


@dataclass(slots=True)
class Fleet:
    """The world of one operator, its server, and the ledgers of both ends."""

    world: World
    server: PostgresServer
    user: str
    sandbox: Sandbox

    def use(self) -> Use:
        """The totals since the beginning. Statements are those that a client sent, BEGIN and COMMIT included."""
        with closing(self.server.connect()) as connection:
            row = connection.execute(
                "SELECT coalesce(sum(calls) FILTER (WHERE toplevel), 0)::bigint FROM pg_stat_statements s"
                " JOIN pg_roles r ON r.oid = s.userid WHERE r.rolname = %s",
                [LOGIN],
            ).fetchone()
        assert row is not None
        return Use(self.requests(), self.connections()[0], row[0])

    def requests(self) -> Counter[str]:
        """The requests of the operator by class, Kopf's among them, as the API server dispatched them."""
        found: Counter[str] = Counter()
        for line in self.sandbox.kubectl("get", "--raw", "/metrics").stdout.splitlines():
            if (match := _DISPATCHED.match(line)) and match[1].startswith(f"{self.user}-"):
                found[match[1].removeprefix(f"{self.user}-")] += int(float(match[2]))
        return found

    def connections(self) -> tuple[int, int]:
        """The operator's logins, and the highest number of its connections at once, from the server's log."""
        alive, logins, peak = set[str](), 0, 0
        for line in self.log().splitlines():
            if (match := _ARRIVED.search(line)) and match[2] == LOGIN:
                alive.add(match[1])
                logins += 1
            elif (match := _GONE.search(line)) and match[2] == LOGIN:
                alive.discard(match[1])
            elif "database system is ready" in line:
                alive.clear()
            peak = max(peak, len(alive))
        return logins, peak

    def logins(self, database: str) -> int:
        """The operator's logins to one database."""
        return sum(found[1:] == (LOGIN, database) for found in _ARRIVED.findall(self.log()))

    def log(self) -> str:
        """The log of the server."""
        assert self.server.log_path is not None
        return self.server.log_path.read_text(encoding="utf-8", errors="replace")

    def unit(self, name: str, *, database: str = "", server: str = "main") -> Document:
        """A database with an owner, a reader, a schema and two grants."""
        prefix = self.world.role(name.replace("-", "_"))
        owner, reader = f"{prefix}_owner", f"{prefix}_reader"
        schema = name.replace("-", "_")
        postgres = {
            "roles": [{"name": owner}, {"name": reader}],
            "schemas": [{"name": schema, "owner": owner}],
            "grants": [
                {"name": "connect", "privileges": ["CONNECT"], "objects": {"database": True}, "to": [reader]},
                {"name": "use", "privileges": ["USAGE"], "objects": {"schemas": [schema]}, "to": [reader]},
            ],
        }
        return self.world.schema_document(name, server=server, database=database or prefix, postgres=postgres)

    def apply(self, *documents: Document) -> None:
        """Apply them one after the other, without waiting for anything."""
        for document in documents:
            self.world.api.apply(document)

    def verdicts(self) -> dict[str, tuple[str, str, str]]:
        """Status, reason and message of Ready of each DatabaseSchema."""
        return {o["metadata"]["name"]: verdict(o) for o in self.world.api.list("DatabaseSchema")}

    def all_ready(self, timeout: float = 60) -> None:
        """Wait until every DatabaseSchema is Ready, and what was queued is done."""

        def unready() -> dict[str, tuple[str, str, str]]:
            return {name: found for name, found in self.verdicts().items() if found[0] != "True"}

        wait_for(lambda: not unready(), timeout, what=unready)
        wait_for(lambda: self.world.operator.value("selvedge_queue_depth") == 0)

    def versions(self) -> dict[str, str]:
        """The resourceVersion of each resource: it moves with every write, by whomever."""
        return self.world.api.versions("DatabaseServer", "DatabaseSchema")

    def passes(self, kind: str = "DatabaseSchema") -> float:
        """Passes over units, or over servers, that the running operator has ended."""
        return self.world.operator.value("selvedge_reconcile_total", kind=kind)

    def remove(self, *names: str) -> None:
        """Delete DatabaseSchemas and wait until they are gone."""
        for name in names:
            self.world.api.delete("DatabaseSchema", name)
        wait_for(lambda: not set(names) & set(self.verdicts()))


@contextmanager
def fleet(sandbox: Sandbox, directory: Path) -> Iterator[Fleet]:
    """A fresh, empty Postgres server, and an operator that knows it as DatabaseServer ``main``."""
    user = f"fleet-{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:
        server = stack.enter_context(PostgresServer.launch("18", settings=_SETTINGS))
        _prepare(server)
        _own_user(sandbox, user, stack)
        kubeconfig = sandbox.kubeconfig_for(user)
        operator = OperatorProcess(
            kubeconfig,
            directory / "operator.log",
            namespaces=(user,),
            lease_namespace=user,
            env={"SELVEDGE_IDENTITY": "the-same"},  # started again, it leads at once
        )
        stack.callback(operator.kill)
        api = KubeApi(sandbox.kubeconfig, user)
        stack.callback(api.close)
        operator.start()
        world = World(api, operator, user, user.replace("-", "_"), server, kubeconfig)
        world.server(
            login=(LOGIN, server.password),
            connections={"max": LIMIT, "idleTimeout": "1s", "connectTimeout": "1s"},
            monitoring={"interval": "1s"},
        )
        world.ready("DatabaseServer", "main")
        yield Fleet(world, server, user, sandbox)


def _prepare(server: PostgresServer) -> None:
    with closing(server.connect()) as connection:
        connection.execute("CREATE EXTENSION pg_stat_statements")
        for name, rights in ((LOGIN, "SUPERUSER"), (PERSON, "NOSUPERUSER")):
            statement = sql.SQL("CREATE ROLE {} LOGIN " + rights + " PASSWORD {}")
            connection.execute(statement.format(sql.Identifier(name), sql.Literal(server.password)))


def _own_user(sandbox: Sandbox, user: str, stack: ExitStack) -> None:
    """A namespace and a user of the same name, whose requests the API server counts by class."""
    sandbox.kubectl("create", "namespace", user)
    stack.callback(sandbox.kubectl, "delete", "namespace", user, "--wait=false")
    sandbox.kubectl("create", "clusterrolebinding", user, "--clusterrole=cluster-admin", f"--user={user}")
    stack.callback(sandbox.kubectl, "delete", "clusterrolebinding", user)
    documents = []
    for precedence, (name, (verbs, resources)) in enumerate(_CLASSES.items(), 100):
        rule = {"verbs": verbs, "apiGroups": ["*"], "resources": resources, "namespaces": ["*"], "clusterScope": True}
        subject = {"kind": "User", "user": {"name": user}}
        spec = {
            "matchingPrecedence": precedence,
            "priorityLevelConfiguration": {"name": "workload-low"},
            "rules": [{"subjects": [subject], "resourceRules": [rule]}],
        }
        kind = {"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema"}
        documents.append({**kind, "metadata": {"name": f"{user}-{name}"}, "spec": spec})
    names = [document["metadata"]["name"] for document in documents]
    listed = {"apiVersion": "v1", "kind": "List", "items": documents}
    sandbox.kubectl("apply", "-f", "-", input=json.dumps(listed))
    stack.callback(sandbox.kubectl, "delete", "flowschema", *names)


class Person(threading.Thread):
    """Somebody without any privilege who runs psql again and again; a context manager."""

    def __init__(self, server: PostgresServer) -> None:
        super().__init__(daemon=True)
        self._endpoint = PostgresEndpoint(
            server.version, server.port, server.password, server.ca_path, server.host, PERSON
        )
        self._stopping = threading.Event()
        self.served = 0
        self.refused: list[str] = []

    def run(self) -> None:
        while not self._stopping.wait(0.1):
            try:
                self._endpoint.psql("SELECT 1", timeout=10)
                self.served += 1
            except SandboxError as error:
                self.refused.append(str(error))

    def __enter__(self) -> Person:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopping.set()
        self.join(15)


@contextmanager
def sightings(fleet: Fleet, kind: str, name: str) -> Iterator[list[str]]:
    """Every status and reason of Ready that a watch shows, in order, such as ``False DriftDetected``."""
    path = r'{.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].reason}{"\n"}'
    command = [
        str(tools.control_plane() / "kubectl"), f"--kubeconfig={fleet.sandbox.kubeconfig}", "-n", fleet.user,
        "get", kind, name, "-w", "-o", f"jsonpath={path}",
    ]  # fmt: skip
    found: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=kube_environment(fleet.sandbox.kubeconfig)
    ) as process:
        assert process.stdout is not None
        lines = process.stdout
        reader = threading.Thread(target=lambda: found.extend(line.strip() for line in lines), daemon=True)
        reader.start()
        try:
            wait_for(lambda: found)
            yield found
        finally:
            process.terminate()
            reader.join(5)
