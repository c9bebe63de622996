"""One run of migrations on one Postgres database: the lock, the attempts, the history.

Three connections: the administrator's (history, login), the lock's (holds the advisory lock, and watches who blocks
whom), and the migrator's own, on which the users' statements run. Whatever a statement does to its session (``RESET
ROLE``, ``set_config``) is undone before the history row is written, and that row is written as the migrator's login.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from random import Random
from typing import TYPE_CHECKING, Literal, LiteralString, Protocol

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from selvedge.core.errors import InvalidError, SelvedgeError, TransientError
from selvedge.core.reasons import Reason
from selvedge.engines.postgres.conninfo import conninfo
from selvedge.engines.postgres.errors import DatabaseMissingError, connect_error, statement_error
from selvedge.engines.postgres.migration_asks import none, one, refuse_pooler
from selvedge.engines.postgres.migration_attempt import Attempt, Ground
from selvedge.engines.postgres.migration_forced import refused
from selvedge.engines.postgres.migration_indexes import drop_invalid, invalid_indexes
from selvedge.engines.postgres.migration_ledger import Ledger
from selvedge.engines.postgres.migration_statements import READ_AS, CommitUnknownError, blockers, send
from selvedge.engines.postgres.session import KEEPALIVE, open_connection
from selvedge.migrate.history import AFTER_RUN_DUE, HistoryRow, RowState

if TYPE_CHECKING:
    from selvedge.engines.base import ServerTarget
    from selvedge.migrate.load import Migration
    from selvedge.migrate.plan import Step
    from selvedge.migrate.protocol import Control, Failure

LOCK = (int.from_bytes(b"selv"), int.from_bytes(b"migr"))
"""The advisory lock of a run; advisory locks belong to one database each."""

_PINNED = {
    **READ_AS,
    **KEEPALIVE,
    "role": "none",  # RESET ROLE leads to the login, which writes the history
    "row_security": "off",  # what would see only some rows fails instead
    "idle_session_timeout": "0",
}
"""What the migrations' own connection is started with: it outranks database and login, and survives RESET ALL.

Everything else is as the database has it, such as its search_path."""
_PINNED_FROM_17 = {"transaction_timeout": "0"}  # the run's own timeouts are for each statement

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
_ABSENT = """
SELECT name FROM pg_catalog.unnest(%s::text[]) AS name
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = name)
"""
_LEFTOVERS = """
SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
WHERE usename = session_user AND pid <> pg_catalog.pg_backend_pid() AND backend_type = 'client backend'
"""


class Login(Protocol):
    """The login that migrations run as: ``migrator.MigratorLogin``, or one of the user's own."""

    admin: psycopg.AsyncConnection
    name: str

    async def role(self) -> str:
        """The role that migrations run as."""
        ...

    async def refresh(self) -> str:
        """A password that is good for one connection."""
        ...

    async def retire(self) -> None:
        """Nobody logs in by this name until the next run."""
        ...


