"""What every measurement stands on: a cluster, a Postgres server as in earnest (fsync on), and the operator."""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from bench.api import Api, Document, Watch
from bench.operator import Operator
from sandbox import Sandbox
from sandbox.errors import SandboxError
from sandbox.postgres import PostgresServer
from sandbox.progress import note

NAMESPACE = "bench"
#: The operator's login and its user in the cluster, so that nobody else's work is counted as its own.
LOGIN = "bench_operator"
_CRDS = Path(__file__).resolve().parent.parent / "crds"
SETTINGS = {
    "fsync": "on",
    "full_page_writes": "on",
    "wal_level": "replica",
    "max_connections": "300",
    "pg_stat_statements.max": "100000",
    "log_connections": "on",
    "log_disconnections": "on",
    "log_min_messages": "log",
}


@dataclass(slots=True)
class World:
    """Everything of one measurement; gone when it ends."""

    sandbox: Sandbox
    postgres: PostgresServer
    api: Api
    operator: Operator
    watch: Watch
    servers: Watch

    def sql(self, dbname: str = "postgres") -> psycopg.Connection[Any]:
        """An autocommit connection of the administrator, who is not the operator."""
        return self.postgres.connect(dbname)

    def create_databases(self, names: list[str]) -> float:
        """CREATE DATABASE for each, over one connection; the seconds it took."""
        started = time.monotonic()
        with self.sql() as connection:
            for name in names:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return time.monotonic() - started


def require_disk(databases: int) -> None:
    """Raise SandboxError where so many databases would not fit, with what they write to the log beside them."""
    needed, free = databases * 10 * 2**20 + 3 * 2**30, shutil.disk_usage(tempfile.gettempdir()).free
    if free < needed:
        where = tempfile.gettempdir()
        raise SandboxError(
            f"{databases} databases need {needed / 2**30:.0f} GiB below {where} and {free / 2**30:.0f} are free: "
            "set TMPDIR to a place with more"
        )


@contextmanager
def world(*, postgres: str = "15", settings: Mapping[str, str] | None = None, identity: str = "") -> Iterator[World]:
    """Start everything and wait until the DatabaseServer ``main`` is Ready."""
    with ExitStack() as stack:
        sandbox = stack.enter_context(Sandbox.start(postgres=(), mongodb=False))
        server = stack.enter_context(PostgresServer.launch(postgres, settings={**SETTINGS, **(settings or {})}))
        _prepare_cluster(sandbox)
        api = Api(sandbox.kubeconfig, NAMESPACE)
        directory = Path(tempfile.mkdtemp(prefix="selvedge-bench-"))
        stack.push(_remove_or_keep(directory))
        operator = Operator(sandbox.kubeconfig_for("bench-operator"), directory, identity)
        operator.start()
        stack.callback(operator.kill)
        servers = stack.enter_context(Watch(api, "databaseservers"))
        declare_server(api, server)
        servers.wait_ready(["main"], 30)
        watch = stack.enter_context(Watch(api))
        yield World(sandbox, server, api, operator, watch, servers)


def declare_server(api: Api, server: PostgresServer, name: str = "main") -> None:
    """Make the operator's login on a server that was just launched, and a DatabaseServer of this name."""
    _prepare_postgres(server)
    for document in _server(server, name):
        plural = "databaseservers" if document["kind"] == "DatabaseServer" else "secrets"
        path = api.path(plural) if plural == "databaseservers" else f"/api/v1/namespaces/{NAMESPACE}/secrets"
        api.text("POST", path, document)


def _remove_or_keep(directory: Path) -> Callable[..., None]:
    """Remove the operator's log at the end, unless something failed: then it is what one wants to read."""

    def leave(kind: type[BaseException] | None, *_details: object) -> None:
        if kind is None or not issubclass(kind, Exception):
            shutil.rmtree(directory, ignore_errors=True)
        else:
            note(f"the operator's log is kept: {directory / 'operator.log'}")

    return leave


def _prepare_postgres(server: PostgresServer) -> None:
    with server.connect() as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN SUPERUSER PASSWORD {}").format(
                sql.Identifier(LOGIN), sql.Literal(server.password)
            )
        )


def _prepare_cluster(sandbox: Sandbox) -> None:
    sandbox.kubectl("apply", "--server-side", "-f", str(_CRDS))
    sandbox.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
    sandbox.kubectl("create", "namespace", NAMESPACE)
    sandbox.kubectl(
        "create", "clusterrolebinding", "bench-operator", "--clusterrole=cluster-admin", "--user=bench-operator"
    )
    rules = {
        # precedence, and what it counts
        "bench-leases": (100, ["*"], ["coordination.k8s.io"], ["leases"]),
        "bench-reviews": (101, ["create"], ["authorization.k8s.io"], ["*"]),  # a question, of which nothing is kept
        "bench-writes": (102, ["create", "update", "patch", "delete", "deletecollection"], ["*"], ["*"]),
        "bench-reads": (103, ["*"], ["*"], ["*"]),
    }
    documents = [_flow_schema(name, *rule) for name, rule in rules.items()]
    for document in documents:
        sandbox.kubectl("apply", "-f", "-", input=json.dumps(document))


def _flow_schema(name: str, precedence: int, verbs: list[str], groups: list[str], resources: list[str]) -> Document:
    """A class of its own for the operator's requests: the API server counts what it dispatches in each class."""
    rule = {"verbs": verbs, "apiGroups": groups, "resources": resources, "namespaces": ["*"], "clusterScope": True}
    return {
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
        "kind": "FlowSchema",
        "metadata": {"name": name},
        "spec": {
            "matchingPrecedence": precedence,
            "priorityLevelConfiguration": {"name": "workload-low"},  # where a pod's service account lands
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [{"subjects": [{"kind": "User", "user": {"name": "bench-operator"}}], "resourceRules": [rule]}],
        },
    }


def _server(server: PostgresServer, label: str) -> Iterator[Document]:
    def secret(name: str, **values: str) -> Document:
        data = {key.replace("_", "."): base64.b64encode(value.encode()).decode() for key, value in values.items()}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}

    yield secret(f"{label}-login", username=LOGIN, password=server.password)
    yield secret(f"{label}-ca", ca_crt=server.ca)
    yield {
        "apiVersion": "selvedge.dev/v1alpha1",
        "kind": "DatabaseServer",
        "metadata": {"name": label},
        "spec": {
            "engine": "Postgres",
            "hosts": [{"host": server.host, "port": server.port}],
            "credentials": {"secretRef": {"name": f"{label}-login"}},
            "tls": {"mode": "VerifyFull", "caSecretRef": {"name": f"{label}-ca", "key": "ca.crt"}},
        },
    }
