"""The migrations' history in the target database: two tables beside the claims, and how they are read and written.

``history`` has one row for each migration, ``events`` only ever grows. The migrator's login may write both; nothing in
the schema is granted to the roles that migrations run as.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from selvedge.core.errors import InvalidError, NotPermittedError
from selvedge.core.names import shorten
from selvedge.core.reasons import Reason
from selvedge.engines.postgres.locks import lock_statement
from selvedge.engines.postgres.migration_shapes import SHAPE, mark, shape_of, upgrade
from selvedge.engines.postgres.trust import check_trust, give
from selvedge.migrate.history import (
    AFTER_RUN,
    AFTER_RUN_DUE,
    EVENTS,
    MARKS,
    HistoryRow,
    RowState,
    line_of_event,
    tool_version,
)

if TYPE_CHECKING:
    from selvedge.migrate.load import Migration
    from selvedge.migrate.splitter import Statement

# A text of many megabytes is data, which nobody plans with.
_READ = """
SELECT version, name, checksum_up, state, statements_done, statements_total, cursor_hash, started, kind, {direction},
  checksum_down, CASE WHEN pg_catalog.octet_length(up_text) <= 1048576 THEN up_text ELSE '' END, down_text,
  extract(epoch FROM applied_at)::float8, duration_ms, applied_by
FROM {history} WHERE {scope} = %s ORDER BY version, name
"""

_LAST = "SELECT event FROM {events} WHERE scope = %s AND event = ANY (%s) ORDER BY id DESC LIMIT 1"

_DONE = """
SELECT key, checksum, event FROM {events} WHERE scope = %s AND run_uid = %s AND key <> '' AND event = ANY (%s)
ORDER BY id
"""

_WRITE = """
INSERT INTO {history} (scope, key, version, name, kind, checksum_up, checksum_down, up_text, down_text, state,
  direction, statements_done, statements_total, cursor_hash, started, transaction_mode, duration_ms, run_uid,
  tool_version)
VALUES (%(scope)s, %(key)s, %(version)s, %(name)s, %(kind)s, %(checksum)s, %(down_checksum)s, %(up)s, %(down)s,
  %(state)s, %(direction)s, %(done)s, %(total)s, %(cursor)s, %(started)s, %(mode)s, %(duration)s, %(run)s, %(tool)s)
ON CONFLICT (scope, key) DO UPDATE SET name = excluded.name, checksum_up = excluded.checksum_up,
  checksum_down = excluded.checksum_down, up_text = excluded.up_text, down_text = excluded.down_text,
  state = excluded.state, direction = excluded.direction, statements_done = excluded.statements_done,
  statements_total = excluded.statements_total, cursor_hash = excluded.cursor_hash, started = excluded.started,
  transaction_mode = excluded.transaction_mode, duration_ms = excluded.duration_ms, run_uid = excluded.run_uid,
  tool_version = excluded.tool_version, applied_at = pg_catalog.clock_timestamp(), applied_by = excluded.applied_by,
  error = NULL
"""

# What ran stays as it is written: only how far it is on its way back changes.
_UNDOING = """
UPDATE {history} SET state = 'Partial', direction = 'down', statements_done = %(done)s, statements_total = %(total)s,
  cursor_hash = %(cursor)s, started = %(started)s, error = NULL WHERE scope = %(scope)s AND key = %(key)s
"""

_FAILED = "UPDATE {history} SET error = %s WHERE scope = %s AND key = %s AND state = 'Partial'"

_ACCEPT = """
UPDATE {history} SET name = %(name)s, checksum_up = %(checksum)s, checksum_down = %(down_checksum)s, up_text = %(up)s,
  down_text = %(down)s, run_uid = %(run)s, tool_version = %(tool)s WHERE scope = %(scope)s AND key = %(key)s
