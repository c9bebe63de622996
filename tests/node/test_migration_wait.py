"""An application's pod that waits in an init container for the version that it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from psycopg import sql

from sandbox.image_archive import read
from sandbox.wallet import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox.node import NodeHandle

pytestmark = pytest.mark.long

FIRST, SECOND = "20250101000000_users.sql", "20250102000000_orders.sql"


def pod(image: str, url: str) -> dict[str, Any]:
    """As docs/guide/migrations.md has it, under the restricted profile."""
    security = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    container = {
        "image": image,
        "imagePullPolicy": "Never",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    wait = {
        **container,
        "name": "wait-for-migrations",
        "args": ["migrate", "wait", "--version", SECOND[:14], "--timeout", "5m"],
        "env": [{"name": "SELVEDGE_URL", "value": url}],
        "volumeMounts": [{"name": "database", "mountPath": "/run/database", "readOnly": True}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "avatar"},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": security,
            "initContainers": [wait],
            "containers": [{**container, "name": "avatar", "args": ["--version"]}],
            "volumes": [{"name": "database", "secret": {"secretName": "avatar-service-db"}}],
        },
    }


def test_an_application_starts_when_its_version_is_there(
    node: NodeHandle, operator_image: Path, clean_databases: None, node_namespace: str, tmp_path: Path
):
    (tmp_path / FIRST).write_text("-- migrate:up\nCREATE TABLE users (id int);\n")
    name, reader = f"shop_{uuid.uuid4().hex[:8]}", f"avatar_{uuid.uuid4().hex[:8]}"
    endpoint = node.postgres
    with endpoint.connect() as connection:
        login = sql.Identifier(reader)
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'its-own-word'").format(login))
        owner = sql.Identifier(f"{name}_owner")
        connection.execute(sql.SQL("CREATE ROLE {}").format(owner))
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), owner))

    def migrate(*arguments: str) -> None:
        place = f"{endpoint.username}@{endpoint.host}:{endpoint.port}/{name}"
        url = f"postgresql://{place}?sslmode={endpoint.sslmode}&sslrootcert={quote(str(endpoint.ca_path))}"
        done = subprocess.run(
            [sys.executable, "-m", "selvedge", "migrate", *arguments, "--dir", str(tmp_path), "--url", url],
            env={"PATH": os.environ["PATH"], "PGPASSWORD": endpoint.password},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    migrate("up")
    with endpoint.connect(name) as connection:
        connection.execute(sql.SQL("GRANT USAGE ON SCHEMA selvedge TO {}").format(login))
        connection.execute(sql.SQL("GRANT SELECT ON selvedge.history TO {}").format(login))
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "avatar-service-db"}}
    node.kubectl(
        "apply", "-n", node_namespace, "-f", "-", input=json.dumps({**secret, "stringData": {"ca.crt": endpoint.ca}})
    )
    url = (
        f"postgresql://{reader}:its-own-word@{node.postgres_host}:5432/{name}"
        "?sslmode=verify-full&sslrootcert=/run/database/ca.crt"
    )
    node.kubectl("apply", "-n", node_namespace, "-f", "-", input=json.dumps(pod(read(operator_image).reference, url)))

    def status() -> dict[str, Any]:
        shown = node.kubectl("get", "pod", "avatar", "-n", node_namespace, "-o", "json").stdout
        found: dict[str, Any] = json.loads(shown)["status"]
        return found

    def says(text: str) -> bool:
        log = ("logs", "avatar", "-c", "wait-for-migrations", "-n", node_namespace)
        return text in node.kubectl(*log, check=False).stdout

    wait_until(lambda: says(f"version {SECOND[:14]} has not run yet"), "the init container does not wait", 120)
    assert status()["phase"] == "Pending", "the application has not started"
    (tmp_path / SECOND).write_text("-- migrate:up\nCREATE TABLE orders (id int);\n")
    migrate("up")
    wait_until(lambda: status()["phase"] == "Succeeded", "the application does not start", 60)
    assert says(f"{name}: version {SECOND[:14]} is there")
    assert status()["initContainerStatuses"][0]["restartCount"] == 0
