"""What the tests of the MongoDB engine share: engines on the sandbox's server, members of a unit, a log of commands."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from pymongo import monitoring

from selvedge.api.databaseschema import DatabaseSchemaSpec
from selvedge.engines.base import ConnectionLimits, Member, ServerTarget, TlsOptions, Unit
from selvedge.engines.mongodb import MongoEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sandbox import MongoEndpoint
    from selvedge.core.unit import MemberResult

CLUSTER = "11111111-0000-4000-8000-000000000001"
#: For modules with connections that fail or are cancelled: the driver leaves their sockets to the garbage collector.
LEAVES_SOCKETS = [
    pytest.mark.usefixtures("collected"),
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]
DESIGNS = """
collections:
- name: designs
  validator: {$jsonSchema: {bsonType: object, required: [userId, name], properties: {name: {maxLength: 5}}}}
  indexes:
  - {name: userId, keys: [{field: userId}]}
"""
WRITES = {
    "insert",
    "update",
    "delete",
    "findAndModify",
    "create",
    "collMod",
    "createIndexes",
    "dropIndexes",
    "drop",
    "dropDatabase",
}


@dataclass
class Record:
    """An observer that remembers."""

    statements: list[tuple[str, str]] = field(default_factory=list)

    def statement(self, operation: str, seconds: float, error: str = "") -> None:
        assert seconds >= 0
        self.statements.append((operation, error))

    def take(self) -> list[tuple[str, str]]:
        taken, self.statements = self.statements, []
        return taken


class Commands(monitoring.CommandListener):
    """The commands of the engine's client, by name."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.documents: list[dict[str, Any]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.names.append(event.command_name)
        self.documents.append(dict(event.command))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...

    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...

    def writes(self) -> list[str]:
        return [name for name in self.names if name in WRITES]

    def clear(self) -> None:
        self.names.clear()
        self.documents.clear()


def target(mongodb: MongoEndpoint, **changes: Any) -> ServerTarget:
    """The sandbox's server as a DatabaseServer would describe it."""
    tls = TlsOptions("VerifyFull", ca=mongodb.ca) if mongodb.ca else TlsOptions("Disable")
    limits = ConnectionLimits(connect_timeout=20.0)
    found = ServerTarget(((mongodb.host, mongodb.port),), mongodb.username, mongodb.password, tls, limits)
    return replace(found, **changes)


@asynccontextmanager
async def running(where: ServerTarget, observer: Record | None = None) -> AsyncIterator[MongoEngine]:
    """An engine, closed at the end."""
    engine = MongoEngine(where, observer or Record())
    try:
        yield engine
    finally:
        await engine.close()


def quick(**changes: float) -> ConnectionLimits:
    """Limits for servers that do not answer."""
    return replace(ConnectionLimits(connect_timeout=1.0, statement_timeout=2.0, lock_timeout=0.5), **changes)


def member(name: str, database: str, mongodb: str | dict[str, Any], **options: Any) -> Member:
    """A DatabaseSchema; ``mongodb`` is ``spec.mongodb``, as YAML or data. Options of the spec are camelCase."""
    about = {key: options.pop(key) for key in ("verified", "deleting", "uid", "created", "namespace") if key in options}
    declared = yaml.safe_load(mongodb) if isinstance(mongodb, str) else mongodb
    spec = {"serverRef": {"name": "main-mongo"}, "database": database, "mongodb": declared, **options}
    found = Member(f"uid-{name}", "shop", name, 1, "2026-01-01T00:00:00Z", DatabaseSchemaSpec.model_validate(spec))
    return replace(found, **about)


def with_spec(one: Member, **options: Any) -> Member:
    """The member with other options in its spec."""
    return replace(
        one, spec=DatabaseSchemaSpec.model_validate(one.spec.model_dump(mode="json", by_alias=True) | options)
    )


def yes() -> None:
    """Leads, and may write."""


async def converge(engine: MongoEngine, database: str, *members: Member, cluster: str = CLUSTER) -> list[MemberResult]:
    """One pass; the results in the order of the members."""
    result = await engine.converge(Unit(database, members, cluster), yes)
    return [result.members[each.uid] for each in members]
