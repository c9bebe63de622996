"""Looking at a server: one statement, or three where the server's query_to_xml cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import cast

import psycopg
from psycopg import errors as pg
from psycopg import sql

from selvedge.core.postgres.model import Claim, Desired, Snapshot
from selvedge.core.reasons import Reason
from selvedge.engines.postgres.errors import ConcurrentChangeError, statement_error
from selvedge.engines.postgres.session import Session, Shared
from selvedge.engines.postgres.snapshot import (
    claims_statement,
    cluster_statement,
    database_statement,
    parse_databases,
    parse_snapshot,
    parse_trust,
    trust_statement,
)


@dataclass(frozen=True, slots=True)
class ClusterView:
    """What the maintenance database shows: claims and roles in ``snapshot``, and the databases that exist."""

    snapshot: Snapshot
    databases: frozenset[str]


class Look:
    """What is looked at: a whole database, or the server-wide part.

    ``schema`` is the operator's own; ``installed`` are extensions that were not asked for, since they are known.
    """

    def __init__(
        self,
        schema: str,
        statement: Callable[[str | None], sql.Composable],
        claims: sql.Composable,
        installed: Mapping[str, str | None] | None = None,
    ) -> None:
        self.schema = schema
        self.installed = installed or {}
        self._statement = statement
        self._claims = claims

    @property
    def statement(self) -> sql.Composable:
        """All in one."""
        return self._statement(None)

    async def run(
        self,
        session: Session,
        doing: str,
        before: tuple[sql.Composable, ...] = (),
        *,
        operation: str = "snapshot",
        inside: bool = False,
    ) -> str:
        """The answer's text; ``before`` goes in the same message. ``doing`` is for errors.

        ``inside`` says that a transaction is open in which something was changed: it cannot be looked at in another
        way then, and has to be made again. Raises psycopg's errors, :class:`RefusedError` where somebody else owns the
        claims, and ``ConcurrentChangeError`` for what has to be made again.
        """
        if not session.shared.reads_xml:
            return await self._in_parts(session, doing, before, operation)
        try:
            return _text(await session.run(operation, *before, self._statement(None)))
        except (pg.FeatureNotSupported, pg.InsufficientPrivilege):
            if inside and before:
                raise  # a change may have been refused, and the look never made
        await session.rollback()
        if inside:
            session.shared.reads_xml = False
            message = f"{doing} is made again: query_to_xml cannot be used on this server"
            raise ConcurrentChangeError(Reason.NOT_CONVERGED, message)
        text = await self._in_parts(session, doing, before, operation)
        session.shared.reads_xml = False  # since it was that, and no privilege that is missing in either way
        return text

    async def _in_parts(self, session: Session, doing: str, before: tuple[sql.Composable, ...], operation: str) -> str:
        text = _text(await session.run(operation, *before, trust_statement(self.schema)))
        _, exist = parse_trust(text, doing)
        claims = _text(await session.run(operation, self._claims)) if exist else None
        return _text(await session.run(operation, self._statement(claims or "")))


def database_look(desired: Desired, metadata_schema: str, shared: Shared) -> Look:
    """One database, as far as it matters for ``desired``."""
    schemas = desired.schema_names() | {"public"}
    installed = dict(shared.installed())
    return Look(
        metadata_schema,
        lambda claims: database_statement(desired, schemas, metadata_schema, claims, installed=installed),
        claims_statement(metadata_schema),
        installed,
    )


def cluster_look(
    roles: Iterable[str], metadata_schema: str, keys: Iterable[str] | None = None, resources: Iterable[str] = ()
) -> Look:
    """The server-wide part, all of it or what concerns ``keys`` and ``resources``."""
    return Look(
        metadata_schema,
        lambda claims: cluster_statement(roles, metadata_schema, claims, keys=keys, resources=resources),
        claims_statement(metadata_schema, keys, resources),
    )


async def read_snapshot(session: Session, desired: Desired, metadata_schema: str) -> Snapshot:
    """The snapshot of a database without a lock; raises our errors."""
    doing = f"looking at database {session.dbname}"
    try:
        look = database_look(desired, metadata_schema, session.shared)
        text = await look.run(session, doing)
    except psycopg.Error as error:
        raise statement_error(error, doing) from None
    return parse_database(text, doing, look, session.shared)


def parse_database(text: str, doing: str, look: Look, shared: Shared) -> Snapshot:
    """The answer of a database's look; what it says of extensions is remembered for other databases."""
    snapshot = parse_snapshot(text, doing, look.installed)
    new = {name: schema for name, schema in snapshot.available.items() if name not in look.installed}
    shared.installed().update(new)
    return snapshot


async def read_cluster(session: Session, metadata_schema: str) -> ClusterView:
    """All claims and databases of the server, without a lock; raises our errors."""
    doing = "reading the claims in the maintenance database"
    try:
        text = await cluster_look((), metadata_schema).run(session, doing)
    except psycopg.Error as error:
        raise statement_error(error, doing) from None
    return parse_cluster(text, doing)


def parse_cluster(text: str, doing: str) -> ClusterView:
    """The answer of a cluster's look."""
    return ClusterView(parse_snapshot(text, doing), parse_databases(text))


def _text(results: list[list[tuple[object, ...]]]) -> str:
    return cast("str", results[-1][0][0])


class ServerBook:
    """All claims and databases of a server as they were last seen, for passes that only look.

    A unit is shown what concerns it alone: a server with a thousand databases has thousands of claims.
    """

    def __init__(self, view: ClusterView) -> None:
        self._snapshot = replace(view.snapshot, claims={})
        self._databases = set(view.databases)
        self._claims: dict[str, Claim] = {}
        self._of_resource: dict[str, set[str]] = {}
        self._add(view.snapshot.claims)

    def take(self, newer: ClusterView, keys: Iterable[str], resources: Iterable[str]) -> None:
        """Take over what a newer look knows better, which was narrowed to ``keys`` and ``resources``."""
        keys = tuple(keys)
        for name in {*keys, *(name for one in resources for name in self._of_resource.get(one, ()))}:
            claim = self._claims.pop(name, None)
            if claim is not None:
                self._of_resource[claim.resource].discard(name)
        self._add(newer.snapshot.claims)
        self._databases -= {key.removeprefix("database:") for key in keys if key.startswith("database:")}
        self._databases |= newer.databases

    def shown(self, keys: Iterable[str], resources: Iterable[str]) -> ClusterView:
        """What concerns these objects and resources."""
        keys = tuple(keys)
        names = {*keys, *(name for one in resources for name in self._of_resource.get(one, ()))}
        claims = {name: self._claims[name] for name in sorted(names) if name in self._claims}
        databases = {key.removeprefix("database:") for key in keys if key.startswith("database:")}
        return ClusterView(replace(self._snapshot, claims=claims), frozenset(databases & self._databases))

    def made(self, database: str) -> None:
        """Remember a database that exists by now."""
        self._databases.add(database)

    def _add(self, claims: Mapping[str, Claim]) -> None:
        for name, claim in claims.items():
            before = self._claims.get(name)
            if before is not None:
                self._of_resource[before.resource].discard(name)
            self._claims[name] = claim
            self._of_resource.setdefault(claim.resource, set()).add(name)
