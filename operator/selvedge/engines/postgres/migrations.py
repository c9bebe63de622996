"""One run of migrations on one Postgres database: the lock, the attempts, the history.

Three connections: the administrator's (history, login), the lock's (holds the advisory lock, and watches who blocks
whom), and the migrator's own, on which the users' statements run. Whatever a statement does to its session (``RESET
ROLE``, ``set_config``) is undone before the history row is written, and that row is written as the migrator's login.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from random import Random
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus

from selvedge.core.errors import InvalidError, TransientError
from selvedge.core.reasons import Reason
from selvedge.engines.postgres.conninfo import conninfo
from selvedge.engines.postgres.errors import DatabaseMissingError, connect_error, statement_error
from selvedge.engines.postgres.migration_ledger import Ledger, fingerprint
from selvedge.engines.postgres.migration_statements import (
    blockers,
    commit_failed,
    drop_index,
    execute,
    index_state,
    is_dropped,
    send,
)
from selvedge.engines.postgres.rls_birth import close_at_birth
from selvedge.engines.postgres.session import open_connection
from selvedge.migrate.plan import HistoryRow, RowState
from selvedge.migrate.protocol import Control, StatementFailedError
from selvedge.migrate.transactions import forbids_transaction, index_build

if TYPE_CHECKING:
    from selvedge.engines.base import ServerTarget
    from selvedge.engines.postgres.migrator import MigratorLogin
    from selvedge.migrate.load import Migration
    from selvedge.migrate.splitter import Statement

LOCK = (int.from_bytes(b"selv"), int.from_bytes(b"migr"))
"""The advisory lock of a run; advisory locks belong to one database each."""

_POLL = (0.1, 1.0)
_WATCH = 1.0
_LEFTOVER_PATIENCE = 30.0

_HOLDER = """
SELECT 'run of migrations in session ' || l.pid || coalesce(' (' || a.application_name || ')', '')
FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.classid = %s AND l.objid = %s AND l.objsubid = 2
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
"""
_HELD = """
SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND granted AND pid = %s AND classid = %s AND objid = %s
"""
_LEFTOVERS = """
SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
WHERE usename = session_user AND pid <> pg_catalog.pg_backend_pid() AND backend_type = 'client backend'
"""


class PostgresMigrations:
    """A :class:`~selvedge.migrate.protocol.MigrationSession`. Made by ``migrator.open_session``."""

    def __init__(
        self,
        target: ServerTarget,
        login: MigratorLogin,
        *,
        database: str,
        schema: str,
        run: str,
        closed: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.server_version = login.admin.info.server_version // 10000
        self._target = target
        self._login = login
        self._admin = login.admin
        self._database = database
        self._ledger = Ledger(schema, run)
        self._closed = frozenset(closed)
        self._lock: psycopg.AsyncConnection | None = None
        self._work: psycopg.AsyncConnection | None = None
        self._role = ""
        self._connected = False
        self._random = Random()

    async def history(self) -> tuple[HistoryRow, ...]:
        """The rows of the history; writes nothing."""
        return await self._ledger.read(self._admin)

    async def lock(self, seconds: float, waiting: Callable[[str], Awaitable[None]]) -> None:
        """Take the lock, prepare login and history, end sessions that a killed run left behind.

        The lock is polled: a session that waits for it would hold a snapshot, and CREATE INDEX CONCURRENTLY in the
        session that holds it would wait for that snapshot, for ever.
        """
        if self._lock is not None:
            return
        self._role = await self._login.role()
        try:
            self._lock = await open_connection(self._target, self._database)
        except DatabaseMissingError:
            raise InvalidError(Reason.INVALID_SPEC, f"database {self._database} does not exist") from None
        await _refuse_pooler(self._lock)
        deadline = time.monotonic() + seconds
        while not await _one(self._lock, "SELECT pg_catalog.pg_try_advisory_lock(%s, %s)", LOCK):
            holder = await _one(self._lock, _HOLDER, LOCK)
            if time.monotonic() >= deadline:
                raise TransientError(
                    Reason.WAITING_FOR_LOCK,
                    f"database {self._database} is held by another {holder or 'run of migrations'}; tried again",
                )
            await waiting(str(holder or "another run of migrations"))
            await asyncio.sleep(self._random.uniform(*_POLL))
        await waiting("")
        await self._connect()
        await self._ledger.ensure(self._admin, self._login.name)

    async def attempt(self, migration: Migration, row: HistoryRow | None, control: Control) -> None:
        """Run a migration once; see the protocol."""
        script = migration.script
        async with self._working() as work, self._watching(work, control):
            if script.transactional:
                await self._transaction(work, migration, control)
            else:
                await self._resume(work, migration, row, control)
            # temporary tables, cursors, LISTEN: nothing of one migration reaches the next
            await work.execute("DISCARD ALL")

    async def close(self) -> None:
        """Close the connections; switch the login off while the lock still says that nobody else uses it."""
        await self._drop_work()
        lock, self._lock = self._lock, None
        if lock is None:
            return
        try:
            if self._connected and not lock.closed and not self._admin.closed:
                await self._login.retire()
        except psycopg.Error as error:
            raise statement_error(error, f"switching off login {self._login.name}") from None
        finally:
            await lock.close()

    # -- attempts ------------------------------------------------------------------------------------------------

    async def _transaction(self, work: psycopg.AsyncConnection, migration: Migration, control: Control) -> None:
        """All statements and the history row, or nothing."""
        statements = migration.script.statements
        started = time.monotonic()
        await send(work, self._begin(control))
        for done, statement in enumerate(statements):
            control.checkpoint()
            await execute(work, migration, statement)
            self._still_in_transaction(work, migration, statement)
            await control.advance(done + 1)
        total = len(statements)
        row = HistoryRow(migration.version, migration.name, migration.checksum, RowState.APPLIED, total, total)
        await self._record(work, migration, row, started, control)

    async def _resume(
        self, work: psycopg.AsyncConnection, migration: Migration, row: HistoryRow | None, control: Control
    ) -> None:
        """Statement by statement from the cursor on; what can be is committed together with the cursor."""
        statements = migration.script.statements
        first, pending = (row.done, row.started) if row else (0, False)
        if row and row.cursor and row.cursor != fingerprint(statements[:first]):
            raise InvalidError(
                Reason.CHECKSUM_MISMATCH,
                f"{migration.file}: one of its first {first} statements changed after it ran; put their old text back, "
                "only what has not run yet may be mended",
            )
        for statement in statements[:first]:
            if statement.head[:1] in (("SET",), ("RESET",)) and "ROLE" not in statement.head[:3]:
                await execute(work, migration, statement)
        started = time.monotonic()
        for done in range(first, len(statements)):
            statement = statements[done]
            control.checkpoint()
            if forbids_transaction(statement):
                before = self._cursor(migration, done, started=True)
                await send(work, sql.SQL("BEGIN"))
                await self._record(work, migration, before, started, control)
                try:
                    await self._alone(work, migration, statement, pending and done == first, control)
                except StatementFailedError:
                    # The server's answer is known: an index that exists later was not made by this statement.
                    await send(work, sql.SQL("BEGIN"))
                    await self._record(work, migration, self._cursor(migration, done), started, control)
                    raise
                await send(work, sql.SQL("BEGIN"))
            else:
                await send(work, self._begin(control))
                await execute(work, migration, statement)
                self._still_in_transaction(work, migration, statement)
            await self._record(work, migration, self._cursor(migration, done + 1), started, control)
            await control.advance(done + 1)

    async def _alone(
        self,
        work: psycopg.AsyncConnection,
        migration: Migration,
        statement: Statement,
        interrupted: bool,
        control: Control,
    ) -> None:
        """A statement that forbids a transaction. ``interrupted``: it was sent before, and its end is not known."""
        build = index_build(statement)
        await send(work, self._session(control))
        try:
            if build is not None:
                state = await index_state(work, build)
                # The server itself would skip IF NOT EXISTS although the index that exists is unusable.
                if state == "invalid" and (interrupted or build.if_not_exists):
                    await drop_index(work, migration, build)
                elif state == "valid" and interrupted:
                    return
            elif interrupted and await is_dropped(work, statement):
                return
            try:
                await execute(work, migration, statement)
            except BaseException:
                if build is not None and not work.closed and await index_state(work, build) == "invalid":
                    await drop_index(work, migration, build)
                raise
            if build is not None and await index_state(work, build) != "valid":
                raise commit_failed(migration, statement, f"index {build.index} was built and is not valid")
        finally:
            if not work.closed and work.info.transaction_status is TransactionStatus.IDLE:
                await send(work, sql.SQL("RESET ROLE"))

    async def _record(
        self, work: psycopg.AsyncConnection, migration: Migration, row: HistoryRow, started: float, control: Control
    ) -> None:
        """Write the row as the migrator's login and commit, if the lock is still ours and we may write."""
        last = migration.script.statements[-1] if migration.script.statements else None
        try:
            # Deferred constraints and triggers belong to the migration: they fire here, as its role.
            await send(work, sql.SQL("SET CONSTRAINTS ALL IMMEDIATE"))
            await send(work, sql.SQL("RESET ROLE; SET LOCAL search_path = pg_catalog, pg_temp"))
            lock = self._lock
            if lock is None or await _none(work, _HELD, (lock.info.backend_pid, *LOCK)):
                raise TransientError(
                    Reason.CONNECTION_LOST, f"the migrations' lock of database {self._database} was lost; tried again"
                )
            await close_at_birth(work, self._closed)
            await self._ledger.write(work, migration, row, seconds=time.monotonic() - started)
            control.may_write()
            await send(work, sql.SQL("COMMIT"))
        except psycopg.Error as error:
            raise commit_failed(migration, last, "", error) from None

    def _cursor(self, migration: Migration, done: int, *, started: bool = False) -> HistoryRow:
        statements = migration.script.statements
        state = RowState.APPLIED if done == len(statements) else RowState.PARTIAL
        mark = fingerprint(statements[:done]) if state is RowState.PARTIAL else ""
        return HistoryRow(
            migration.version, migration.name, migration.checksum, state, done, len(statements), mark, started
        )

    def _begin(self, control: Control) -> sql.Composed:
        limits = control.timeouts
        return sql.SQL(
            "BEGIN; SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {};"
            "SET LOCAL idle_in_transaction_session_timeout = '5min'; SET ROLE {}"
        ).format(_milliseconds(limits.lock), _milliseconds(limits.statement), sql.Identifier(self._role))

    def _session(self, control: Control) -> sql.Composed:
        # A CONCURRENTLY that waits blocks nobody, and one that gives up leaves an invalid index: it may wait.
        return sql.SQL("SET lock_timeout = 0; SET statement_timeout = {}; SET ROLE {}").format(
            _milliseconds(control.timeouts.statement), sql.Identifier(self._role)
        )

    def _still_in_transaction(self, work: psycopg.AsyncConnection, migration: Migration, statement: Statement) -> None:
        if work.info.transaction_status is not TransactionStatus.INTRANS:
            raise commit_failed(
                migration, statement, "the statement ended the transaction that keeps the migration whole"
            )

    # -- connections ---------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _working(self) -> AsyncIterator[psycopg.AsyncConnection]:
        """The migrator's connection, renewed where it broke; idle and clean again, or closed, afterwards."""
        if self._lock is None:
            raise AssertionError("lock() comes before attempt()")
        if self._work is None or self._work.closed:
            await self._connect()
        work = self._work
        if work is None:
            raise AssertionError("_connect() leaves a connection")
        try:
            yield work
        except BaseException as raised:
            # also when cancelled: the rollback is short, and without it locks would stay until the backend notices
            await asyncio.shield(self._roll_back(work))
            if isinstance(raised, psycopg.Error):
                raise statement_error(raised, f"running the migrations of database {self._database}") from None
            raise

    async def _roll_back(self, work: psycopg.AsyncConnection) -> None:
        try:
            if not work.closed:
                await send(work, sql.SQL("ROLLBACK; RESET ROLE"))
                await work.execute("DISCARD ALL")
        except psycopg.Error:
            await self._drop_work()  # a connection in an unknown state is of no use: the next attempt makes another

    async def _connect(self) -> None:
        password = await self._login.refresh()
        self._connected = True
        name = self._login.name
        params = conninfo(
            self._target, self._database, username=name, password=password, application_name="selvedge migrations"
        )
        try:
            async with asyncio.timeout(self._target.limits.connect_timeout + 1):
                info = make_conninfo(**params)
                work = await psycopg.AsyncConnection.connect(info, autocommit=True, prepare_threshold=None)
        except TimeoutError:
            raise TransientError(
                Reason.CONNECTION_TIMEOUT, f"the server did not answer login {name} in time; tried again by itself"
            ) from None
        except psycopg.Error as error:
            where = ", ".join(f"{host}:{port}" for host, port in self._target.hosts)
            raise connect_error(error, where=where, user=name, dbname=self._database) from None
        self._work = work
        await _refuse_pooler(work)
        deadline = time.monotonic() + _LEFTOVER_PATIENCE
        while not await _none(work, _LEFTOVERS):
            if time.monotonic() > deadline:
                raise TransientError(
                    Reason.WAITING_FOR_LOCK, f"a session of {name} from an earlier run does not end; tried again"
                )
            await asyncio.sleep(0.05)

    async def _drop_work(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            await work.close()

    @contextlib.asynccontextmanager
    async def _watching(self, work: psycopg.AsyncConnection, control: Control) -> AsyncIterator[None]:
        """Tell who blocks the migration, and how far an index build is, for as long as it runs."""
        task = asyncio.create_task(self._watch(work.info.backend_pid, control))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _watch(self, pid: int, control: Control) -> None:
        last = ""
        while self._lock is not None and not self._lock.closed:
            await asyncio.sleep(_WATCH)
            try:
                now = await blockers(self._lock, pid)
            except psycopg.Error:
                return  # the lock went with its connection, which the next commit finds out
            if now != last:
                last = now
                await control.waiting(now)


def _milliseconds(seconds: float) -> sql.Literal:
    return sql.Literal(f"{round(seconds * 1000)}ms")


async def _one(connection: psycopg.AsyncConnection, query: str, values: tuple[object, ...] = ()) -> object:
    cursor = await connection.execute(query, values)  # every query is a constant above
    row = await cursor.fetchone()
    return row[0] if row else None


async def _none(connection: psycopg.AsyncConnection, query: str, values: tuple[object, ...] = ()) -> bool:
    cursor = await connection.execute(query, values)  # every query is a constant above
    return cursor.rowcount == 0


async def _refuse_pooler(connection: psycopg.AsyncConnection) -> None:
    """A pooler gives a session's locks and settings to somebody else; it also hides the server's process id."""
    if await _one(connection, "SELECT pg_catalog.pg_backend_pid()") != connection.info.backend_pid:
        raise InvalidError(
            Reason.POOLER_DETECTED,
            "a connection pooler answers instead of the server, and migrations need a session of their own; "
            "give the server's own address in spec.hosts",
        )