class PostgresMigrations:
    """A :class:`~selvedge.migrate.protocol.MigrationSession`. Made by ``migrator.open_session``."""

    leftovers: LiteralString = _LEFTOVERS
    """The query that ends what an earlier run left behind, a row for each that is still there."""

    def __init__(
        self,
        target: ServerTarget,
        login: Login,
        *,
        database: str,
        schema: str,
        run: str,
        closed: Iterable[tuple[str, str]] = (),
        table: str = "history",
        scope: str = "",
        search_path: Iterable[str] = (),
        ledger: Ledger | None = None,
    ) -> None:
        self.server_version = login.admin.info.server_version // 10000
        self._target = target
        self._login = login
        self._admin = login.admin
        self._database = database
        self._ledger = ledger or Ledger(schema, run, table=table, scope=scope)
        self._path = (scope, *search_path) if scope else tuple(search_path)
        self._closed = frozenset(closed)
        self._lock: psycopg.AsyncConnection | None = None
        self._work: psycopg.AsyncConnection | None = None
        self._role = ""
        self._connected = False
        self._random = Random()

    async def history(self) -> tuple[HistoryRow, ...]:
        """The rows of the history; writes nothing."""
        return await self._ledger.read(self._admin)

    async def done(self) -> tuple[str, ...]:
        """What this run did before, from the events; writes nothing."""
        return await self._ledger.done(self._admin)

    async def preflight(self, steps: Sequence[Step], waiting: Callable[[str], Awaitable[None]]) -> Failure | None:
        """What row-level security is certain to refuse; everything else is known when it runs."""
        return await refused(self._admin, await self._login.role(), steps)

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
        await refuse_pooler(self._lock)
        deadline = time.monotonic() + seconds
        while not await one(self._lock, "SELECT pg_catalog.pg_try_advisory_lock(%s, %s)", LOCK):
            holder = await one(self._lock, _HOLDER, LOCK)
            if time.monotonic() >= deadline:
                raise TransientError(
                    Reason.WAITING_FOR_LOCK,
                    f"database {self._database} is held by another {holder or 'run of migrations'}; tried again",
                )
            await waiting(str(holder or "another run of migrations"))
            await asyncio.sleep(self._random.uniform(*_POLL))
        await waiting("")
        await self.check_place()
        await self._connect()
        await self._ledger.ensure(self._admin, self._login.name)

    async def check_place(self) -> None:
        """The schemas exist: in one that does not, everything would be made in the next of the path."""
        if self._path and (name := await one(self._admin, _ABSENT, (list(self._path),))) is not None:
            raise TransientError(
                Reason.WAITING_FOR_OBJECTS,
                f"schema {name}, in which migrations are to run, does not exist in database {self._database}; "
                "declare it",
            )

    async def attempt(
        self,
        migration: Migration,
        row: HistoryRow | None,
        control: Control,
        direction: Literal["up", "down"] = "up",
    ) -> None:
        """Run one part of a migration once; see the protocol."""
        try:
            async with self._working() as work, self._watching(work, control):
                await Attempt(self._ground, work, migration, direction, control).run(row)
                # temporary tables, cursors, LISTEN: nothing of one migration reaches the next
                await work.execute("DISCARD ALL")
        except CommitUnknownError:
            if not await self._was_committed(migration, direction):
                raise

    async def attempt_all(self, steps: Sequence[Step], controls: Sequence[Control]) -> None:
        """Run all steps in one transaction; see the protocol."""
        attempts: list[Attempt] = []
        before = {row.key: row.applied_at for row in await self.history()}
        try:
            async with self._working() as work:
                for step, control in zip(steps, controls, strict=True):
                    direction: Literal["up", "down"] = "down" if step.direction == "down" else "up"
                    one = Attempt(self._ground, work, step.migration, direction, control)
                    async with self._watching(work, control):
                        attempts.append(one)
                        await one.within("All", begin=len(attempts) == 1)
                await attempts[-1].commit()
                await work.execute("DISCARD ALL")
        except CommitUnknownError:
            last = attempts[-1]
            if not await self._was_committed(last.migration, last.direction, before.get(last.migration.key)):
                raise

    async def run_hook(self, hook: Migration, control: Control, *, event: str = "") -> None:
        """Run a script that is no migration; see the protocol."""
        async with self._working() as work, self._watching(work, control):
            await Attempt(self._ground, work, hook, "up", control).hook(event)
            await work.execute("DISCARD ALL")

    async def owes_after_run(self) -> bool:
        """Whether a run began and did not come to its last hook, from the events; writes nothing."""
        return await self._ledger.owes_after_run(self._admin)

    async def owe_after_run(self, hook: Migration) -> None:
        """Write down that a run begins that has this hook, as the administrator; see the protocol."""
        try:
            async with self._admin.transaction():
                await self._holds(self._admin)
                await self._ledger.event(self._admin, None, AFTER_RUN_DUE, hook.name, checksum=hook.mark)
        except psycopg.Error as error:
            raise statement_error(error, f"writing down that {hook.file} is due") from None

    async def record(
        self, migration: Migration, direction: Literal["mark", "unmark", "accept"], *, actor: str, reason: str
    ) -> None:
        """Change the history alone, as the administrator; see the protocol."""
        try:
            async with self._admin.transaction():
                await self._holds(self._admin)
                await self._ledger.mark(self._admin, migration, direction, actor=actor, reason=reason)
        except psycopg.Error as error:
            raise statement_error(error, f"writing the history of {migration.file}") from None

    async def drop_invalid_indexes(self, *, actor: str, reason: str) -> tuple[str, ...]:
        """Drop what broken builds left; see the protocol. Runs as the migrations' role, which owns the tables."""
        dropped = []
        async with self._working() as work:
            await send(work, sql.SQL("SET ROLE {}").format(sql.Identifier(self._role)))
            for schema, name in await invalid_indexes(work):
                # before it, so that no index goes without a trace
                text = f"{schema}.{name}: {reason}"
                await self._ledger.event(self._admin, None, "DropInvalidIndex", text, actor=actor)
                if await drop_invalid(work, schema, name):
                    dropped.append(f"{schema}.{name}")
            await work.execute("DISCARD ALL")
        return tuple(dropped)

    async def close(self) -> None:
        """Close the connections; switch the login off while the lock still says that nobody else uses it."""
        await self._drop_work()
        lock, self._lock = self._lock, None
        if lock is None:
            return
        try:
            if self._connected and not (lock.closed or self._admin.closed) and await self._held(self._admin, lock):
                await self._login.retire()
        except psycopg.Error as error:
            raise statement_error(error, f"switching off login {self._login.name}") from None
        finally:
            await lock.close()

    @property
    def _ground(self) -> Ground:
        return Ground(self._ledger, self._role, self._path, self._closed, self._holds)

    async def _holds(self, connection: psycopg.AsyncConnection) -> None:
        """Raises TransientError where the migrations' lock is not ours any more."""
        lock = self._lock
        if lock is None or not await self._held(connection, lock):
            raise TransientError(
                Reason.CONNECTION_LOST, f"the migrations' lock of database {self._database} was lost; tried again"
            )

    async def _held(self, connection: psycopg.AsyncConnection, lock: psycopg.AsyncConnection) -> bool:
        return not await none(connection, _HELD, (lock.info.backend_pid, *LOCK))

    async def _was_committed(self, migration: Migration, direction: str, before: float | None = None) -> bool:
        """What became of a COMMIT whose answer did not arrive; false where that cannot be found out now.

        ``before`` is when it ran the last time, where its row was there: a redo leaves one as it was, or as it is.

        The connection that comes next ends the old session first, so its transaction is over one way or the other.
        """
        try:
            await self._drop_work()
            await self._connect()
            row = next((row for row in await self._ledger.read(self._admin) if row.key == migration.key), None)
        except (psycopg.Error, SelvedgeError):
            return False  # the next run looks again
        if direction == "down" or row is None:
            return direction == "down" and row is None
        applied = row.state is RowState.APPLIED and row.checksum == migration.checksum
        return applied and row.applied_at != before

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
        await self._holds(self._admin)  # who has the lock has the login: another's session would be ended here
        password = await self._login.refresh()
        self._connected = True
        name = self._login.name
        params = conninfo(
            self._target, self._database, username=name, password=password, application_name="selvedge migrations"
        )
        pinned = {**_PINNED, **(_PINNED_FROM_17 if self.server_version >= 17 else {})}
        try:
            async with asyncio.timeout(self._target.limits.connect_timeout + 1):
                info = make_conninfo(**params, options=" ".join(f"-c {name}={value}" for name, value in pinned.items()))
                work = await psycopg.AsyncConnection.connect(info, autocommit=True, prepare_threshold=None)
        except TimeoutError:
            raise TransientError(
                Reason.CONNECTION_TIMEOUT, f"the server did not answer login {name} in time; tried again by itself"
            ) from None
        except psycopg.Error as error:
            where = ", ".join(f"{host}:{port}" for host, port in self._target.hosts)
            raise connect_error(error, where=where, user=name, dbname=self._database) from None
        self._work = work
        await refuse_pooler(work)
        await self._end_leftovers(work)

    async def _end_leftovers(self, work: psycopg.AsyncConnection) -> None:
        """End other sessions of the login: those of a run that was killed go on on the server."""
        deadline = time.monotonic() + _LEFTOVER_PATIENCE
        while not await none(work, self.leftovers):
            if time.monotonic() > deadline:
                name = self._login.name
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
