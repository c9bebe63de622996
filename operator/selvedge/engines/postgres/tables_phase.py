"""Making what is kept on tables: triggers, views, partitions. A short transaction for each table.

Triggers and views are made by the administrator: nothing of theirs is evaluated by that. Making a partition evaluates
the constraints and index expressions of its table, which call functions that anybody may have written: that is done by
a restricted login that became the table's owner. Nothing waits for a lock for long, and what could not be made is
tried again by the next pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from selvedge.core.errors import ConflictError, InvalidError, NotPermittedError, RefusedError
from selvedge.core.own_roles import PARTITIONS
from selvedge.core.postgres.audit_changes import MakeLog
from selvedge.core.postgres.change import Change, Problem
from selvedge.core.postgres.model import Snapshot
from selvedge.core.postgres.partition_changes import CreatePartition, DropPartitions, FinalizeDetach, FinishDrop
from selvedge.core.postgres.partitions import PartitionedTable
from selvedge.core.postgres.rights import quoted
from selvedge.core.postgres.tables import DesiredTables, LiveTables
from selvedge.core.postgres.triggers import OnTable, PutFunction, Table
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectState, ObjectStatus
from selvedge.engines.postgres.audit_sql import let_write
from selvedge.engines.postgres.errors import is_connection_lost, statement_error
from selvedge.engines.postgres.locks import lock_statement
from selvedge.engines.postgres.partitions_phase import Close, Send, detach_and_drop, is_attached
from selvedge.engines.postgres.restricted_login import RestrictedLogin
from selvedge.engines.postgres.tables_acting import Statements, added_rights
from selvedge.engines.postgres.tables_render import render_table_change

if TYPE_CHECKING:
    from selvedge.engines.postgres.engine import PostgresEngine

#: As for policies: whoever waits for a lock has everybody behind him wait too.
_LOCK_TIMEOUT = "500ms"
_LIMIT = 60.0
_SETTINGS = {
    "search_path": "pg_catalog",
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "statement_timeout": "20s",
    "lock_timeout": _LOCK_TIMEOUT,
}

_LASTING = (ConflictError, InvalidError, NotPermittedError, RefusedError)
_AS_OWNER = (CreatePartition, DropPartitions, FinalizeDetach, FinishDrop)
_UNCHANGED = "nothing was changed, and it is tried again by itself"
_BEGUN = (
    "once it is marked no query sees the partition any more, and the next pass takes it away when those that began "
    "before have ended"
)
_GRANTEES = sql.SQL("""
SELECT e.grantee, pg_catalog.pg_get_userbyid(e.grantee) FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) e
 WHERE c.oid = pg_catalog.to_regclass({}) AND e.grantee <> c.relowner GROUP BY 1, 2
