"""A transaction under the lock of its database: look, change, look again, commit.

Three messages to the server: ``BEGIN; lock; snapshot``, then all changes with the verifying snapshot behind them, then
``COMMIT``. Where the server refuses one of the changes, they are sent again one by one, to name the culprit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self, cast

import psycopg
from psycopg import sql

from selvedge.core.errors import RefusedError, SelvedgeError, TransientError
from selvedge.core.postgres import changes as c
from selvedge.core.postgres.model import Desired, Snapshot
from selvedge.core.reasons import Reason
from selvedge.engines.postgres.connections import Session
from selvedge.engines.postgres.errors import is_transient, statement_error
from selvedge.engines.postgres.render import create_metadata, render
from selvedge.engines.postgres.snapshot import (
    UNTRUSTED,
    cluster_statement,
    database_statement,
    guard_statement,
    parse_databases,
    parse_snapshot,
)

#: One constant for every database, never derived from a resource's name: two resources must meet at one lock. The
#: letters "selvedge" as a bigint, to be recognised in pg_locks.
LOCK_KEY = int.from_bytes(b"selvedge")

#: What an extension brought with it can be granted only in a second round of the same transaction.
_ROUNDS = 3

_MISSING_TABLE = ("42P01", "3F000")


class ChangeFailedError(Exception):
    """The server refused one change; nothing of the transaction stands."""

    def __init__(self, change: c.Change, error: SelvedgeError) -> None:
        super().__init__(error.message)
        self.change = change
        self.error = error


@dataclass(frozen=True, slots=True)
class ClusterView:
    """What the maintenance database shows: claims and roles in ``snapshot``, and the databases that exist."""

    snapshot: Snapshot
    databases: frozenset[str]

    def merged(self, newer: ClusterView, keys: Sequence[str], resources: Sequence[str]) -> ClusterView:
        """This view with what a newer one knows better, which was narrowed to ``keys`` and ``resources``."""
        claims = {
            name: claim
            for name, claim in self.snapshot.claims.items()
            if name not in keys and claim.resource not in resources
        }
        snapshot = replace(newer.snapshot, claims={**claims, **newer.snapshot.claims})
        gone = {key.removeprefix("database:") for key in keys if key.startswith("database:")}
        return ClusterView(snapshot, (self.databases - gone) | newer.databases)


async def read_snapshot(session: Session, desired: Desired, metadata_schema: str | None) -> Snapshot:
    """The snapshot of a database without a lock. Where the claims table does not exist, it is asked for no more.

    Raises :class:`RefusedError` where somebody else owns the claims.
    """
    schemas = desired.schema_names() | {"public"}
    guard = [guard_statement(metadata_schema)] if metadata_schema is not None else []
    try:
        rows = await session.run("snapshot", *guard, database_statement(desired, schemas, metadata_schema))
    except psycopg.Error as error:
        if metadata_schema is not None and error.sqlstate in _MISSING_TABLE:
            return await read_snapshot(session, desired, None)
        raise _look_error(error, f"looking at database {session.dbname}") from None
    return parse_snapshot(_text(rows), has_claims_table=metadata_schema is not None)


async def read_cluster(session: Session, metadata_schema: str | None, roles: Sequence[str]) -> ClusterView:
    """All claims and databases of the server, without a lock."""
    guard = [guard_statement(metadata_schema)] if metadata_schema is not None else []
    try:
        rows = await session.run("snapshot", *guard, cluster_statement(roles, metadata_schema))
    except psycopg.Error as error:
        if metadata_schema is not None and error.sqlstate in _MISSING_TABLE:
            return await read_cluster(session, None, roles)
        raise _look_error(error, "reading the claims in the maintenance database") from None
    snapshot = parse_snapshot(_text(rows), has_claims_table=metadata_schema is not None)
    return ClusterView(snapshot, parse_databases(_text(rows)))


def _look_error(error: psycopg.Error, doing: str) -> SelvedgeError:
    """The error for a look; the guard's is told by its text, which no other cast can have."""
    text = error.diag.message_primary or ""
    if error.sqlstate == "22P02" and UNTRUSTED in text:
        owner = text.partition(UNTRUSTED)[2].rstrip('"')
        message = (
            f"{doing} was stopped: role {owner} owns the operator's schema or its table claims there, and could have "
            "the operator run its code; drop it, or give schema and table to the operator's login"
        )
        return RefusedError(Reason.CONFLICT, message)
    return statement_error(error, doing)


