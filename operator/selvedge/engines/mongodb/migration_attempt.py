"""One attempt at one direction of a migration: from its cursor on, command by command, or all in one transaction.

On a replica set a command that changes documents is committed in one transaction with the cursor in the history. Every
other command is written down before it is sent, so that one that was cut off can be recognised: as done, as to be sent
again, or, where neither can be told, as a question to a person.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING

from pymongo.errors import OperationFailure, PyMongoError, WriteConcernError

from selvedge.core.errors import InvalidError, TransientError
from selvedge.core.reasons import Reason
from selvedge.engines.mongodb.errors import UNAUTHORIZED, connection_lost
from selvedge.engines.mongodb.migration_batch import Turn, run_batches
from selvedge.engines.mongodb.migration_commands import TOLERATED, documents, failed, remaining, send
from selvedge.engines.mongodb.migration_history import Cursor, check_cursor, fingerprint, lost, write
from selvedge.engines.mongodb.migration_preflight import Preflight
from selvedge.engines.mongodb.migration_watch import watching
from selvedge.migrate.mongo_rules import DATA, check_transaction, same_again
from selvedge.migrate.protocol import StatementFailedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import Literal

    from pymongo.asynchronous.client_session import AsyncClientSession

    from selvedge.engines.mongodb.connect import Server
    from selvedge.engines.mongodb.migration_history import History
    from selvedge.engines.mongodb.migration_lease import Lease
    from selvedge.engines.mongodb.migration_user import Migrator
    from selvedge.migrate.load import Migration
    from selvedge.migrate.mongo import Command
    from selvedge.migrate.protocol import Control


@dataclass(frozen=True, slots=True)
class Ground:
    """What every attempt of a run stands on. ``transactions``: the server has them; ``known``: its commands."""

    admin: Server
    database: str
    migrator: Migrator
    lease: Lease
    history: History
    transactions: bool
    known: frozenset[str]

    @property
    def server(self) -> Server:
        """The connections of the migrations' user."""
        return self.migrator.server

    @property
    def limit(self) -> float:
        """Seconds for a look at the database."""
        return self.admin.target.limits.statement_timeout

    async def gone(self, error: BaseException) -> TransientError | None:
        """Whether an error means that the lease or the user is not ours any more."""
        if not isinstance(error, OperationFailure) or connection_lost(error):
            return None
        if not await self.lease.confirm():
            return lost(self.database)
        if error.code == UNAUTHORIZED and not await self.migrator.still_there():
            return TransientError(
                Reason.CONNECTION_LOST, f"user {self.migrator.name} was dropped during the run; tried again by itself"
            )
        return None

    async def error(self, error: BaseException, doing: str) -> Exception:
        """The project's error for one of the driver's; says it where the lease or the user is gone."""
        return await self.gone(error) or self.server.error(error, doing)