""")


class Tables:
    """What is kept on the tables of one unit, through all passes of one call."""

    def __init__(self, engine: PostgresEngine, database: str, may_write: Callable[[], None]) -> None:
        self.engine = engine
        self.database = database
        self.may_write = may_write
        self._failed: dict[Change, Problem] = {}
        self._dropped: set[Table] = set()

    def possible(self, changes: Sequence[Change]) -> list[Change]:
        """The changes without those that failed in this call; a call takes one partition of a table away, not more."""
        return [change for change in changes if change not in self._failed and not self._enough(change)]

    def _enough(self, change: Change) -> bool:
        return isinstance(change, DropPartitions) and not change.shorter and change.table in self._dropped

    def problems(self, changes: Sequence[Change]) -> list[Problem]:
        """What failed of these changes, and why."""
        return [self._failed[change] for change in changes if change in self._failed]

    async def make(self, changes: Sequence[OnTable], snapshot: Snapshot, desired: DesiredTables | None) -> list[Change]:
        """Make the changes; returns those that stand. What fails becomes a problem of its object."""
        live = snapshot.tables
        if live is None:
            return []
        auditors = {audit.owner for audit in desired.audits} if desired is not None else set()
        groups: dict[tuple[str, Table], list[OnTable]] = {}
        # A function stands before the triggers that call it, on whichever table.
        for change in sorted(changes, key=lambda change: not isinstance(change, PutFunction)):
            groups.setdefault((_owner(change, live, auditors), change.table), []).append(change)
        made: list[Change] = []
        async with self.engine.pool.session(self.database) as admin:

            async def send(statement: sql.Composable) -> list[tuple[object, ...]]:
                return (await admin.run("apply", statement))[-1]

            for (owner, _), mine in groups.items():
                if not owner:
                    role = "" if snapshot.superuser else _audits_owner(mine[0].table, live)
                    rights = added_rights(mine, snapshot, live)
                    made += await self._table(send, admin.connection.close, mine, "", rights, role)
        login = RestrictedLogin(self.engine.target, self.database, PARTITIONS, "makes the partitions")
        for owner in sorted({owner for owner, _ in groups if owner}):
            mine = [change for (name, _), found in groups.items() if name == owner for change in found]
            try:
                made += await self._as_owner(login, owner, mine)
            except _LASTING as error:
                for change in mine:
                    status = ObjectStatus(change.ref, ObjectState.FAILED, error.reason, error.message)
                    self._failed[change] = Problem(change.member, status)
        return [change for change in changes if change in made]

    async def _as_owner(self, login: RestrictedLogin, owner: str, changes: Sequence[OnTable]) -> list[Change]:
        made: list[Change] = []
        by_table: dict[Table, list[OnTable]] = {}
        for change in changes:
            by_table.setdefault(change.table, []).append(change)
        async with self.engine.pool.session(self.database) as admin, login.in_use(admin):
            password = await login.renew(admin, owner)
            async with login.connect(password, _SETTINGS, limit=_LIMIT * len(by_table)) as connection:

                async def send(statement: sql.Composable) -> list[tuple[object, ...]]:
                    cursor = await connection.execute(sql.Composed([statement]), prepare=False)
                    while cursor.nextset():
                        pass
                    return await cursor.fetchall() if cursor.description else []

                for mine in by_table.values():
                    made += await self._table(send, connection.close, mine, owner, ([], []), owner)
        return made

    async def _table(
        self, send: Send, close: Close, changes: Sequence[OnTable], owner: str, rights: Statements, role: str
    ) -> list[Change]:
        """All changes of one table in one transaction, but for what takes partitions away.

        What was interrupted is finished by itself, so that a reader of an old partition keeps no new one from being
        made. Partitions that are detached CONCURRENTLY, as ``role``, come last, and not where the others failed.
        """
        detaching = [change for change in changes if isinstance(change, DropPartitions) and change.until]
        finalizing = [change for change in changes if isinstance(change, FinalizeDetach)]
        finishing = [change for change in changes if isinstance(change, FinishDrop)]
        others = [change for change in changes if change not in (*detaching, *finalizing, *finishing)]
        made: list[Change] = []
        groups: list[Sequence[OnTable]] = [*([one] for one in finalizing), others, *([one] for one in finishing)]
        for group in groups:
            made += await self._transaction(send, group, owner, rights) if group else []
        if not set(others) <= set(made):
            return made
        for change in detaching:
            try:
                await detach_and_drop(send, close, change, role, self.may_write)
            except psycopg.Error as error:
                if is_connection_lost(error):
                    raise statement_error(error, f"detaching old partitions of {'.'.join(change.table)}") from None
                self._fail(change, [change], error, _BEGUN, owner)
            else:
                self._dropped.add(change.table)
                made.append(change)
        return made

    async def _transaction(
        self, send: Send, changes: Sequence[OnTable], owner: str, rights: Statements = ([], [])
    ) -> list[Change]:
        """All changes of one table, or none of them; as ``owner``, or with ``rights`` added to the login's own."""
        doing = changes[0]
        try:
            await send(sql.SQL("BEGIN"))
            await send(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(_LOCK_TIMEOUT)))
            await send(lock_statement())
            self.may_write()
            if owner:
                await send(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(owner)))
            for right in rights[0]:
                await send(right)
            for doing in changes:
                if isinstance(doing, FinishDrop) and not doing.pending and await is_attached(send, doing.partition):
                    continue
                await send(render_table_change(doing, self.engine.metadata_schema))
                if isinstance(doing, CreatePartition):
                    await _close(send, (doing.table[0], doing.name))
                if isinstance(doing, MakeLog):
                    await _close(send, doing.table)
                    await send(let_write(doing.table, doing.writer))
            for right in rights[1]:
                await send(right)
            self.may_write()
            await send(sql.SQL("COMMIT"))
        except psycopg.Error as error:
            if is_connection_lost(error):
                raise statement_error(error, f"changing table {'.'.join(doing.table)}") from None
            await send(sql.SQL("ROLLBACK"))
            state = _BEGUN if isinstance(doing, FinishDrop) else _UNCHANGED
            self._fail(doing, changes, error, state, owner)
            return []
        except BaseException:
            await send(sql.SQL("ROLLBACK"))
            raise
        self._dropped |= {change.table for change in changes if isinstance(change, DropPartitions)}
        return list(changes)

    def _fail(
        self, doing: OnTable, changes: Sequence[OnTable], error: psycopg.Error, state: str, owner: str = ""
    ) -> None:
        name = ".".join(doing.table)
        raised = statement_error(error, f"changing {name}")
        waits = raised.reason is Reason.WAITING_FOR_LOCK
        message = f"{raised.message}; {state}" if waits else raised.message
        if owner and error.sqlstate == "42501":
            why = error.diag.message_primary or ""
            grant = f"run GRANT USAGE, CREATE ON SCHEMA {quoted(doing.table[0])} TO {quoted(owner)}, or declare that"
            step = grant if "for schema" in why else "let the owner do it"
            message = f"changing {name} was refused to its owner {owner}, as whom it is done: {why}; {step}"
        found = ObjectState.WAITING if waits else ObjectState.FAILED
        for change in changes:
            self._failed[change] = Problem(change.member, ObjectStatus(change.ref, found, raised.reason, message))


async def _close(send: Send, partition: Table) -> None:
    """Default privileges opened it at its birth: policies of the parent do not protect what is read by its own name.

    A log of an audit is closed by it too, before anybody can have used what they gave.
    """
    name = sql.Identifier(*partition)
    grantees = await send(_GRANTEES.format(sql.Literal(name.as_string(None))))
    for oid, role in grantees:
        grantee = sql.Identifier(str(role)) if oid else sql.SQL("PUBLIC")
        await send(sql.SQL("REVOKE ALL ON {} FROM {}").format(name, grantee))


def _audits_owner(table: Table, live: LiveTables) -> str:
    found = live.partitions.tables.get(table)
    return found.owner if found is not None else ""


def _owner(change: OnTable, live: LiveTables, auditors: set[str]) -> str:
    """The role as which a change is made; empty for the administrator."""
    table: PartitionedTable | None = live.partitions.tables.get(change.table)
    if not isinstance(change, _AS_OWNER) or table is None or table.privileged or table.owner in auditors:
        return ""
    return table.owner
