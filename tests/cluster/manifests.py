"""The smallest manifest of each kind, and altered copies of them, for the tests of the CRDs."""

from __future__ import annotations

import copy
from typing import Any

SERVER: dict[str, Any] = {
    "apiVersion": "selvedge.dev/v1alpha1",
    "kind": "DatabaseServer",
    "metadata": {"name": "main-postgres"},
    "spec": {"engine": "Postgres", "hosts": [{"host": "localhost"}], "credentials": {"secretRef": {"name": "admin"}}},
}
SCHEMA: dict[str, Any] = {
    "apiVersion": "selvedge.dev/v1alpha1",
    "kind": "DatabaseSchema",
    "metadata": {"name": "fashion-wallet"},
    "spec": {"serverRef": {"name": "main-postgres"}, "database": "fashion_wallet", "postgres": {}},
}
MONGO: dict[str, Any] = {
    "apiVersion": "selvedge.dev/v1alpha1",
    "kind": "DatabaseSchema",
    "metadata": {"name": "designs"},
    "spec": {"serverRef": {"name": "main-mongo"}, "database": "fashion-wallet-main", "mongodb": {}},
}
RUN: dict[str, Any] = {
    "apiVersion": "selvedge.dev/v1alpha1",
    "kind": "MigrationRun",
    "metadata": {"name": "fashion-wallet-1"},
    "spec": {
        "schemaRef": {"name": "fashion-wallet"},
        "source": {"inline": {"files": {"20250101000000_a.sql": "select 1;"}}},
    },
}


def altered(document: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """A copy of a document with fields of its spec set, or taken out where the value is None."""
    result = copy.deepcopy(document)
    for name, value in spec.items():
        if value is None:
            del result["spec"][name]
        else:
            result["spec"][name] = value
    return result


def postgres(**parts: Any) -> dict[str, Any]:
    return altered(SCHEMA, postgres=parts)


def index(**parts: Any) -> dict[str, Any]:
    return altered(MONGO, mongodb={"collections": [{"name": "designs", "indexes": [{"name": "i", **parts}]}]})


def grant(**parts: Any) -> dict[str, Any]:
    return postgres(grants=[{"name": "g", "privileges": ["SELECT"], "to": ["app"], **parts}])
