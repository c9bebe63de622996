"""One run of migrations on one MongoDB database: the user, the lease, the commands, the history.

Users' commands run as ``<database>_migrator``, a user of that database alone with a random password, made for the run
and dropped after it. On a replica set a command that changes documents is committed in one transaction with the cursor
in the history; every other command can be recognised as done when it is found half way after a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from importlib.metadata import version as installed_version
from random import Random
from typing import TYPE_CHECKING, Any, Literal

from bson import ObjectId
from pymongo.errors import OperationFailure, PyMongoError

from selvedge.core.errors import InvalidError, TransientError
from selvedge.core.names import shorten
from selvedge.core.reasons import Reason
from selvedge.engines.mongodb.bson_json import to_bson
from selvedge.engines.mongodb.connect import Server
from selvedge.engines.mongodb.errors import (
    INDEX_NOT_FOUND,
    NAMESPACE_EXISTS,
    NAMESPACE_NOT_FOUND,
    connection_lost,
    server_message,
)
from selvedge.engines.mongodb.migration_lease import Lease
from selvedge.migrate.plan import HistoryRow, RowState
from selvedge.migrate.protocol import Control, Failure, StatementFailedError, shorten_statement

if TYPE_CHECKING:
    from pymongo.asynchronous.client_session import AsyncClientSession

    from selvedge.engines.base import Observer, ServerTarget
    from selvedge.migrate.load import Migration
    from selvedge.migrate.mongo import Command
    from selvedge.migrate.plan import Step

HISTORY = "selvedge.history"
EVENTS = "selvedge.events"
ROLES = ("readWrite", "dbAdmin")

_DATA = frozenset({"insert", "update", "delete", "findAndModify", "findandmodify"})
_WRITES = _DATA | {"create", "createIndexes", "collMod", "drop", "dropIndexes", "renameCollection", "convertToCapped"}
_RETRY = frozenset({112, 24, 46, 251, 267, 225})
_GONE = {"drop": NAMESPACE_NOT_FOUND, "dropIndexes": INDEX_NOT_FOUND, "create": NAMESPACE_EXISTS}
_USER_NOT_FOUND = 11
_POLL = (0.1, 1.0)

Doc = dict[str, Any]


def user_name(database: str) -> str:
    """The user of a database's migrations."""
    return shorten(database, "_migrator")


@contextlib.asynccontextmanager
async def open_session(
    target: ServerTarget, admin: Server, *, database: str, observer: Observer, run: str = ""
) -> AsyncIterator[MongoMigrations]:
    """A session for one run of migrations on one database.

    ``admin`` is the administrator's server, which stays open. Nothing is written before the session's ``lock``. When
    the block ends, the user is dropped and the lease is free. ``run`` (a resource's uid) is written into the history.
    Raises the errors of ``core/errors.py``.
    """
    session = MongoMigrations(target, admin, database=database, observer=observer, run=run)
    try:
        await session.open()
        yield session
    finally:
        await session.close()


