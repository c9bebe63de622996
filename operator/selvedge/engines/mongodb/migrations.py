"""One run of migrations on one MongoDB database: the user, the lease, the attempts, the history.

Users' commands run as ``<database>_migrator``, a user of that database alone with a random password, made for the run
and dropped after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, Literal

from pymongo.errors import PyMongoError

from selvedge.core.errors import InvalidError, TransientError
from selvedge.core.reasons import Reason
from selvedge.engines.mongodb.migration_attempt import Attempt, Ground
from selvedge.engines.mongodb.migration_history import EVENTS, HISTORY, History, check_cursor, fingerprint, write
from selvedge.engines.mongodb.migration_lease import Lease
from selvedge.engines.mongodb.migration_own_user import OwnUser
from selvedge.engines.mongodb.migration_preflight import Preflight
from selvedge.engines.mongodb.migration_user import ROLES, Migrator, user_name
from selvedge.migrate.protocol import StatementFailedError

if TYPE_CHECKING:
    from selvedge.engines.base import Observer, ServerTarget
    from selvedge.engines.mongodb.connect import Server
    from selvedge.migrate.history import HistoryRow
    from selvedge.migrate.load import Migration
    from selvedge.migrate.plan import Step
    from selvedge.migrate.protocol import Control, Failure

__all__ = ["EVENTS", "HISTORY", "ROLES", "MongoMigrations", "fingerprint", "open_session", "user_name"]

_POLL = (0.1, 1.0)

Doc = dict[str, Any]


@contextlib.asynccontextmanager
async def open_session(
    target: ServerTarget,
    admin: Server,
    *,
    database: str,
    observer: Observer,
    run: str = "",
    login: tuple[str, str] | None = None,
) -> AsyncIterator[MongoMigrations]:
    """A session for one run of migrations on one database.

    ``admin`` is the administrator's server, which stays open. Nothing is written before the session's ``lock``. When
    the block ends, the user is dropped and the lease is free. ``run`` (a resource's uid) is written into the history.
    ``login`` (name and password) is a user of that database to run as instead, which stays.
    Raises the errors of ``core/errors.py``.
    """
    session = MongoMigrations(target, admin, database=database, observer=observer, run=run, login=login)
    try:
        await session.open()
        yield session
    finally:
        await session.close()


class MongoMigrations:
    """A :class:`~selvedge.migrate.protocol.MigrationSession`.

    ``transactions`` says whether the server has them: a replica set or a sharded cluster has, a standalone has not.
    """

    def __init__(
        self,
        target: ServerTarget,
        admin: Server,
        *,
        database: str,
        observer: Observer,
        run: str,
        login: tuple[str, str] | None = None,
    ) -> None:
        self.server_version = 0
        self.transactions = False
        self._target = target
        self._admin = admin
        self._database = database
        self._lease = Lease(admin, database, run=run)
        self._migrator = (
            Migrator(target, admin, database, observer)
            if login is None
            else OwnUser(target, admin, database, observer, login)
        )
        self._history = History(admin, database, run=run, who=self._migrator.name)
        self._known: frozenset[str] = frozenset()
        self._random = Random()

    async def open(self) -> None:
        """Learn the server's version, its commands and whether it has transactions."""
        limit = self._target.limits.statement_timeout
        build = await self._admin.command("admin", {"buildInfo": 1}, limit)
        hello = await self._admin.command("admin", {"hello": 1}, limit)
        self.server_version = int(build["versionArray"][0])
        self.transactions = "setName" in hello or hello.get("msg") == "isdbgrid"

    async def history(self) -> tuple[HistoryRow, ...]:
        """The rows of the history; writes nothing."""
        return await self._history.read()

    async def done(self) -> tuple[str, ...]:
        """What this run did before, from the events; writes nothing."""
        return await self._history.done()

    async def preflight(self, steps: Sequence[Step], waiting: Callable[[str], Awaitable[None]]) -> Failure | None:
        """The first command that is known to fail, with what the commands before it change taken into account.

        It looks as the administrator: the user of the migrations is made when something runs.
        """
        look = Preflight(self._admin, self._database, self._known or await self._commands(), self.transactions)
        for step in steps:
            if step.direction not in ("up", "down"):
                continue
            migration, down = step.migration, step.direction == "down"
            commands = migration.down_commands if down else migration.commands
            directives = migration.down_directives if down else migration.directives
            found = await self._history.cursor(migration, "down" if down else "up")
            cursor = check_cursor(migration, found, commands)
            try:
                await look.check(
                    (migration.down_file or migration.file) if down else migration.file,
                    commands[cursor.done :],
                    directives,
                    whole=bool(directives.transaction),
                    interrupted=bool(cursor.sent),
                    waiting=waiting,
                )
            except StatementFailedError as failed:
                return failed.failure
        return None

    async def lock(self, seconds: float, waiting: Callable[[str], Awaitable[None]]) -> None:
        """Take the lease, make the user, end what a killed run left running."""
        if self._migrator.made:
            return
        deadline = time.monotonic() + seconds
        while not await self._lease.acquire():
            who = await self._lease.holder()
            holder = "run of migrations" + (f" ({who})" if who else "")
            if time.monotonic() >= deadline:
                raise TransientError(
                    Reason.WAITING_FOR_LOCK, f"database {self._database} is held by another {holder}; tried again"
                )
            await waiting(holder)
            await asyncio.sleep(self._random.uniform(*_POLL))
        await waiting("")
        await self._migrator.make(self._lease.confirm)
        await self._migrator.end_leftovers()
        await self._lease.publish()
        await self._history.ensure()
        await self._history.upgrade()
        self._known = await self._commands()

    async def attempt(
        self,
        migration: Migration,
        row: HistoryRow | None,
        control: Control,
        direction: Literal["up", "down"] = "up",
    ) -> None:
        """Run one direction of a migration once; see the protocol. Where it stopped is read from the history."""
        await Attempt(self._ground(), migration, control, direction).run(begun=row is not None)

    async def attempt_all(self, steps: Sequence[Step], controls: Sequence[Control]) -> None:
        """All steps in one transaction: only commands that a transaction can hold, on a replica set."""
        ground = self._ground()
        preflight = Preflight(ground.server, ground.database, ground.known, ground.transactions)
        attempts = [
            Attempt(ground, step.migration, control, "down" if step.direction == "down" else "up")
            for step, control in zip(steps, controls, strict=True)
        ]
        cursors = [await attempt.begin(preflight, begun=True, whole=True) for attempt in attempts]
        started = [attempt.file for attempt, cursor in zip(attempts, cursors, strict=True) if cursor.done]
        if started:
            raise InvalidError(
                Reason.PARTLY_APPLIED, f"{started[0]} is half done, so it cannot be all or nothing: finish it first"
            )
        try:
            client = await ground.server.client()
            async with client.start_session() as session, await session.start_transaction():
                for attempt, cursor in zip(attempts, cursors, strict=True):
                    await attempt.record(await attempt.all(session, cursor), session)
        except (PyMongoError, OSError) as error:
            raise await attempts[-1].failed(error) from None

    async def check_place(self) -> None:
        """Always there: a MongoDB database is made by what is written into it."""

    async def run_hook(self, hook: Migration, control: Control, *, event: str = "") -> None:
        """Refused: hooks are SQL."""
        raise InvalidError(Reason.UNSUPPORTED, f"{hook.file}: hooks are for Postgres; remove it")

    async def owes_after_run(self) -> bool:
        """Never: there are no hooks."""
        return False

    async def owe_after_run(self, hook: Migration) -> None:
        """Refused: hooks are SQL."""
        raise InvalidError(Reason.UNSUPPORTED, f"{hook.file}: hooks are for Postgres; remove it")

    async def record(
        self, migration: Migration, direction: Literal["mark", "unmark", "accept"], *, actor: str, reason: str
    ) -> None:
        """Change the history alone, with an event that names actor and reason."""
        ground = self._ground()
        self._history.check_size(migration)
        commands = self._history.recorded(migration, direction, actor=actor, reason=reason)
        self._lease.check()
        try:
            if not self.transactions:
                await write(ground.server, self._database, self._lease.guard(), commands, None)
                return
            client = await ground.server.client()
            async with client.start_session() as session, await session.start_transaction():
                await write(ground.server, self._database, self._lease.guard(), commands, session)
        except (PyMongoError, OSError) as error:
            raise await ground.error(error, f"writing the history of {migration.file}") from None

    async def drop_invalid_indexes(self, *, actor: str, reason: str) -> tuple[str, ...]:
        """None: MongoDB has no invalid indexes, a build that fails leaves nothing behind."""
        return ()

    async def close(self) -> None:
        """Drop the user while the lease is ours, close the connections, give the lease back."""
        made = self._migrator.made
        try:
            await self._migrator.disconnect()
            # asked of the server: whoever lost the lease must not drop the user of the run after it
            if made and await self._lease.confirm():
                await self._migrator.drop()
        finally:
            await self._lease.release()

    async def _commands(self) -> frozenset[str]:
        reply = await self._admin.command("admin", {"listCommands": 1}, self._target.limits.statement_timeout)
        known: Doc = reply["commands"]
        return frozenset(known) | {alias for about in known.values() for alias in about.get("aliases", ())}

    def _ground(self) -> Ground:
        return Ground(
            self._admin, self._database, self._migrator, self._lease, self._history, self.transactions, self._known
        )
