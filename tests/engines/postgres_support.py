"""What the tests of the Postgres engine share: an engine on a real server, and a short way to declare things."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg

from sandbox import PostgresEndpoint
from selvedge.api.databaseschema import DatabaseSchemaSpec
from selvedge.core.unit import MemberResult, UnitResult
from selvedge.engines.base import ConnectionLimits, Member, ServerTarget, TlsOptions, Unit
from selvedge.engines.postgres.engine import PostgresEngine


def cluster() -> str:
    """A Kubernetes cluster for each test: tests share servers, and a resource's claims reach over its databases.

    Child processes of a test inherit the variable, so they are of the same cluster.
    """
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, os.environ["PYTEST_CURRENT_TEST"].rpartition(" (")[0]))


@dataclass(slots=True)
class Count:
    """An observer that writes down the messages that were sent."""

    operations: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def statement(self, operation: str, seconds: float, error: str = "") -> None:
        self.operations.append(operation)
        if error:
            self.errors.append(error)

    def taken(self) -> list[str]:
        """The operations since the last call."""
        found, self.operations = self.operations, []
        return found


def target(endpoint: PostgresEndpoint, **changes: Any) -> ServerTarget:
    """The administrator's target; ``limits`` and everything else can be given."""
    known: dict[str, Any] = {
        "hosts": ((endpoint.host, endpoint.port),),
        "username": endpoint.username,
        "password": endpoint.password,
        "tls": TlsOptions("VerifyFull" if endpoint.ca_path else "Disable", endpoint.ca),
        "limits": limits(),
    }
    return ServerTarget(**{**known, **changes})


def limits(**changes: Any) -> ConnectionLimits:
    """Patient: other tests' operators hold the server-wide lock too. A test that holds a lock itself has less."""
    patient = ConnectionLimits(max=4, connect_timeout=20.0, statement_timeout=20.0, lock_timeout=15.0)
    return replace(patient, **changes)


@asynccontextmanager
async def engine(endpoint: PostgresEndpoint, **changes: Any) -> AsyncIterator[PostgresEngine]:
    """An engine on this server, closed at the end."""
    one = PostgresEngine(target(endpoint, **changes), Count())
    try:
        yield one
    finally:
        await one.close()


def count(one: PostgresEngine) -> Count:
    observer = one.pool._observer
    assert isinstance(observer, Count)
    return observer


async def afresh(one: PostgresEngine) -> None:
    """Begin to count: the engine's view of the whole server is new, so the next passes do not have to read it again."""
    await one.view((), (), fresh=True)
    count(one).taken()


def member(database: str, postgres: dict[str, Any] | None = None, *, name: str = "shop", **fields: Any) -> Member:
    """A DatabaseSchema; ``fields`` of a Member, and everything else of its spec in the manifest's words."""
    known = {
        "uid": fields.pop("uid", str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{database}/{name}"))),
        "namespace": fields.pop("namespace", "shop"),
        "generation": fields.pop("generation", 1),
        "created": fields.pop("created", "2026-01-01T00:00:00Z"),
        "verified": fields.pop("verified", False),
        "deleting": fields.pop("deleting", False),
    }
    spec = DatabaseSchemaSpec.model_validate(
        {"serverRef": {"name": "main"}, "database": database, "postgres": postgres or {}, **fields}
    )
    return Member(name=name, spec=spec, **known)


def unit(*members: Member, **fields: Any) -> Unit:
    return Unit(members[0].spec.database, members, fields.pop("cluster", "") or cluster(), **fields)


def lead() -> None:
    """``may_write`` of a process that leads."""


async def converge(one: PostgresEngine, *members: Member, **fields: Any) -> UnitResult:
    return await one.converge(unit(*members, **fields), lead)


async def only(one: PostgresEngine, single: Member, **fields: Any) -> MemberResult:
    """Converge a unit of one member."""
    return (await converge(one, single, **fields)).members[single.uid]


async def ready(one: PostgresEngine, single: Member, **fields: Any) -> MemberResult:
    """Converge a unit of one member, which has to be verified then."""
    result = await only(one, single, **fields)
    assert result.verified, (result.problems, result.pending)
    return result


def reasons(result: MemberResult) -> dict[str, str]:
    """The reason of each problem, by object."""
    return {str(status.ref): str(status.reason.value) for status in result.problems}


def rows(endpoint: PostgresEndpoint, query: str, *parameters: Any, dbname: str = "postgres") -> list[tuple[Any, ...]]:
    with endpoint.connect(dbname) as connection:
        return connection.execute(query.encode(), parameters or None).fetchall()


def run(endpoint: PostgresEndpoint, statements: str, dbname: str = "postgres") -> None:
    with endpoint.connect(dbname) as connection:
        connection.execute(statements.encode())


def ended(connection: psycopg.Connection[Any]) -> bool:
    """Whether the server ended the session; its farewell may need a moment."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            connection.execute("SELECT pg_sleep(0.02)")
        except psycopg.OperationalError:
            return True
    return False
