"""The servers of the test run answer, with TLS verified."""

from __future__ import annotations

import http.client
import json
import ssl
from typing import TYPE_CHECKING

import psycopg
import pymongo
import pytest
from pymongo.errors import ServerSelectionTimeoutError

from sandbox import MongoEndpoint, PostgresEndpoint, Sandbox, run_kubectl
from sandbox.pki import Authority

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Kubectl


@pytest.fixture
def other_ca(tmp_path: Path) -> Path:
    return Authority(tmp_path / "other", "another CA").certificate_path


def test_postgres_is_verified(postgres: PostgresEndpoint, database: str) -> None:
    with postgres.connect(database) as connection:
        row = connection.execute(
            "SELECT ssl, version, current_setting('server_version_num')::int / 10000, current_database()"
            " FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        ).fetchone()
    assert row == (True, "TLSv1.3", int(postgres.version), database)


def test_postgres_with_another_ca_is_refused(postgres: PostgresEndpoint, other_ca: Path) -> None:
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        postgres.connect(sslrootcert=str(other_ca))


def test_postgres_checks_the_password(postgres18: PostgresEndpoint) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        postgres18.connect(password="wrong")


def test_psql_speaks_tls(postgres18: PostgresEndpoint) -> None:
    assert postgres18.psql("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == "t\n"


def test_statements_are_counted(postgres18: PostgresEndpoint) -> None:
    assert "pg_stat_statements" in postgres18.psql("SHOW shared_preload_libraries")


def test_mongodb_is_a_verified_replica_set(mongodb: MongoEndpoint, mongo_database: str) -> None:
    with mongodb.client() as client, client.start_session() as session, session.start_transaction():
        client[mongo_database]["things"].insert_one({"_id": 1}, session=session)
        assert client[mongo_database]["things"].count_documents({}, session=session) == 1


def test_mongodb_with_another_ca_is_refused(mongodb: MongoEndpoint, other_ca: Path) -> None:
    uri = mongodb.uri(tlsCAFile=str(other_ca))
    with (
        pymongo.MongoClient(uri, serverSelectionTimeoutMS=500) as client,
        pytest.raises(ServerSelectionTimeoutError, match="certificate verify failed"),
    ):
        client.admin.command("ping")


def test_kubernetes_collects_garbage(kubectl: Kubectl, namespace: str) -> None:
    """Deleting a namespace needs the controller manager, and so does a token of a service account."""
    kubectl("create", "configmap", "settings", "--from-literal=a=b", "-n", namespace)
    assert kubectl("create", "token", "default", "-n", namespace).stdout.count(".") == 2
    kubectl("delete", "namespace", namespace, "--wait=false")
    kubectl("wait", "--for=delete", f"namespace/{namespace}", "--timeout=30s")
    kubectl("create", "namespace", namespace)


def test_another_user_may_do_nothing(sandbox: Sandbox) -> None:
    config = sandbox.kubeconfig_for("alice", ["developers"])
    result = run_kubectl(config, "get", "secrets", check=False)
    assert result.returncode == 1
    assert 'User "alice" cannot list resource "secrets"' in result.stderr


def test_the_api_server_is_verified(sandbox: Sandbox, other_ca: Path) -> None:
    server = json.loads(sandbox.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
    host, port = server.removeprefix("https://").split(":")
    connection = http.client.HTTPSConnection(host, int(port), context=ssl.create_default_context(cafile=str(other_ca)))
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
        connection.request("GET", "/readyz")