class MongoMigrations:
    """A :class:`~selvedge.migrate.protocol.MigrationSession`."""

    def __init__(self, target: ServerTarget, admin: Server, *, database: str, observer: Observer, run: str) -> None:
        self.server_version = 0
        self._target = target
        self._admin = admin
        self._database = database
        self._observer = observer
        self._run = run
        self._lease = Lease(admin, database)
        self._work: Server | None = None
        self._transactions = False
        self._random = Random()

    async def open(self) -> None:
        """Learn the server's version and whether it has transactions."""
        limit = self._target.limits.statement_timeout
        build = await self._admin.command("admin", {"buildInfo": 1}, limit)
        hello = await self._admin.command("admin", {"hello": 1}, limit)
        self.server_version = int(build["versionArray"][0])
        self._transactions = "setName" in hello or hello.get("msg") == "isdbgrid"

    async def history(self) -> tuple[HistoryRow, ...]:
        """The rows of the history; writes nothing."""
        fields = {"upText": 0, "downText": 0}
        command = {"find": HISTORY, "projection": fields, "batchSize": 1_000_000, "singleBatch": True}
        reply = await self._admin.command(self._database, command, self._target.limits.statement_timeout)
        return tuple(
            HistoryRow(
                int(row["_id"]),
                row["name"],
                row["checksumUp"],
                RowState(row["state"]),
                row["commandsDone"],
                row["commandsTotal"],
                row["cursor"],
                row["started"],
            )
            for row in reply["cursor"]["firstBatch"]
        )

    async def lock(self, seconds: float, waiting: Callable[[str], Awaitable[None]]) -> None:
        """Take the lease, make the user, end what a killed run left running."""
        if self._work is not None:
            return
        deadline = time.monotonic() + seconds
        while not await self._lease.acquire():
            if time.monotonic() >= deadline:
                raise TransientError(
                    Reason.WAITING_FOR_LOCK, f"another run of migrations holds database {self._database}; tried again"
                )
            await waiting("another run of migrations")
            await asyncio.sleep(self._random.uniform(*_POLL))
        await waiting("")
        await self._make_user()
        await self._end_leftovers()
        await self._lease.publish()
        for collection in (HISTORY, EVENTS):
            try:
                await self._admin.run(self._database, {"create": collection}, None, read=False)
            except OperationFailure as error:
                if error.code != NAMESPACE_EXISTS:
                    raise self._admin.error(error, f"creating {collection}") from None
            except PyMongoError as error:
                raise self._admin.error(error, f"creating {collection}") from None

    async def attempt(
        self,
        migration: Migration,
        row: HistoryRow | None,
        control: Control,
        direction: Literal["up", "down"] = "up",
    ) -> None:
        """Run a migration once; see the protocol."""
        if direction == "down":
            raise InvalidError(Reason.UNSUPPORTED, f"{migration.file}: MongoDB's migrations are not undone yet")
        commands = migration.commands
        first, pending = (row.done, row.started) if row else (0, False)
        if row and row.cursor and row.cursor != fingerprint(commands[:first]):
            raise InvalidError(
                Reason.CHECKSUM_MISMATCH,
                f"{migration.file}: one of its first {first} commands changed after it ran; put their old text back, "
                "only what has not run yet may be mended",
            )
        whole = migration.directives.transaction
        if whole and not self._transactions:
            raise InvalidError(
                Reason.UNSUPPORTED, f"{migration.file} asks for a transaction, which needs a replica set; remove it"
            )
        started = time.monotonic()
        if whole:
            await self._together(migration, commands, len(commands), started, control)
            return
        for done in range(first, len(commands)):
            control.checkpoint()
            command = commands[done]
            if self._transactions and whole is None and command.name in _DATA:
                await self._together(migration, commands[done : done + 1], done + 1, started, control)
            else:
                await self._record(migration, done, started, control, sent=True)
                try:
                    await self._alone(migration, command, pending and done == first)
                except StatementFailedError:
                    # the server's answer is known: what exists later was not made by this command
                    await self._record(migration, done, started, control)
                    raise
                await self._record(migration, done + 1, started, control)
            await control.advance(done + 1)

    async def attempt_all(self, steps: Sequence[Step], controls: Sequence[Control]) -> None:
        """Refused: indexes and validators stand outside of MongoDB's transactions."""
        raise InvalidError(
            Reason.UNSUPPORTED, "MongoDB cannot run several migrations in one transaction; set it to PerMigration"
        )

    async def run_hook(self, hook: Migration, control: Control) -> None:
        """Refused: hooks are SQL."""
        raise InvalidError(Reason.UNSUPPORTED, f"{hook.file}: hooks are for Postgres; remove it")

    async def record(
        self, migration: Migration, direction: Literal["mark", "unmark", "accept"], *, actor: str, reason: str
    ) -> None:
        """Refused so far."""
        raise InvalidError(Reason.UNSUPPORTED, f"{migration.file}: MongoDB's history is not repaired yet")

    async def drop_invalid_indexes(self, *, actor: str, reason: str) -> tuple[str, ...]:
        """None: a build that failed leaves nothing behind."""
        return ()

    async def close(self) -> None:
        """Drop the user while the lease is ours, close the connections, give the lease back."""
        work, self._work = self._work, None
        try:
            if work is not None:
                await work.close()
                self._lease.check()
                await self._drop_user()
        finally:
            await self._lease.release()

    # -- commands ------------------------------------------------------------------------------------------------

    async def _together(
        self, migration: Migration, commands: Sequence[Command], done: int, started: float, control: Control
    ) -> None:
        """Commands and the history row in one transaction."""
        client = await self._server.client()
        async with client.start_session() as session:
            try:
                async with await session.start_transaction():
                    for command in commands:
                        control.checkpoint()
                        await self._send(migration, command, session)
                    await self._write(migration, done, started, control, session=session)
            except (PyMongoError, OSError) as error:
                raise self._failed(migration, commands[-1], error) from None

    async def _alone(self, migration: Migration, command: Command, interrupted: bool) -> None:
        """A command without a transaction; ``interrupted``: it was sent before, and its end is not known."""
        try:
            await self._send(migration, command, None)
        except OperationFailure as error:
            found_done = error.code == _GONE.get(command.name)
            if found_done and (interrupted or (command.if_not_exists and await self._equal(command))):
                return
            raise self._failed(migration, command, error) from None
        except (PyMongoError, OSError) as error:
            raise self._failed(migration, command, error) from None

    async def _send(self, migration: Migration, command: Command, session: AsyncClientSession | None) -> None:
        document: Doc = to_bson(command.document)
        if session is not None:
            client = await self._server.client()
            reply: Doc = await client[self._database].command(document, session=session)
        else:
            reply = await self._server.run(self._database, document, None, read=command.name not in _WRITES)
        for problem in [
            *reply.get("writeErrors", ()),
            *([reply["writeConcernError"]] if "writeConcernError" in reply else ()),
        ]:
            # the server answers ok to a command of which a single document failed
            raise OperationFailure(str(problem.get("errmsg")), problem.get("code"), problem)

    async def _equal(self, command: Command) -> bool:
        """Whether what exists is what the command asks for; what is gone is gone."""
        if command.name != "create":
            return True
        wanted: Doc = to_bson(command.document)
        name = wanted.pop("create")
        listing = {"listCollections": 1, "filter": {"name": name}}
        reply = await self._server.command(self._database, listing, self._target.limits.statement_timeout)
        existing: list[Doc] = reply["cursor"]["firstBatch"]
        return bool(existing) and all(existing[0]["options"].get(key) == value for key, value in wanted.items())

    def _failed(self, migration: Migration, command: Command, error: BaseException) -> Exception:
        """The error for a command of a migration, with its line."""
        if not isinstance(error, OperationFailure) or connection_lost(error):
            return self._server.error(error, f"{migration.file}, line {command.line}")
        details: Any = error.details or {}
        code = str(details.get("codeName") or error.code or "")
        hint = ""
        if error.code == 263:
            hint = 'this command cannot run in a transaction; remove "transaction": true'
        failure = Failure(
            migration.file, command.line, shorten_statement(command.text), code, server_message(error), hint
        )
        retry = error.code in _RETRY or error.has_error_label("TransientTransactionError")
        return StatementFailedError(failure, retry=retry)

    # -- history -------------------------------------------------------------------------------------------------

    async def _record(
        self, migration: Migration, done: int, started: float, control: Control, *, sent: bool = False
    ) -> None:
        try:
            if not self._transactions:
                await self._write(migration, done, started, control, sent=sent)
                return
            client = await self._server.client()
            async with client.start_session() as session, await session.start_transaction():
                await self._write(migration, done, started, control, sent=sent, session=session)
        except (PyMongoError, OSError) as error:
            raise self._server.error(error, f"writing the history of {migration.file}") from None

    async def _write(
        self,
        migration: Migration,
        done: int,
        started: float,
        control: Control,
        *,
        sent: bool = False,
        session: AsyncClientSession | None = None,
    ) -> None:
        """The row, an event for the last one, and the guard that we still hold the lease."""
        self._lease.check()
        control.may_write()
        total = len(migration.commands)
        applied = done == total
        values = {
            "name": migration.name,
            "kind": "Versioned",
            "checksumUp": migration.checksum,
            "checksumDown": migration.down_checksum,
            "upText": migration.up,
            "downText": migration.down,
            "state": (RowState.APPLIED if applied else RowState.PARTIAL).value,
            "commandsDone": done,
            "commandsTotal": total,
            "cursor": "" if applied else fingerprint(migration.commands[:done]),
            "started": sent,
            "durationMs": round((time.monotonic() - started) * 1000),
            "appliedBy": user_name(self._database),
            "runUid": self._run,
            "toolVersion": installed_version("selvedge"),
        }
        commands: list[Doc] = [_upsert(HISTORY, str(migration.version), values, "appliedAt")]
        if applied:
            event = {
                "version": str(migration.version),
                "event": "Applied",
                "checksum": migration.checksum,
                "actor": user_name(self._database),
                "runUid": self._run,
            }
            commands.append(_upsert(EVENTS, ObjectId(), event, "at"))
        client = await self._server.client()
        for command in [self._lease.guard(), *commands]:
            reply: Doc = await client[self._database].command(command, session=session)
            if reply["n"] != 1:
                raise TransientError(
                    Reason.WAITING_FOR_LOCK,
                    f"the migrations' lease of database {self._database} went to another run; tried again by itself",
                )

    # -- user ----------------------------------------------------------------------------------------------------

    @property
    def _server(self) -> Server:
        if self._work is None:
            raise AssertionError("lock() comes before attempt()")
        return self._work

    async def _make_user(self) -> None:
        await self._drop_user()
        password = secrets.token_urlsafe(32)
        name = user_name(self._database)
        limit = self._target.limits.statement_timeout
        roles = [{"role": role, "db": self._database} for role in ROLES]
        command = {"createUser": name, "pwd": password, "roles": roles, "mechanisms": ["SCRAM-SHA-256"]}
        await self._admin.command(self._database, command, limit, read=False)
        target = replace(
            self._target,
            username=name,
            password=password,
            auth_source=self._database,
            limits=replace(self._target.limits, max=3),
        )
        self._work = Server(target, self._observer)

    async def _end_leftovers(self) -> None:
        """End commands and transactions of a run that was killed: both would go on on the server for a while."""
        try:
            client = await self._server.client()
            async with client.start_session() as session:
                sessions = {"aggregate": 1, "pipeline": [{"$listLocalSessions": {}}], "cursor": {}}
                reply: Doc = await client["admin"].command(sessions, session=session)
                ours = session.session_id["id"]
                others = [{"id": one["_id"]["id"]} for one in reply["cursor"]["firstBatch"] if one["_id"]["id"] != ours]
                if others:
                    await client["admin"].command({"killSessions": others}, session=session)
        except (PyMongoError, OSError) as error:
            raise self._server.error(error, "ending the sessions of an earlier run") from None

    async def _drop_user(self) -> None:
        command = {"dropUser": user_name(self._database)}
        try:
            await self._admin.run(self._database, command, self._target.limits.statement_timeout, read=False)
        except OperationFailure as error:
            if error.code != _USER_NOT_FOUND:
                raise self._admin.error(error, "dropping the migrations' user") from None
        except (PyMongoError, OSError) as error:
            raise self._admin.error(error, "dropping the migrations' user") from None


def fingerprint(commands: Sequence[Command]) -> str:
    """sha256 over the commands that are done, to notice when one of them is changed later."""
    whole = hashlib.sha256()
    for command in commands:
        whole.update(hashlib.sha256(command.text.encode()).digest())
    return whole.hexdigest()


def _upsert(collection: str, key: object, values: Doc, clock: str) -> Doc:
    """One document, with a time by the server's clock."""
    update = {"$set": values, "$currentDate": {clock: True}}
    return {"update": collection, "updates": [{"q": {"_id": key}, "u": update, "upsert": True}]}
