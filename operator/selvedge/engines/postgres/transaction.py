"""A transaction under the lock of its database: look, change, look again, commit.

Three messages to the server: ``BEGIN; lock; snapshot``, then all changes with the verifying snapshot behind them, then
``COMMIT``. Where the server refuses one of the changes, they are sent again one by one, to name the culprit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

import psycopg
from psycopg import errors as pg
from psycopg import sql

from selvedge.core.errors import NotPermittedError, SelvedgeError, TransientError
from selvedge.core.postgres import changes as c
from selvedge.core.postgres.model import Desired, Snapshot
from selvedge.core.reasons import Reason
from selvedge.engines.postgres.acting import acted, acted_alone, self_grant
from selvedge.engines.postgres.ending import PENDING, end_sessions, find_losers, roles_that_are_lost
from selvedge.engines.postgres.errors import ConcurrentChangeError, is_transient, statement_error
from selvedge.engines.postgres.locks import BEGIN_LOCKED
from selvedge.engines.postgres.looks import (
    ClusterView,
    Look,
    cluster_look,
    database_look,
    parse_cluster,
    parse_database,
)
from selvedge.engines.postgres.remedy import may_create, remedy
from selvedge.engines.postgres.render import create_metadata, render
from selvedge.engines.postgres.retirement import make_heirs
from selvedge.engines.postgres.session import Session
from selvedge.engines.postgres.statements import statements

#: What an extension brought with it can be granted only in a second round of the same transaction.
_ROUNDS = 3


class ChangeFailedError(Exception):
    """The server refused one change; nothing of the transaction stands."""

    def __init__(self, change: c.Change, error: SelvedgeError) -> None:
        super().__init__(error.message)
        self.change = change
        self.error = error


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

    async def snapshot(self, desired: Desired) -> Snapshot:
        """Begin, lock, look. Raises :class:`TransientError` while another session holds the lock."""
        shared = self.session.shared
        look = database_look(desired, self.metadata_schema, shared)
        return parse_database(await self._look(look), self._doing(), look, shared)

    async def cluster(self, roles: Iterable[str], keys: Sequence[str], resources: Sequence[str]) -> ClusterView:
        """Begin, lock, look at the server-wide part, narrowed to what concerns ``keys`` and ``resources``."""
        return parse_cluster(
            await self._look(cluster_look(roles, self.metadata_schema, keys, resources)), self._doing()
        )

    def _doing(self) -> str:
        return f"locking database {self.session.dbname}"

    async def _look(self, look: Look) -> str:
        try:
            return await look.run(self.session, self._doing(), BEGIN_LOCKED)
        except psycopg.Error as error:
            await self.session.rollback()
            raise statement_error(error, self._doing()) from None

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
        look = database_look(desired, self.metadata_schema, self.session.shared)
        made = list(changes)
        rest = made
        for _ in range(_ROUNDS):
            text = await self._apply(rest, before, look)
            before = parse_database(text, self._doing(), look, self.session.shared)
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
        roles: Iterable[str],
        keys: Sequence[str],
        resources: Sequence[str],
        residue: Callable[[ClusterView], list[c.Change]],
        *,
        name_culprit: bool = True,
    ) -> ClusterView:
        """The same for the server-wide part.

        Without ``name_culprit`` a change that the server refused is not looked for: the error is psycopg's.
        """
        if not changes:
            await self.session.rollback()
            return before
        look = cluster_look(roles, self.metadata_schema, keys, resources)
        version = before.snapshot.version
        losing = await find_losers(self.session, roles_that_are_lost(changes), version)
        remember = losing.remember(self.metadata_schema)
        text = await self._apply(changes, before.snapshot, look, remember, name_culprit=name_culprit)
        after = parse_cluster(text, self._doing())
        await self._commit(residue(after))
        if remember and await self._end_sessions(version):
            claims = {name: claim for name, claim in after.snapshot.claims.items() if name != PENDING}
            after = replace(after, snapshot=replace(after.snapshot, claims=claims))
        return after

    async def _end_sessions(self, version: int) -> bool:
        """Whether all are gone. What is left is written down in what was seen: whose it is will tell."""
        try:
            return not await end_sessions(self.session, self.metadata_schema, version, self.may_write)
        except NotPermittedError:
            return False

    async def _apply(
        self,
        changes: Sequence[c.Change],
        before: Snapshot,
        look: Look,
        beside: tuple[sql.Composable, ...] = (),
        *,
        name_culprit: bool = True,
    ) -> str:
        self.may_write()
        prepared: tuple[sql.Composable, ...] = ()
        if not before.has_claims_table:
            prepared = (create_metadata(self.metadata_schema, schema_exists=before.has_metadata_schema),)
        own_right = self_grant(before, self.session.dbname)
        if own_right is not None:
            prepared = (own_right, *prepared)
        prepared += (*beside, *make_heirs(changes, superuser=before.superuser, version=before.version))
        together = self._statements(changes, before)
        doing = f"changing database {self.session.dbname}"
        try:
            return await look.run(self.session, doing, (*prepared, *together), operation="apply", inside=True)
        except psycopg.Error as error:
            if not name_culprit:
                raise
            if is_transient(error) or len(changes) == 1:
                raise self._failure(changes[0] if len(changes) == 1 else None, error, before) from None
        await self.session.rollback()
        return await self._one_by_one(changes, prepared, before, look)

    def _statements(self, changes: Sequence[c.Change], before: Snapshot) -> list[sql.Composable]:
        def bare(some: Sequence[c.Change]) -> list[sql.Composable]:
            database, schema = self.session.dbname, self.metadata_schema
            return statements(some, version=before.version, database=database, metadata_schema=schema)

        return bare(changes) if before.superuser else acted(c.ordered(list(changes)), before, bare)

    async def _one_by_one(
        self, changes: Sequence[c.Change], prepared: tuple[sql.Composable, ...], before: Snapshot, look: Look
    ) -> str:
        try:
            await self.session.run("apply", *BEGIN_LOCKED, *prepared)
        except (pg.DuplicateSchema, pg.DuplicateTable):
            message = f"somebody else made the claims of database {self.session.dbname} meanwhile; tried again"
            raise ConcurrentChangeError(Reason.WAITING_FOR_LOCK, message) from None
        except psycopg.Error as error:
            doing = f"creating schema {self.metadata_schema} for the claims"
            grant = may_create(before.me, self.session.dbname).as_string(None)
            raise statement_error(error, doing, grant) from None
        for change, statement in self._each(changes, before):
            try:
                await self.session.run("apply", statement)
            except psycopg.Error as error:
                raise self._failure(change, error, before) from None
        doing = f"verifying database {self.session.dbname}"
        try:
            return await look.run(self.session, doing, operation="verify", inside=True)
        except psycopg.Error as error:
            raise statement_error(error, doing) from None

    def _each(self, changes: Sequence[c.Change], before: Snapshot) -> list[tuple[c.Change, sql.Composable]]:
        """Each change with its own statement, as whoever may make it."""
        ordered = c.ordered(list(changes))
        if before.superuser:
            return [(change, self._render(change, before.version)) for change in ordered]
        alone = acted_alone(ordered, before, lambda change: self._render(change, before.version))
        return list(zip(ordered, alone, strict=True))

    def _render(self, change: c.Change, version: int) -> sql.Composable:
        return render(change, version=version, database=self.session.dbname, metadata_schema=self.metadata_schema)

    def _failure(self, change: c.Change | None, error: psycopg.Error, before: Snapshot) -> Exception:
        if change is None or is_transient(error):
            return statement_error(error, f"changing database {self.session.dbname}")
        if isinstance(change, c.CreateExtension):
            self.session.shared.extensions.clear()  # its package may have gone or changed
        if isinstance(change, c.BOOKKEEPING):
            return statement_error(error, f"writing the claims of database {self.session.dbname}")
        needed = remedy(change, before.me, before.version, self.session.dbname)
        return ChangeFailedError(change, statement_error(error, f"{_doing(change)} for {change.ref}", needed))

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

    async def create_database(self, change: c.CreateDatabase, before: Snapshot) -> None:
        """CREATE DATABASE, which runs in no transaction; the claim was committed before.

        Raises :class:`ChangeFailedError`. One that exists by now is no error: the claim is ours.
        """
        self.may_write()
        try:
            await self.session.run("apply", self._render(change, before.version))
        except psycopg.Error as error:
            if error.sqlstate == "42P04":
                return
            if error.sqlstate == "55006":
                message = f"creating database {change.database} waits: another session uses the template"
                raise TransientError(Reason.WAITING_FOR_LOCK, message) from None
            raise self._failure(change, error, before) from None


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
