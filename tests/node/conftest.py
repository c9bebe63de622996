"""A real node for the tests here: one for the run, beside and apart from the other tests' sandbox.

Its tests follow each other in one process of pytest-xdist. Each has namespaces and databases of its own, and takes away
what it puts in: releases of the chart above all, whose objects for the whole cluster have fixed names.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from psycopg import sql

from sandbox import node as sandbox_node
from sandbox.errors import SandboxError
from sandbox.node_image import operator

if TYPE_CHECKING:
    from sandbox import Sandbox
    from sandbox.node import NodeHandle

RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"


@pytest.hookimpl(tryfirst=True)  # pytest-xdist looks at the marks in its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if item.path.parent == Path(__file__).parent]
    for item in ours:
        item.add_marker(pytest.mark.xdist_group("node"))
        # what is not built yet is built by the first of them
        item.add_marker(pytest.mark.timeout(900))
    # one process has them all to run: the others' work is to be done beside, not before them
    items.sort(key=lambda item: item.path.parent != Path(__file__).parent)


@pytest.fixture(scope="session")
def node(sandbox: Sandbox) -> NodeHandle:
    """A Kubernetes node, with Postgres and MongoDB that its pods can reach.

    Where none can run, or its programs cannot be had, tests are skipped, with the reason at the end of the run; where
    that must not go unnoticed, SELVEDGE_REQUIRE_NODE=1 makes it a failure.
    """
    try:
        sandbox_node.fetch()
    except SandboxError as error:
        if os.environ.get("SELVEDGE_REQUIRE_NODE"):
            raise
        pytest.skip(f"no node: {error}")
    return sandbox.node


@pytest.fixture(scope="session")
def operator_image(node: NodeHandle) -> Path:
    """The operator's image, built from this working tree, and known to the node's containerd."""
    archive = operator()
    node.import_image(archive)
    return archive


@pytest.fixture
def clean_databases(node: NodeHandle) -> Iterator[None]:
    """After the test the node's database servers hold nothing but themselves; stop the operator before that."""
    yield
    with node.postgres.connect() as connection:
        kept = "SELECT datname FROM pg_database WHERE datname <> 'postgres' AND NOT datistemplate"
        for (name,) in connection.execute(kept).fetchall():
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        connection.execute("DROP SCHEMA IF EXISTS selvedge CASCADE")
        roles = connection.execute("SELECT rolname FROM pg_roles WHERE oid >= 16384").fetchall()
        names = sql.SQL(", ").join(sql.Identifier(name) for (name,) in roles)
        if roles:
            connection.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(names))
            connection.execute(sql.SQL("DROP ROLE {}").format(names))
    with node.mongodb.client() as client:
        for name in set(client.list_database_names()) - {"admin", "config", "local"}:
            client[name].command("dropAllUsersFromDatabase")
            client[name].command("dropAllRolesFromDatabase")
            client.drop_database(name)


@pytest.fixture
def node_namespace(node: NodeHandle) -> Iterator[str]:
    """A fresh namespace in which Pod Security enforces the restricted profile; its deletion is not waited for."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    node.kubectl("create", "namespace", name)
    node.kubectl("label", "namespace", name, RESTRICTED)
    yield name
    node.kubectl("delete", "namespace", name, "--wait=false")
