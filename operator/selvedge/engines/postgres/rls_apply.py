"""Making the changes of row-level security, and learning what the server makes of a declared expression.

Both put a declared expression before the server's parser, and the parser may run users' code: a literal of a users'
type becomes a value there. So both run in a session that was authenticated as a restricted login and became the table's
owner, never in the administrator's. Each table has a short transaction of its own, under the database's lock, that
gives up soon where somebody holds the table.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

import psycopg
from psycopg import sql

from selvedge.core.errors import SelvedgeError, TransientError
from selvedge.core.own_roles import POLICIES
from selvedge.core.postgres.changes import Change
from selvedge.core.postgres.model import PUBLIC
from selvedge.core.postgres.rls_changes import (
    AlterPolicy,
    ClosePartition,
    CreatePolicy,
    DropPolicy,
    RowPolicy,
    RowSecurityChange,
    TableKey,
    carries_expression,
)
from selvedge.core.postgres.rls_model import DesiredRowSecurity, Question, TableState, question, table_ref
from selvedge.core.postgres.rls_record import Canonical
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectState, ObjectStatus
from selvedge.engines.base import ServerTarget
from selvedge.engines.postgres.connections import Connections
from selvedge.engines.postgres.errors import ConcurrentChangeError, is_connection_lost, is_transient, statement_error
from selvedge.engines.postgres.locks import lock_statement
from selvedge.engines.postgres.restricted_login import RestrictedLogin
from selvedge.engines.postgres.rls_sql import parse_row_security, render_row_security, row_security_statement
from selvedge.engines.postgres.session import Session

#: ACCESS EXCLUSIVE waits behind every reader, and every later reader waits behind it: so it never waits for long.
_LOCK_TIMEOUT = "500ms"
_ATTEMPTS = 4
_FIRST_PAUSE = 0.2
_LIMIT = 60.0

#: The server's words depend on these; they are those of the administrator's session.
_SETTINGS = {
    "search_path": "pg_catalog",
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "statement_timeout": "20s",
    "lock_timeout": _LOCK_TIMEOUT,
    "jit": "off",
}

Known = dict[Question, "Canonical | str"]
Send = Callable[[sql.Composable], Awaitable[list[tuple[object, ...]]]]

_random = Random()


@dataclass(slots=True)
class Applied:
    """What was made, what the server made of the expressions in it, and the tables that could not be changed."""

    made: list[Change] = field(default_factory=list)
    learned: Known = field(default_factory=dict)
    failed: dict[TableKey, ObjectStatus] = field(default_factory=dict)


def policies_login(target: ServerTarget, database: str) -> RestrictedLogin:
    """The login that becomes a table's owner to change its policies."""
    return RestrictedLogin(target, database, POLICIES, "makes the policies")


async def learn(
    pool: Connections,
    login: RestrictedLogin,
    wanted: Sequence[tuple[DesiredRowSecurity, RowPolicy]],
    tables: Mapping[TableKey, TableState],
) -> Known:
    """What the server makes of declared policies, without changing or evaluating anything; a text is a refusal.

    What cannot be learned now is left out. Each expression is given to a temporary table of the same shape and name, so
    that no reader of the table has to wait; only where that fails is the table itself locked, for a moment.
    """
    learned: Known = {}
    by_owner: dict[str, list[tuple[DesiredRowSecurity, RowPolicy]]] = {}
    for entry, policy in wanted:
        table = tables[entry.key]
        if not table.privileged:
            by_owner.setdefault(table.owner, []).append((entry, policy))
    if not by_owner:
        return learned
    async with pool.slot(), pool.session(login.database) as admin, login.in_use(admin):
        for owner, entries in sorted(by_owner.items()):
            password = await login.renew(admin, owner)
            try:
                async with login.connect(password, _SETTINGS, limit=_LIMIT) as connection:
                    for entry, policy in entries:
                        found = await _learn_one(connection, owner, entry.key, policy)
                        if found is not None:
                            learned[question(entry.key, policy)] = found
            except TimeoutError:
                continue
            except psycopg.Error as error:
                raise statement_error(error, f"comparing the policies of database {login.database}") from None
    return learned


async def _learn_one(
    connection: psycopg.AsyncConnection, owner: str, key: TableKey, policy: RowPolicy
) -> Canonical | str | None:
    scratch = sql.Identifier("pg_temp", key[1])
    make = sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {}) ON COMMIT DROP").format(scratch, sql.Identifier(*key))
    try:
        return await _deparse(connection, owner, ("", key[1]), policy, make)
    except psycopg.Error as error:
        if is_connection_lost(error):
            raise
    # The owner may make no temporary tables, or the expression takes the table's own row type: ask the table itself.
    try:
        return await _deparse(connection, owner, key, policy)
    except psycopg.Error as error:
        if is_connection_lost(error):
            raise
        return None if is_transient(error) else refused(error)