def _text(results: list[list[tuple[object, ...]]]) -> str:
    return cast("str", results[-1][0][0])


def _guarded(results: list[list[tuple[object, ...]]]) -> tuple[bool, bool]:
    """Whether the operator's schema exists, and its claims: the guard's answer stands before the snapshot's."""
    schema, claims = results[-2][0]
    return bool(schema), bool(claims)


class Transaction:
    """``async with`` begins nothing yet: the first look does, and leaving the block ends it."""

    def __init__(self, session: Session, metadata_schema: str, may_write: Callable[[], None]) -> None:
        self.session = session
        self.metadata_schema = metadata_schema
        self.may_write = may_write

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.session.rollback()

    def _begin(self) -> tuple[sql.Composable, ...]:
        lock = sql.SQL("SELECT pg_catalog.pg_advisory_xact_lock({})").format(sql.Literal(LOCK_KEY))
        return (sql.SQL("BEGIN"), lock)

    async def snapshot(self, desired: Desired, metadata_schema: str | None) -> Snapshot:
        """Begin, lock, look. Raises :class:`TransientError` while another session holds the lock."""
        schemas = desired.schema_names() | {"public"}
        statement = database_statement(desired, schemas, metadata_schema)
        try:
            rows = await self.session.run("snapshot", *self._begin(), guard_statement(self.metadata_schema), statement)
        except psycopg.Error as error:
            await self.session.rollback()
            if metadata_schema is not None and error.sqlstate in _MISSING_TABLE:
                return await self.snapshot(desired, None)
            raise _look_error(error, f"locking database {self.session.dbname}") from None
        schema_exists, claims_exist = _guarded(rows)
        if claims_exist and metadata_schema is None:
            await self.session.rollback()  # somebody made them since they were looked for without the lock
            return await self.snapshot(desired, self.metadata_schema)
        return parse_snapshot(
            _text(rows), has_claims_table=metadata_schema is not None, has_metadata_schema=schema_exists
        )

    async def cluster(
        self, roles: frozenset[str], keys: Sequence[str], resources: Sequence[str], *, with_claims: bool = True
    ) -> ClusterView:
        """Begin, lock, look at the server-wide part, narrowed to what concerns ``keys`` and ``resources``."""
        schema = self.metadata_schema if with_claims else None
        statement = cluster_statement(roles, schema, keys=keys, resources=resources)
        try:
            rows = await self.session.run("snapshot", *self._begin(), guard_statement(self.metadata_schema), statement)
        except psycopg.Error as error:
            await self.session.rollback()
            if with_claims and error.sqlstate in _MISSING_TABLE:
                return await self.cluster(roles, keys, resources, with_claims=False)
            raise _look_error(error, f"locking database {self.session.dbname}") from None
        schema_exists, claims_exist = _guarded(rows)
        if claims_exist and not with_claims:
            await self.session.rollback()
            return await self.cluster(roles, keys, resources)
        snapshot = parse_snapshot(_text(rows), has_claims_table=with_claims, has_metadata_schema=schema_exists)
        return ClusterView(snapshot, parse_databases(_text(rows)))

    async def apply(
        self,
        changes: Sequence[c.Change],
        before: Snapshot,
        desired: Desired,
        residue: Callable[[Snapshot], list[c.Change]],
    ) -> Snapshot:
        """Make the changes, verify, commit, and return what stands now.

        Raises :class:`ChangeFailedError` for a change that the server refused and :class:`TransientError` with
        ``NotConverged`` when something is left to do; nothing stands then.
        """
        verify = database_statement(desired, desired.schema_names() | {"public"}, self.metadata_schema)
        made = list(changes)
        rest = made
        for _ in range(_ROUNDS):
            before = parse_snapshot(await self._apply(rest, before, verify), has_claims_table=True)
            rest = residue(before)
            if not rest or any(change in made for change in rest):
                break  # done, or a change did not hold: another round would only repeat it
            made += rest
        await self._commit(rest)
        return before

    async def apply_cluster(
        self,
        changes: Sequence[c.Change],
        before: ClusterView,
        desired: Desired,
        keys: Sequence[str],
        resources: Sequence[str],
        residue: Callable[[ClusterView], list[c.Change]],
    ) -> ClusterView:
        """The same for the server-wide part."""
        if not changes:
            await self.session.rollback()
            return before
        verify = cluster_statement(desired.role_names(), self.metadata_schema, keys=keys, resources=resources)
        text = await self._apply(changes, before.snapshot, verify)
        after = ClusterView(parse_snapshot(text, has_claims_table=True), parse_databases(text))
        await self._commit(residue(after))
        return after

    async def _apply(self, changes: Sequence[c.Change], before: Snapshot, verify: sql.Composable) -> str:
        self.may_write()
        prepared = []
        if not before.has_claims_table:
            prepared.append(create_metadata(self.metadata_schema, schema_exists=before.has_metadata_schema))
        rendered = [self._render(change, before.version) for change in changes]
        try:
            return _text(await self.session.run("apply", *prepared, *rendered, verify))
        except psycopg.Error as error:
            if is_transient(error) or len(changes) == 1:
                raise self._failure(changes[0] if len(changes) == 1 else None, error) from None
        await self.session.rollback()
        return await self._one_by_one(changes, prepared, rendered, verify)

    async def _one_by_one(
        self,
        changes: Sequence[c.Change],
        prepared: Sequence[sql.Composable],
        rendered: Sequence[sql.Composable],
        verify: sql.Composable,
    ) -> str:
        try:
            await self.session.run("apply", *self._begin(), *prepared)
        except psycopg.Error as error:
            raise statement_error(error, f"creating schema {self.metadata_schema} for the claims") from None
        for change, statement in zip(changes, rendered, strict=True):
            try:
                await self.session.run("apply", statement)
            except psycopg.Error as error:
                raise self._failure(change, error) from None
        return _text(await self.session.run("verify", verify))

    def _render(self, change: c.Change, version: int) -> sql.Composable:
        return render(change, version=version, database=self.session.dbname, metadata_schema=self.metadata_schema)

    def _failure(self, change: c.Change | None, error: psycopg.Error) -> Exception:
        if change is None or is_transient(error):
            return statement_error(error, f"changing database {self.session.dbname}")
        if isinstance(change, c.BOOKKEEPING):
            return statement_error(error, f"writing the claims of database {self.session.dbname}")
        return ChangeFailedError(change, statement_error(error, f"{_doing(change)} for {change.ref}"))

    async def _commit(self, residue: list[c.Change]) -> None:
        if residue:
            await self.session.rollback()
            names = ", ".join(sorted({f"{change.ref} ({type(change).__name__})" for change in residue})[:5])
            message = (
                f"the changes were made and database {self.session.dbname} still differs: {names}; all was undone. "
                "an event trigger or another session may be putting it back"
            )
            raise TransientError(Reason.NOT_CONVERGED, message)
        try:
            await self.session.run("apply", sql.SQL("COMMIT"))
        except psycopg.Error as error:
            raise statement_error(error, f"committing to database {self.session.dbname}") from None

    async def create_database(self, change: c.CreateDatabase, version: int) -> None:
        """CREATE DATABASE, which runs in no transaction; the claim was committed before.

        Raises :class:`ChangeFailedError`. One that exists by now is no error: the claim is ours.
        """
        self.may_write()
        try:
            await self.session.run("apply", self._render(change, version))
        except psycopg.Error as error:
            if error.sqlstate == "42P04":
                return
            if error.sqlstate == "55006":
                message = f"creating database {change.database} waits: another session uses the template"
                raise TransientError(Reason.WAITING_FOR_LOCK, message) from None
            raise self._failure(change, error) from None


_DOING = {
    c.CreateRole: "CREATE ROLE",
    c.CreateDatabase: "CREATE DATABASE",
    c.CreateExtension: "CREATE EXTENSION",
    c.CreateSchema: "CREATE SCHEMA",
    c.DropRole: "DROP ROLE",
    c.DropSchema: "DROP SCHEMA",
    c.GrantPrivileges: "GRANT",
    c.RevokePrivileges: "REVOKE",
    c.GrantRole: "GRANT",
    c.RevokeRole: "REVOKE",
    c.RevokeAdminOption: "REVOKE",
}


def _doing(change: c.Change) -> str:
    return _DOING.get(type(change), "ALTER")
