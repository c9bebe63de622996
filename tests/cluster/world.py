"""One test's part of the cluster: a namespace, an operator that watches only it, and servers to declare."""

from __future__ import annotations

import base64
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psycopg import sql

from sandbox import MongoEndpoint, PostgresEndpoint
from tests.cluster.kube_api import Document, KubeApi
from tests.cluster.operator_process import OperatorProcess
from tests.waiting import SECONDS, wait_for


def condition(document: Document | None, kind: str = "Ready") -> Document:
    """The condition of that type, or an empty one; ``current`` says whether it is about the present generation."""
    found = ((document or {}).get("status") or {}).get("conditions") or ()
    for entry in found:
        if entry["type"] == kind:
            current = entry.get("observedGeneration") == (document or {})["metadata"]["generation"]
            return {**entry, "current": current}
    return {"status": "", "reason": "", "message": "", "current": False}


def verdict(document: Document | None) -> tuple[str, str, str]:
    """Status, reason and message of Ready, if they are about the present generation."""
    ready = condition(document)
    return (ready["status"], ready["reason"], ready["message"]) if ready["current"] else ("", "", "")


def unready(api: KubeApi, *kinds: str) -> dict[str, tuple[str, str, str]]:
    """What of these kinds is not Ready for its present generation, by KIND/NAME, with its verdict."""
    found = {
        f"{kind}/{document['metadata']['name']}": verdict(document) for kind in kinds for document in api.list(kind)
    }
    return {name: seen for name, seen in found.items() if seen[0] != "True"}


def secret(name: str, **values: str) -> Document:
    """A Secret."""
    data = {key.replace("__", "."): base64.b64encode(value.encode()).decode() for key, value in values.items()}
    return {"kind": "Secret", "metadata": {"name": name}, "data": data}


