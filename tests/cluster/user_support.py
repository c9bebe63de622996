"""What the tests of DatabaseUser share."""

from __future__ import annotations

import base64
from typing import Any

import psycopg

from tests.cluster.kube_api import Document
from tests.cluster.world import World, wait_for


def user_document(world: World, name: str, *, schema: str = "shop", **spec: Any) -> Document:
    """The manifest of a DatabaseUser whose username begins with the test's name."""
    declared = {"schemaRef": {"name": schema}, "username": world.role(name.replace("-", "_")), **spec}
    return {"kind": "DatabaseUser", "metadata": {"name": name}, "spec": declared}


def user(world: World, name: str, **spec: Any) -> Document:
    """Apply a DatabaseUser."""
    return world.api.apply(user_document(world, name, **spec))


def shop(world: World, *roles: str, **postgres: Any) -> Document:
    """Apply the DatabaseSchema ``shop`` with an owner and these roles, all of this test's own names."""
    names = ["owner", *roles]
    declared = {"owner": world.role("owner"), "roles": [{"name": world.role(role)} for role in names], **postgres}
    return world.schema("shop", postgres=declared)


def binding(world: World, name: str) -> dict[str, str]:
    """The data of a Secret; empty where there is none."""
    found = world.api.get("Secret", name)
    return {key: base64.b64decode(value).decode() for key, value in ((found or {}).get("data") or {}).items()}


def bound(world: World, name: str, secret: str = "") -> dict[str, str]:
    """The data of the Secret of a DatabaseUser that is Ready."""
    world.ready("DatabaseUser", name)
    return binding(world, secret or f"{name}-db")


def connect(world: World, data: dict[str, str], *, uri: str = "uri") -> psycopg.Connection[Any]:
    """Log in as an application does: by the URI and the CA of its Secret."""
    return psycopg.connect(data[uri], sslrootcert=str(world.endpoint.ca_path), autocommit=True)


def logs_in(world: World, data: dict[str, str]) -> bool:
    """Whether the Secret's login is let in."""
    try:
        connect(world, data).close()
    except psycopg.OperationalError:
        return False
    return True


def changed(world: World, name: str, before: dict[str, str], key: str = "password") -> dict[str, str]:
    """Wait until the Secret holds another value of ``key``; returns its data."""
    wait_for(lambda: binding(world, name).get(key) not in (None, before[key]))
    return binding(world, name)
