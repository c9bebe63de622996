"""What the tests of logins share: accounts, and what it needs to try them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import psycopg

from sandbox import PostgresEndpoint
from selvedge.core.unit import ObjectRef
from selvedge.core.users import Account, LoginResult, RoleRef, resource_of
from selvedge.engines.postgres.engine import PostgresEngine
from tests.engines.postgres_support import cluster, lead


def account(database: str, password: str = "correct-horse-7", *, name: str = "app", **fields: Any) -> Account:  # noqa: S107 - no password of anything
    """An account with one login; its base is the database's name and ``_`` and ``name``."""
    base = f"{database}_{name}"
    known: dict[str, Any] = {
        "resource": resource_of("shop", base),
        "uid": str(uuid.uuid5(uuid.NAMESPACE_DNS, base)),
        "cluster": cluster(),
        "database": database,
        "base": base,
        "current": base,
        "password": password,
        "roles": tuple(RoleRef(role) for role in fields.pop("roles", ())),
    }
    return Account(**{**known, **fields})


async def converge(
    one: PostgresEngine, wanted: Account, *, alive: bool = True, told: list[ObjectRef] | None = None
) -> LoginResult:
    async def tell(refs: Sequence[ObjectRef]) -> None:
        if told is not None:
            told.extend(refs)

    return await one.logins().converge(wanted, lead, alive=lambda _: alive, on_drift=tell)


def login(endpoint: PostgresEndpoint, username: str, password: str, dbname: str) -> psycopg.Connection[Any]:
    """A session of an application. Raises OperationalError where it is not let in."""
    return psycopg.connect(
        host=endpoint.host,
        port=endpoint.port,
        dbname=dbname,
        user=username,
        password=password,
        sslmode="verify-full" if endpoint.ca_path else "prefer",
        sslrootcert=str(endpoint.ca_path) if endpoint.ca_path else "",
        autocommit=True,
    )


def logs_in(endpoint: PostgresEndpoint, username: str, password: str, dbname: str) -> bool:
    """Whether this login is let into the database."""
    try:
        login(endpoint, username, password, dbname).close()
    except psycopg.OperationalError:
        return False
    return True
