"""What ``reconcile`` asks of an engine, whichever server is behind it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from selvedge.core.figures import ServerFigures
from selvedge.core.unit import ObjectRef, UnitResult
from selvedge.engines.logins import Logins
from selvedge.migrate.protocol import MigrationSession

if TYPE_CHECKING:
    # `selvedge migrate` needs none of the models, and they take longer to import than everything else together
    from selvedge.api.databaseschema import DatabaseSchemaSpec


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """How a connection is encrypted; certificates and keys are PEM text, never paths."""

    mode: str = "VerifyFull"
    ca: str = ""
    client_certificate: str = ""
    client_key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """``spec.connections`` in seconds; ``max`` counts every connection of the operator to the server."""

    max: int = 10
    idle_timeout: float = 30.0
    max_lifetime: float = 3600.0
    acquire_timeout: float = 30.0
    connect_timeout: float = 5.0
    statement_timeout: float = 30.0
    lock_timeout: float = 3.0


@dataclass(frozen=True, slots=True)
class ServerTarget:
    """A DatabaseServer with its Secrets read: all that is needed to log in."""

    hosts: tuple[tuple[str, int], ...]
    username: str
    password: str = field(repr=False)
    tls: TlsOptions = TlsOptions()
    limits: ConnectionLimits = ConnectionLimits()
    read_replicas: tuple[tuple[str, int], ...] = ()
    maintenance_database: str = "postgres"
    auth_source: str = "admin"
    replica_set: str = ""
    read_preference: str = "PrimaryPreferred"
    srv: bool = False


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """One read replica: ``state`` is Streaming, Reachable or Unreachable."""

    host: str
    state: str


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a probe learned. ``missing_privileges`` are the statements that an administrator has to run."""

    version: str
    role: str
    system_identifier: str
    replicas: tuple[ReplicaState, ...] = ()
    capabilities: tuple[str, ...] = ()
    missing_privileges: tuple[str, ...] = ()
    figures: ServerFigures = field(default_factory=ServerFigures)


@dataclass(frozen=True, slots=True)
class Member:
    """One DatabaseSchema of a unit of work.

    ``verified`` says that this generation was Ready before, so that a difference found now is drift. ``deleting``
    members take part in the compilation as absent: what only they made is removed. ``deciding`` names the fields that
    say what ``spec.destructive`` is here: the resource's own, its DatabaseServer's floor, or both.
    """

    uid: str
    namespace: str
    name: str
    generation: int
    created: str
    spec: DatabaseSchemaSpec
    verified: bool = False
    deleting: bool = False
    deciding: str = "spec.destructive"

    @property
    def refuses(self) -> str:
        """The field by which no approval lets data be lost, for messages; empty where none does."""
        return self.deciding if self.spec.destructive.value == "Refuse" else ""


@dataclass(frozen=True, slots=True)
class Unit:
    """All DatabaseSchemas on one database of one server, and the uid of the Kubernetes cluster that they live in.

    ``alive`` says whether a DatabaseSchema (namespace/name) still exists: the claims of one that is gone bind nobody.
    ``on_drift`` is told by member uid what drifted. An engine awaits it at most once in a call of ``converge``, when
    drift was found and before the first write that repairs it; never for a plan, nor where nothing will be written. It
    may take long, and what it raises ends the call before anything was repaired.
    """

    database: str
    members: tuple[Member, ...]
    cluster: str
    access: Callable[[Member], AccessRule] | None = None
    alive: Callable[[str], bool] | None = None
    on_drift: Callable[[Mapping[str, frozenset[ObjectRef]]], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class AccessRule:
    """What a member's namespace may use on this server: glob patterns, as in ``DatabaseServer.spec.access``."""

    databases: tuple[str, ...] = ("*",)
    role_prefixes: tuple[str, ...] = ("",)
    extensions: tuple[str, ...] = ("*",)


class Observer(Protocol):
    """Receives the duration of every statement that an engine sends; telemetry implements it."""

    def statement(self, operation: str, seconds: float, error: str = "") -> None:
        """Record one statement: ``operation`` is probe, snapshot, apply …; ``error`` an SQLSTATE class or code."""


class Engine(Protocol):
    """One server, with its connections. All methods raise the errors of ``core/errors.py`` and no driver's."""

    async def probe(self) -> ServerFacts:
        """Log in and look: version, role, capabilities, what the login may not do."""
        ...

    async def converge(self, unit: Unit, may_write: Callable[[], None]) -> UnitResult:
        """Make one database what its members declare: inspect, diff, plan, apply, verify.

        ``may_write`` is called after the lock in the database is held and right before the first write of every
        transaction; it raises when this process does not lead any more. What matches costs one round trip and
        writes nothing. Errors that concern the whole unit are raised; those of one object stand in the result.
        """
        ...

    async def plan(self, unit: Unit) -> UnitResult:
        """What :meth:`converge` would do now, as ``pending``; writes nothing."""
        ...

    async def remove(self, unit: Unit, may_write: Callable[[], None]) -> UnitResult:
        """Take away what only the unit's ``deleting`` members made; the other members' objects are left alone."""
        ...

    def migrations(
        self,
        database: str,
        *,
        run_as: str = "",
        owner: str = "",
        run: str = "",
        closed: Iterable[tuple[str, str]] = (),
        login: tuple[str, str] | None = None,
        scope: str = "",
    ) -> AbstractAsyncContextManager[MigrationSession]:
        """A session of the database's migrator, never of the administrator, for one run (a resource's uid).

        ``run_as`` and ``owner`` are roles of a Postgres database; MongoDB has none. ``closed`` are tables (schema and
        name) that get row-level security in the transaction that makes them. ``login`` is a user name with its
        password that the migrations run as instead of the migrator. ``scope`` is a schema that they run in, with a
        history of its own; Postgres only.
        """
        ...

    def logins(self) -> Logins:
        """The logins of DatabaseUsers on this server."""
        ...

    def connections(self) -> dict[str, int]:
        """Connections that are open now, by state: active, idle, waiting."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...