"""

_DELETE = "DELETE FROM {history} WHERE scope = %s AND key = %s"

# The migrator may not say who or when: both are the server's own words.
_EVENT = """
INSERT INTO {events} (scope, key, version, name, event, checksum, run_uid, message)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
"""
_EVENT_BY = """
INSERT INTO {events} (scope, key, version, name, event, checksum, run_uid, message, actor)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
"""

_OWNER = """
SELECT pg_catalog.pg_get_userbyid(n.nspowner) FROM pg_catalog.pg_namespace n, pg_catalog.pg_roles l
WHERE n.nspname = %s AND l.rolname = %s AND n.nspowner <> l.oid AND pg_catalog.pg_has_role(l.oid, n.nspowner, 'MEMBER')
"""

_PLACE = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = %(schema)s),
  EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE n.nspname = %(schema)s AND c.relname = 'claims')
"""

_LENT = (
    "GRANT USAGE ON SCHEMA {schema} TO {login} WITH GRANT OPTION",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON {history}, {events} TO {login} WITH GRANT OPTION",
)


class Ledger:
    """The two tables of one database; ``run`` is written into every row.

    ``table`` names the history; the events are in ``events``, or beside a history of another name in
    ``<table>_events``. ``scope`` separates the histories of several schemas that one set of files is run on.
    """

    borrows = True
    """Whether who makes the tables may take the right to make their schema from the database's owner."""

    def __init__(self, schema: str, run: str = "", *, table: str = "history", scope: str = "") -> None:
        self.schema = schema
        self.run = run
        self.scope = scope
        self.tables = (table, "events" if table == "history" else shorten(table, "_events"))
        self._names = {
            "schema": sql.Identifier(schema),
            "history": sql.Identifier(schema, self.tables[0]),
            "events": sql.Identifier(schema, self.tables[1]),
        }

    async def ensure(self, admin: psycopg.AsyncConnection, login: str) -> None:
        """Create what is missing, or bring what an earlier version made into shape, and let the login write it.

        All in one transaction; two at once do not disturb each other.

        Raises InvalidError for a schema that migrations could drop, with the history in it; RefusedError where somebody
        else made it; NotPermittedError where a right is missing.
        """
        shape, primary = await self.shape(admin, writes=True)
        try:
            await self._ensure(admin, login)
        except psycopg.errors.InsufficientPrivilege as error:
            why = error.diag.message_primary or ""
            raise await self._lacking(admin, login, why, shape, primary) from None

    async def _ensure(self, admin: psycopg.AsyncConnection, login: str) -> None:
        async with admin.transaction():
            await admin.execute(lock_statement())
            cursor = await admin.execute(_OWNER, [self.schema, login])
            if (owner := await cursor.fetchone()) is not None:
                raise InvalidError(
                    Reason.INVALID_SPEC,
                    f"schema {self.schema} is to hold the migrations' history and belongs to role {owner[0]}, which "
                    "migrations can become: they could rewrite it; name a schema of its own",
                )
            shape, primary = await self.shape(admin, writes=True)
            if not shape:
                from selvedge.engines.postgres.migration_creation import create  # once in a database's life

                await create(admin, self.schema, self.tables, borrows=self.borrows)
                await admin.execute(mark(self._tables))
            for statement in upgrade(shape or SHAPE, primary, self._tables):
                await admin.execute(statement)
            await admin.execute(
                self._sql(
                    "GRANT USAGE ON SCHEMA {schema} TO {login};"
                    "GRANT SELECT, INSERT, UPDATE, DELETE ON {history} TO {login};"
                    "GRANT SELECT, INSERT (scope, key, version, name, event, checksum, run_uid, message) ON {events} "
                    "TO {login}",
                    login=sql.Identifier(login),
                )
            )

    async def _lacking(
        self, admin: psycopg.AsyncConnection, login: str, why: str, shape: int, primary: str
    ) -> NotPermittedError:
        """The error for a right that the administrator lacks, who has to give the migrations' login some of his own."""
        me = admin.info.user
        if not shape:
            return await self._no_place(admin, me, why)
        if shape < SHAPE:
            needed: Iterable[sql.Composed] = give(self.schema, self.tables, me)
        else:
            needed = (self._sql(text, login=sql.Identifier(me)) for text in _LENT)
        return keeping(me, why, tuple(statement.as_string(admin) for statement in needed))

    async def _no_place(self, admin: psycopg.AsyncConnection, login: str, why: str) -> NotPermittedError:
        """The error of a login that may not make the tables where they are to be."""
        from selvedge.engines.postgres.remedy import may_create  # with the changes of a whole schema: rarely needed

        cursor = await admin.execute(_PLACE, {"schema": self.schema})
        there, claims = await cursor.fetchone() or (False, False)
        if claims:
            where = f"an operator keeps its claims in schema {self.schema}, and would refuse tables of this login there"
            message = f"login {login} may not keep the migrations' history: {why}; {where}: name another schema"
            return NotPermittedError(Reason.INSUFFICIENT_PRIVILEGES, message)
        create = self._sql("GRANT USAGE, CREATE ON SCHEMA {schema} TO {login}", login=sql.Identifier(login))
        needed = create if there else may_create(login, admin.info.dbname)
        return keeping(login, why, (needed.as_string(admin),))

    async def shape(self, connection: psycopg.AsyncConnection, *, writes: bool = False) -> tuple[int, str]:
        """The shape of both tables, 0 where one is missing, and the name of the primary key; see migration_shapes.

        Raises RefusedError where they are not to be trusted, see :func:`check_trust`.
        """
        await check_trust(connection, self.schema, self.tables, writes=writes)
        return await shape_of(connection, self.schema, *self.tables)

    async def read(self, connection: psycopg.AsyncConnection) -> tuple[HistoryRow, ...]:
        """All rows; none where the tables do not exist."""
        shape, _ = await self.shape(connection)
        if not shape:
            return ()
        # read as it is: a plan writes nothing
        older = {"direction": sql.Literal("up"), "scope": sql.Literal("")}
        columns = {name: sql.Identifier(name) if shape > 1 else older[name] for name in older}
        query = sql.SQL(_READ).format(**columns, **self._names)
        cursor = await connection.execute(query, [self.scope])
        return tuple(_row(values) for values in await cursor.fetchall())

    async def done(self, connection: psycopg.AsyncConnection) -> tuple[str, ...]:
        """See :meth:`MigrationSession.done`."""
        shape, _ = await self.shape(connection)
        if shape < SHAPE or not self.run:
            return ()
        cursor = await connection.execute(self._sql(_DONE), [self.scope, self.run, list(EVENTS)])
        return tuple(line_of_event(key, checksum, event) for key, checksum, event in await cursor.fetchall())

    async def owes_after_run(self, connection: psycopg.AsyncConnection) -> bool:
        """See :meth:`MigrationSession.owes_after_run`."""
        shape, _ = await self.shape(connection)
        if shape < SHAPE:
            return False
        cursor = await connection.execute(self._sql(_LAST), [self.scope, [AFTER_RUN_DUE, AFTER_RUN]])
        return await cursor.fetchone() == (AFTER_RUN_DUE,)

    async def write(
        self,
        connection: psycopg.AsyncConnection,
        migration: Migration,
        row: HistoryRow,
        *,
        seconds: float,
        mode: str,
    ) -> None:
        """Insert or replace the row of a migration on its way up; an event says so once it is applied.

        ``mode`` is how it shared a transaction.
        """
        values = {
            **self._texts(migration),
            "kind": migration.kind,
            "state": row.state.value,
            "direction": row.direction,
            "done": row.done,
            "total": row.total,
            "cursor": row.cursor,
            "started": row.started,
            "mode": mode,
            "duration": round(seconds * 1000),
        }
        await connection.execute(self._sql(_WRITE), values)
        if row.state is RowState.APPLIED:
            await self.event(connection, migration, "Applied")

    async def undoing(self, connection: psycopg.AsyncConnection, migration: Migration, row: HistoryRow) -> None:
        """Say how far a migration is on its way down."""
        values = {"done": row.done, "total": row.total, "cursor": row.cursor, "started": row.started}
        await connection.execute(self._sql(_UNDOING), {**values, "scope": self.scope, "key": migration.key})

    async def failed(self, connection: psycopg.AsyncConnection, migration: Migration, why: str) -> None:
        """Say in the row of a migration that is partly done why; it stands there until the next thing is done."""
        await connection.execute(self._sql(_FAILED), [why[:1000], self.scope, migration.key])

    async def undone(self, connection: psycopg.AsyncConnection, migration: Migration) -> None:
        """The migration is gone from the history; the event stays."""
        await connection.execute(self._sql(_DELETE), [self.scope, migration.key])
        await self.event(connection, migration, "Undone", checksum=migration.down_mark)

    async def mark(
        self, connection: psycopg.AsyncConnection, migration: Migration, direction: str, *, actor: str, reason: str
    ) -> None:
        """Change the history without running anything: ``mark``, ``unmark`` or ``accept``, with its event."""
        if direction == "mark":
            values = {
                **self._texts(migration),
                "kind": migration.kind,
                "state": RowState.APPLIED.value,
                "direction": "up",
                "done": 0,
                "total": 0,
                "cursor": "",
                "started": False,
                "mode": "None",
                "duration": None,
            }
            await connection.execute(self._sql(_WRITE), values)
        elif direction == "unmark":
            await connection.execute(self._sql(_DELETE), [self.scope, migration.key])
        else:
            await connection.execute(self._sql(_ACCEPT), self._texts(migration))
        await self.event(connection, migration, MARKS[direction], reason, actor=actor)

    async def event(
        self,
        connection: psycopg.AsyncConnection,
        migration: Migration | None,
        event: str,
        text: str = "",
        *,
        actor: str = "",
        checksum: str | None = None,
    ) -> None:
        """Append one event; the actor is the session's login unless the administrator names somebody."""
        version, name, own = (migration.version, migration.name, migration.mark) if migration else (None, "", "")
        key = migration.key if migration else ""
        values = [self.scope, key, version, name, event, own if checksum is None else checksum, self.run, text[:1000]]
        if actor:
            await connection.execute(self._sql(_EVENT_BY), [*values, actor])
        else:
            await connection.execute(self._sql(_EVENT), values)

    def _texts(self, migration: Migration) -> dict[str, Any]:
        return {
            "scope": self.scope,
            "key": migration.key,
            "version": migration.version,
            "name": migration.name,
            "checksum": migration.checksum,
            "down_checksum": migration.down_checksum,
            "up": migration.up,
            "down": migration.stored_down,
            "run": self.run,
            "tool": tool_version(),
        }

    @property
    def _tables(self) -> dict[str, sql.Identifier]:
        return {name: self._names[name] for name in ("history", "events")}

    def _sql(self, text: str, **names: sql.Identifier) -> sql.Composed:
        return sql.SQL(text).format(**self._names, **names)  # every text is a constant above


def keeping(login: str, why: str, statements: tuple[str, ...]) -> NotPermittedError:
    """The error of who may not make or write the tables, with what an administrator has to run."""
    message = f"login {login} may not keep the migrations' history: {why}; run {'; '.join(statements)}"
    return NotPermittedError(Reason.INSUFFICIENT_PRIVILEGES, message, statements)


def fingerprint(statements: Sequence[Statement]) -> str:
    """sha256 over the statements that are done, to notice when one of them is changed later."""
    whole = hashlib.sha256()
    for statement in statements:
        whole.update(hashlib.sha256(f"{statement.text}\0{statement.data or ''}".encode()).digest())
    return whole.hexdigest()


def _row(values: tuple[Any, ...]) -> HistoryRow:
    version, name, checksum, state, done, total, cursor, started, kind, direction, *rest = values
    down_checksum, up, down, applied_at, duration, applied_by = rest
    return HistoryRow(
        int(version),
        name,
        checksum,
        RowState(state),
        done,
        total,
        cursor,
        started,
        kind,
        direction,
        down_checksum,
        up,
        down,
        applied_at,
        None if duration is None else duration / 1000,
        applied_by,
    )