async def _deparse(
    connection: psycopg.AsyncConnection,
    owner: str,
    table: TableKey,
    policy: RowPolicy,
    make: sql.Composable | None = None,
) -> Canonical:
    schema, name = table
    scratch = replace(policy, name="selvedge_" + secrets.token_hex(8), roles=(PUBLIC,))
    send = _extended(connection)
    try:
        await send(sql.SQL("BEGIN"))
        await send(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(owner)))
        if make is not None:
            await send(make)
        await send(render_row_security(CreatePolicy(table_ref(table), "", schema or "pg_temp", name, scratch)))
        rows = await send(
            sql.SQL(
                "SELECT pg_catalog.pg_get_expr(p.polqual, p.polrelid), "
                "pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) FROM pg_catalog.pg_policy p WHERE p.polname = {}"
            ).format(sql.Literal(scratch.name))
        )
        using, check = rows[0]
        return Canonical(policy.using, policy.check, _text(using), _text(check))
    finally:
        if not connection.closed and connection.info.transaction_status:
            await connection.execute("ROLLBACK")


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def refused(error: psycopg.Error) -> str:
    """Why the server takes an expression not, and what to look at."""
    text = error.diag.message_primary or "no message"
    advice = ""
    if error.sqlstate in ("42883", "42P01", "42704", "3F000"):
        advice = "; write tables, functions and types of other schemas than pg_catalog with their schema"
    return f"the server refuses it: {text} (SQLSTATE {error.sqlstate}){advice}"


async def apply_tables(
    pool: Connections,
    login: RestrictedLogin,
    changes: Iterable[Change],
    tables: Mapping[TableKey, TableState],
    may_write: Callable[[], None],
) -> Applied:
    """Make the changes, a transaction for each table; ``tables`` is the look that they were computed from.

    Tables that could not be changed are as they were, and named in the result. Raises TransientError where the
    connection or the lead was lost, and :class:`ConcurrentChangeError` where a table is not any more what it was.
    """
    result = Applied()
    known = dict(tables)
    by_table: dict[TableKey, list[RowSecurityChange]] = {}
    for change in changes:
        if isinstance(change, RowSecurityChange):
            by_table.setdefault(change.key, []).append(change)
    if not by_table:
        return result
    async with pool.slot(), pool.session(login.database) as admin:
        by_owner: dict[str, list[tuple[TableKey, list[RowSecurityChange]]]] = {}
        for key, mine in by_table.items():
            ours, others = _divided(known[key], mine)
            if others:
                # No expression is among these: there is nothing that could run.
                known[key] = await _Table(known[key], others, may_write, result, as_owner=False).run(_simple(admin))
            if ours and key not in result.failed:
                by_owner.setdefault(known[key].owner, []).append((key, ours))
        for owner, entries in sorted(by_owner.items()):
            async with login.in_use(admin):
                password = await login.renew(admin, owner)
                await _as_owner(login, password, entries, known, may_write, result)
    return result


def _divided(
    table: TableState, changes: list[RowSecurityChange]
) -> tuple[list[RowSecurityChange], list[RowSecurityChange]]:
    """What is changed as the table's owner, and what by the administrator.

    Those are partitions of somebody else, and tables of roles as which nothing is run.
    """
    owners = {partition.key: partition.owner for partition in table.partitions}
    ours: list[RowSecurityChange] = []
    others: list[RowSecurityChange] = []
    for change in changes:
        partition = change.partition if isinstance(change, (ClosePartition, DropPolicy)) else None
        theirs = partition is not None and owners.get(partition) != table.owner
        (others if table.privileged or theirs else ours).append(change)
    return ours, others


async def _as_owner(
    login: RestrictedLogin,
    password: str,
    entries: Sequence[tuple[TableKey, list[RowSecurityChange]]],
    tables: Mapping[TableKey, TableState],
    may_write: Callable[[], None],
    result: Applied,
) -> None:
    key: TableKey = ("", "")
    try:
        async with login.connect(password, _SETTINGS, limit=_LIMIT * len(entries)) as connection:
            for key, mine in entries:
                await _Table(tables[key], mine, may_write, result).run(_extended(connection))
    except TimeoutError:
        message = f"changing row-level security of {'.'.join(key)} took longer than {_LIMIT:.0f} s; tried again"
        raise TransientError(Reason.TIMEOUT, message) from None


def _extended(connection: psycopg.AsyncConnection) -> Send:
    """One statement at a time by a protocol that takes no second one, whatever the text holds."""

    async def send(statement: sql.Composable) -> list[tuple[object, ...]]:
        cursor = await connection.execute(sql.Composed([statement]), binary=True, prepare=False)
        return await cursor.fetchall() if cursor.description else []

    return send