@dataclass(slots=True)
class World:
    """What a test works with; ``name`` is the prefix of every database and role that it makes."""

    api: KubeApi
    operator: OperatorProcess
    namespace: str
    name: str
    endpoint: PostgresEndpoint
    kubeconfig: Path
    databases: set[str] = field(default_factory=set)

    # Declaring

    def credentials(self, endpoint: PostgresEndpoint | MongoEndpoint, name: str) -> None:
        """The Secrets of an administrator and of a CA."""
        self.api.apply(secret(f"{name}-admin", username=endpoint.username, password=endpoint.password))
        self.api.apply(secret(f"{name}-ca", ca__crt=endpoint.ca))

    def server(
        self,
        endpoint: PostgresEndpoint | None = None,
        name: str = "main",
        *,
        login: tuple[str, str] | None = None,
        ca: str = "",
        **spec: Any,
    ) -> str:
        """A DatabaseServer with its Secrets: TLS verified in full; returns its name.

        ``login`` and ``ca`` stand in its Secrets instead of those of ``endpoint``.
        """
        endpoint = endpoint or self.endpoint
        user, password = login or (endpoint.username, endpoint.password)
        self.api.apply(secret(f"{name}-admin", username=user, password=password))
        self.api.apply(secret(f"{name}-ca", ca__crt=ca or endpoint.ca))
        self.api.apply(self.server_document(endpoint, name, **spec))
        return name

    def server_document(self, endpoint: PostgresEndpoint, name: str = "main", **spec: Any) -> Document:
        """The manifest of :meth:`server`."""
        declared = {
            "engine": "Postgres",
            "hosts": [{"host": endpoint.host, "port": endpoint.port}],
            "credentials": {"secretRef": {"name": f"{name}-admin"}},
            "tls": {"mode": "VerifyFull", "caSecretRef": {"name": f"{name}-ca"}},
        }
        return {"kind": "DatabaseServer", "metadata": {"name": name}, "spec": {**declared, **spec}}

    def mongo_server(
        self,
        endpoint: MongoEndpoint,
        name: str = "mongo",
        *,
        login: tuple[str, str] | None = None,
        ca: str = "",
        **spec: Any,
    ) -> str:
        """The same for MongoDB."""
        user, password = login or (endpoint.username, endpoint.password)
        self.api.apply(secret(f"{name}-admin", username=user, password=password))
        self.api.apply(secret(f"{name}-ca", ca__crt=ca or endpoint.ca))
        declared = {
            "engine": "MongoDB",
            "hosts": [{"host": endpoint.host, "port": endpoint.port}],
            "credentials": {"secretRef": {"name": f"{name}-admin"}},
            "tls": {"mode": "VerifyFull", "caSecretRef": {"name": f"{name}-ca"}},
            "mongodb": {"replicaSet": endpoint.replica_set},
        }
        document = {"kind": "DatabaseServer", "metadata": {"name": name}, "spec": {**declared, **spec}}
        self.api.apply(document)
        return name

    def schema_document(self, name: str, *, server: str = "main", database: str = "", **spec: Any) -> Document:
        """The manifest of a DatabaseSchema on ``database`` (default: this test's)."""
        database = database or self.name
        self.databases.add(database)
        declared = {"serverRef": {"name": server}, "database": database, "interval": "10s", **spec}
        return {"kind": "DatabaseSchema", "metadata": {"name": name}, "spec": declared}

    def schema(self, name: str, *, server: str = "main", database: str = "", **spec: Any) -> Document:
        """Apply a DatabaseSchema; returns it as the API server has it."""
        return self.api.apply(self.schema_document(name, server=server, database=database, **spec))

    def role(self, suffix: str) -> str:
        """A role name of this test's own."""
        return f"{self.name}_{suffix}"

    def trigger(self) -> Document:
        """A migration source that nothing is applied from: a change of its ConfigMap makes a pass (:meth:`look`)."""
        labels = {"selvedge.dev/watch": "true"}
        self.api.apply({"kind": "ConfigMap", "metadata": {"name": "trigger", "labels": labels}, "data": {}})
        return {"autoApply": False, "source": {"configMaps": [{"name": "trigger"}]}}

    def look(self) -> None:
        """Have every DatabaseSchema with ``migrations`` of :meth:`trigger` looked at now, and wait until one was."""
        before = self.operator.value("selvedge_reconcile_total", kind="DatabaseSchema")
        self.api.patch("ConfigMap", "trigger", {"metadata": {"annotations": {"test/touched": str(time.time())}}})
        wait_for(lambda: self.operator.value("selvedge_reconcile_total", kind="DatabaseSchema") > before)

    def now(self, kind: str, name: str) -> None:
        """Ask for a pass over one resource, as a person does who does not wait for its interval."""
        asked = {"selvedge.dev/reconcile-now": str(time.time())}
        self.api.patch(kind, name, {"metadata": {"annotations": asked}})

    # Looking

    def ready(self, kind: str, name: str, timeout: float = SECONDS) -> Document:
        """Wait until Ready is True for the present generation; returns the object."""
        return self.until(kind, name, "True", timeout=timeout)

    def until(self, kind: str, name: str, status: str, reason: str = "", timeout: float = SECONDS) -> Document:
        """Wait until Ready has this status and reason for the present generation; returns the object."""

        def reached() -> Document | None:
            document = self.api.get(kind, name)
            found = verdict(document)
            return document if found[0] == status and reason in ("", found[1]) else None

        return wait_for(reached, timeout, what=lambda: (verdict(self.api.get(kind, name)), self.operator.logs()[-300:]))

    def sql(self, statement: str, *, database: str = "") -> list[tuple[Any, ...]]:
        """Run one statement as the administrator in the test's database."""
        with closing(self.endpoint.connect(database or self.name)) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def ask(self, question: str, *, database: str = "") -> Any:
        """The first value of the first row."""
        return self.sql(question, database=database)[0][0]

    def clean(self) -> None:
        """Drop the databases and roles of this test, whatever it left."""
        drop(self.endpoint, self.name, self.databases | {self.name})


def drop(endpoint: PostgresEndpoint, prefix: str, databases: set[str]) -> None:
    """Drop databases, and the roles whose names start with ``prefix`` or belong to one of the databases."""
    with closing(endpoint.connect()) as connection:
        for name in sorted(databases):
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        rows = connection.execute("SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", [prefix]).fetchall()
        for (role,) in rows:
            connection.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(role)))
        for (role,) in rows:
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