class Attempt:
    """One direction of one migration."""

    def __init__(
        self, ground: Ground, migration: Migration, control: Control, direction: Literal["up", "down"]
    ) -> None:
        down = direction == "down"
        self.migration = migration
        self.direction = direction
        self.control = control
        self.commands: Sequence[Command] = migration.down_commands if down else migration.commands
        self.directives = migration.down_directives if down else migration.directives
        self.file = (migration.down_file or migration.file) if down else migration.file
        self._ground = ground
        self._comment = f"selvedge migration {migration.version} {uuid.uuid4().hex}"
        self._started = time.monotonic()
        self._alone_lines: set[int] = set()

    async def run(self, *, begun: bool) -> None:
        """Run what is left; see :meth:`selvedge.migrate.protocol.MigrationSession.attempt`."""
        ground, whole = self._ground, bool(self.directives.transaction)
        preflight = Preflight(ground.server, ground.database, ground.known, ground.transactions)
        cursor = await self.begin(preflight, begun=begun)
        async with watching(ground.admin, self._comment, self.control.waiting):
            if whole or cursor.done == len(self.commands):
                await self._commit(lambda session: self.all(session, cursor))
                return
            while cursor.done < len(self.commands):
                self.control.checkpoint()
                cursor = await self._next(cursor)
                await self.control.advance(cursor.done)

    async def begin(self, preflight: Preflight, *, begun: bool, whole: bool = False) -> Cursor:
        """The cursor, once everything was checked that can be checked before anything runs.

        ``begun``: the history may have a cursor of it.
        """
        whole = whole or bool(self.directives.transaction)
        self._ground.history.check_size(self.migration)
        if whole and not self._ground.transactions:
            raise InvalidError(
                Reason.UNSUPPORTED,
                f"{self.file} asks for a transaction, and this server is no replica set, which alone has them: make it "
                'a replica set of one, or remove "transaction": true',
            )
        if whole:
            step = "" if self.directives.transaction else "set transaction to PerMigration"
            check_transaction(self.commands, self.file, step)
        cursor = Cursor()
        if begun:
            cursor = await self._ground.history.cursor(self.migration, self.direction)
            cursor = check_cursor(self.migration, cursor, self.commands)
        self._check_doubt(cursor)
        await preflight.check(
            self.file,
            self.commands[cursor.done :],
            self.directives,
            whole=whole,
            interrupted=bool(cursor.sent),
            waiting=self.control.waiting,
        )
        self._alone_lines = preflight.alone
        return cursor

    async def all(self, session: AsyncClientSession | None, cursor: Cursor) -> Cursor:
        """All commands that are left, in the caller's transaction, with the row."""
        for command in self.commands[cursor.done :]:
            self.control.checkpoint()
            cursor = cursor.next(await self._send_once(command, session))
            await self.control.advance(cursor.done)
        return cursor

    async def record(self, cursor: Cursor, session: AsyncClientSession | None) -> None:
        """Write the cursor, behind the guard."""
        seconds = time.monotonic() - self._started
        rows = self._ground.history.progress(self.migration, self.direction, cursor, seconds)
        self._ground.lease.check()
        self.control.may_write()
        await write(self._ground.server, self._ground.database, self._ground.lease.guard(), rows, session)

    async def failed(self, error: BaseException, command: Command | None = None, open_for: float = 0) -> Exception:
        """The error for a driver's exception that comes at a commit; told of the last command where none is given."""
        if command is None and not self.commands:
            return await self._ground.error(error, f"writing the history of {self.file}")
        return await self._failed(command or self.commands[-1], error, open_for or time.monotonic() - self._started)

    # -- one command ---------------------------------------------------------------------------------------------

    async def _next(self, cursor: Cursor) -> Cursor:
        command = self.commands[cursor.done]
        if command.batch is not None:
            return await self._batches(cursor, command)
        free = self._ground.transactions and self.directives.transaction is None and not cursor.sent
        if free and command.name in DATA and command.line not in self._alone_lines:

            async def work(session: AsyncClientSession | None) -> Cursor:
                return cursor.next(await self._send_once(command, session))

            return await self._commit(work, command)
        return await self._by_itself(cursor, command)

    async def _by_itself(self, cursor: Cursor, command: Command) -> Cursor:
        """A command without a transaction, written down before it is sent."""
        rest: Command | None = command
        again = bool(cursor.sent)
        if command.if_not_exists or (again and command.name != "createIndexes"):
            rest = await self._remaining(command)
        changed = 0
        if rest is not None:
            if not again:
                await self._write(replace(cursor, sent=fingerprint([command])))
            try:
                changed = await self._send_tolerant(rest)
            except StatementFailedError:
                # the server's answer is known: what exists later was not made by this command
                await self._write(replace(cursor, sent=""))
                raise
        cursor = cursor.next(changed)
        await self._write(cursor)
        return cursor

    async def _batches(self, cursor: Cursor, command: Command) -> Cursor:
        if command.batch is None:
            raise AssertionError("asked for a batched update only")
        turn = Turn(
            checkpoint=self.control.checkpoint,
            waiting=self.control.waiting,
            commit=self._commit_raw,
            limit=self.control.timeouts.statement,
            comment=self._comment,
            random=Random(),
        )
        try:
            cursor = await run_batches(self._ground.server, self._ground.database, command.batch, cursor, turn)
        except (PyMongoError, OSError) as error:
            raise await self._failed(command, error) from None
        cursor = cursor.next()
        await self._write(cursor)
        return cursor

    def _check_doubt(self, cursor: Cursor) -> None:
        """A command that may have run, and that may not run twice."""
        if not cursor.sent:
            return
        command = self.commands[cursor.done]
        if command.name in DATA | {"aggregate"} and not same_again(command):
            raise InvalidError(
                Reason.PARTLY_APPLIED,
                f"{self.file}, line {command.line}: {command.name} was sent and its answer was lost; without a "
                "transaction nobody can tell whether it ran: look, then remove the command from the file if it did, "
                "or change its text (a space will do) to run it again",
            )

    # -- sending -------------------------------------------------------------------------------------------------

    async def _send_once(self, command: Command, session: AsyncClientSession | None) -> int:
        """In a transaction: looked at first what need not be done, since an error would end the transaction."""
        rest: Command | None = command
        if command.if_not_exists:
            rest = await self._remaining(command)
        if rest is None:
            return 0
        limit = self.control.timeouts.statement
        try:
            reply = await send(
                self._ground.server, self._ground.database, rest, session=session, limit=limit, comment=self._comment
            )
        except (PyMongoError, OSError) as error:
            raise await self._failed(command, error) from None
        return documents(command, reply)

    async def _send_tolerant(self, command: Command) -> int:
        try:
            reply = await send(
                self._ground.server,
                self._ground.database,
                command,
                limit=self.control.timeouts.statement,
                comment=self._comment,
            )
        except (PyMongoError, OSError) as error:
            code = error.code if isinstance(error, OperationFailure) else None
            if code in TOLERATED and command.if_not_exists and await self._remaining(command) is None:
                return 0
            raise await self._failed(command, error) from None
        return documents(command, reply)

    async def _remaining(self, command: Command) -> Command | None:
        try:
            return await remaining(self._ground.server, self._ground.database, command, self._ground.limit)
        except (PyMongoError, OSError) as error:
            raise await self._ground.error(error, f"looking for what {self.file} makes") from None

    async def _commit_raw(self, work: Callable[[AsyncClientSession | None], Awaitable[Cursor]]) -> Cursor:
        """Work and its cursor in one transaction where there are any. Raises the driver's exceptions."""
        if not self._ground.transactions:
            cursor = await work(None)
            await self.record(cursor, None)
            return cursor
        client = await self._ground.server.client()
        async with client.start_session() as session, await session.start_transaction():
            cursor = await work(session)
            await self.record(cursor, session)
        return cursor

    async def _commit(
        self, work: Callable[[AsyncClientSession | None], Awaitable[Cursor]], command: Command | None = None
    ) -> Cursor:
        begun = time.monotonic()
        try:
            return await self._commit_raw(work)
        except (PyMongoError, OSError) as error:
            raise await self.failed(error, command, time.monotonic() - begun) from None

    async def _write(self, cursor: Cursor) -> None:
        async def nothing(_: AsyncClientSession | None) -> Cursor:
            return cursor

        try:
            await self._commit_raw(nothing)
        except (PyMongoError, OSError) as error:
            raise await self._ground.error(error, f"writing the history of {self.file}") from None

    async def _failed(self, command: Command, error: BaseException, open_for: float = 0) -> Exception:
        """The error for a command of the migration, with its line."""
        where = f"{self.file}, line {command.line}"
        if not isinstance(error, OperationFailure) or connection_lost(error) or isinstance(error, WriteConcernError):
            return self._ground.server.error(error, where)
        gone = await self._ground.gone(error)
        if gone is not None:
            return gone
        return failed(self.file, command, error, open_for=open_for or time.monotonic() - self._started)