def _simple(session: Session) -> Send:
    async def send(statement: sql.Composable) -> list[tuple[object, ...]]:
        return (await session.run("apply", statement))[-1]

    return send


class _Table:
    """All changes of one table in one transaction, tried a few times."""

    def __init__(
        self,
        before: TableState,
        changes: list[RowSecurityChange],
        may_write: Callable[[], None],
        result: Applied,
        *,
        as_owner: bool = True,
    ) -> None:
        self.before = before
        self.changes = changes
        self.may_write = may_write
        self.result = result
        self.as_owner = as_owner
        self.name = ".".join(before.key)
        self.doing: RowSecurityChange | None = None

    async def run(self, send: Send) -> TableState:
        """Returns how the table stands."""
        for attempt in range(_ATTEMPTS):
            try:
                return await self._once(send)
            except psycopg.Error as error:
                if is_connection_lost(error):
                    raise statement_error(error, f"changing row-level security of {self.name}") from None
                await send(sql.SQL("ROLLBACK"))
                if not is_transient(error):
                    self._fail(error)
                    return self.before
                if attempt == _ATTEMPTS - 1:
                    self._held(error)
            except SelvedgeError:
                await send(sql.SQL("ROLLBACK"))
                raise
            if attempt < _ATTEMPTS - 1:
                await asyncio.sleep(_FIRST_PAUSE * 2**attempt * _random.uniform(0.5, 1.5))
        return self.before

    async def _once(self, send: Send) -> TableState:
        self.doing = None
        await send(sql.SQL("BEGIN"))
        await send(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(_LOCK_TIMEOUT)))
        await send(lock_statement())
        if _comparable(await self._look(send)) != _comparable(self.before):
            message = f"row-level security of {self.name} was changed by somebody else at this moment; looked at again"
            raise ConcurrentChangeError(Reason.WAITING_FOR_LOCK, message)
        self.may_write()
        if self.as_owner:
            await send(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(self.before.owner)))
        for change in self.changes:
            self.doing = change
            await send(render_row_security(change))
        after = await self._look(send)
        self.may_write()
        await send(sql.SQL("COMMIT"))
        self.result.made += self.changes
        self._learn(after)
        return after or self.before

    async def _look(self, send: Send) -> TableState | None:
        rows = await send(row_security_statement([self.before.key]))
        return parse_row_security(json.loads(str(rows[0][0]))).get(self.before.key)

    def _learn(self, after: TableState | None) -> None:
        """The policies stand as declared: what is read now is what the server made of it, and nobody else's."""
        for change in self.changes:
            if after is None or not carries_expression(change):
                continue
            if isinstance(change, CreatePolicy):
                name, using, check = change.policy.name, change.policy.using, change.policy.check
            elif isinstance(change, AlterPolicy):
                name, using, check = change.name, change.using, change.check
            else:
                continue
            live = after.policies.get(name)
            if live is not None:
                self.result.learned[self.before.key, using, check] = Canonical(using, check, live.using, live.check)

    def _fail(self, error: psycopg.Error) -> None:
        change = self.doing
        what = "" if change is None else _what(change)
        if change is not None and carries_expression(change) and error.sqlstate != "42501":
            message = f"{what} of {self.name}: {refused(error)}"
            status = ObjectStatus(table_ref(self.before.key), ObjectState.FAILED, Reason.STATEMENT_FAILED, message)
        else:
            raised = statement_error(error, f"changing {what or 'row-level security'} of {self.name}")
            message = raised.message
            if error.sqlstate == "42501" and self.as_owner:
                message = (
                    f"changing {what or 'row-level security'} of {self.name} was refused to its owner "
                    f"{self.before.owner}, as whom it is made: {error.diag.message_primary}; grant that to the owner"
                )
            status = ObjectStatus(table_ref(self.before.key), ObjectState.FAILED, raised.reason, message)
        self.result.failed[self.before.key] = status

    def _held(self, error: psycopg.Error) -> None:
        raised = statement_error(error, f"changing row-level security of {self.name}")
        message = f"{raised.message}; it was tried {_ATTEMPTS} times for {_LOCK_TIMEOUT} and is tried again by itself"
        status = ObjectStatus(table_ref(self.before.key), ObjectState.WAITING, Reason.WAITING_FOR_LOCK, message)
        self.result.failed[self.before.key] = status


def _comparable(table: TableState | None) -> TableState | None:
    return table and replace(table, rows=0)


def _what(change: RowSecurityChange) -> str:
    if isinstance(change, CreatePolicy):
        return f"policy {change.policy.name}"
    if isinstance(change, AlterPolicy):
        return f"policy {change.name}"
    return "row-level security"
