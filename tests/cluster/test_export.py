"""What ``selvedge export`` writes goes through a real API server unchanged: its YAML, its rules, its limits."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from sandbox import MongoEndpoint, PostgresEndpoint
from tests.conftest import Kubectl
from tests.engines import test_export_mongodb as of_mongodb
from tests.engines.export_support import DATABASES, drop, export, fill
from tests.engines.postgres_support import rows


@pytest.fixture
def name(postgres18: PostgresEndpoint) -> Iterator[str]:
    """The name of a database to be made, with which the names of its roles begin."""
    name = f"db_{uuid.uuid4().hex[:12]}"
    yield name
    roles = [role for (role,) in rows(postgres18, "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", name)]
    drop(postgres18, name, roles)


@pytest.mark.parametrize("kind", DATABASES)
def test_the_api_server_takes_an_exported_postgres_database(
    postgres18: PostgresEndpoint, kubectl: Kubectl, namespace: str, served: None, name: str, kind: str
) -> None:
    fill(postgres18, name, *DATABASES[kind])
    compare(export(postgres18, name).stdout, kubectl, namespace)


def test_the_api_server_takes_an_exported_mongodb_database(
    mongodb: MongoEndpoint, mongo_database: str, kubectl: Kubectl, namespace: str, served: None
) -> None:
    with mongodb.client() as client:
        of_mongodb.make(client[mongo_database])
    compare(of_mongodb.export(mongodb, mongo_database).stdout, kubectl, namespace)


def compare(text: str, kubectl: Kubectl, namespace: str) -> None:
    """Every value is read as the text that was written; the server adds defaults."""
    result: subprocess.CompletedProcess[str] = kubectl(
        *("create", "-n", namespace, "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-"), input=text
    )
    same(yaml.safe_load(text)["spec"], json.loads(result.stdout)["spec"], "spec")


def same(written: Any, read: Any, path: str) -> None:
    if isinstance(written, dict):
        for key, value in written.items():
            same(value, read[key], f"{path}.{key}")
    elif isinstance(written, list):
        assert len(written) == len(read), path
        for number, (one, other) in enumerate(zip(written, read, strict=True)):
            same(one, other, f"{path}[{number}]")
    else:
        assert (type(written), written) == (type(read), read), path
