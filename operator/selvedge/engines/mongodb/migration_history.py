"""The history of a MongoDB database's migrations: a document for each, and a collection of events that only grows.

Every write is guarded by the lease's fence, in the same transaction where the server has transactions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from datetime import UTC
from typing import TYPE_CHECKING, Any, Literal

from bson import ObjectId
from pymongo.errors import OperationFailure, PyMongoError

from selvedge.core.errors import InvalidError, NotPermittedError, TransientError
from selvedge.core.reasons import Reason
from selvedge.engines.mongodb.errors import NAMESPACE_EXISTS, UNAUTHORIZED
from selvedge.engines.mongodb.migration_commands import check_reply
from selvedge.engines.mongodb.shell import granting
from selvedge.migrate.history import EVENTS as STEP_EVENTS
from selvedge.migrate.history import HistoryRow, RowState, line_of_event, tool_version

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pymongo.asynchronous.client_session import AsyncClientSession

    from selvedge.engines.mongodb.connect import Server
    from selvedge.migrate.load import Migration
    from selvedge.migrate.mongo import Command

HISTORY = "selvedge.history"
EVENTS = "selvedge.events"

_LONG = 65_536
"""Bytes of an up text that is not read with every row."""

_LARGEST = 12_000_000
"""Bytes of both texts together; the server takes documents of 16 MiB."""

Doc = dict[str, Any]
Direction = Literal["up", "down"]


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far one direction of a migration is.

    ``sent`` is the fingerprint of the command that was sent and whose end is not known. ``documents`` were changed so
    far. ``batch`` belongs to a batched update under way: ``after`` (the last _id), ``documents`` and ``total``.
    """

    done: int = 0
    sent: str = ""
    mark: str = ""
    documents: int = 0
    batch: Doc = field(default_factory=dict)

    def next(self, documents: int = 0) -> Cursor:
        """One command further."""
        return Cursor(self.done + 1, documents=self.documents + documents)


class History:
    """Reads and writes both collections. ``run`` is a resource's uid, ``who`` the user that migrations run as."""

    def __init__(self, admin: Server, database: str, *, run: str, who: str) -> None:
        self._admin = admin
        self._database = database
        self._run = run
        self._who = who

    async def read(self) -> tuple[HistoryRow, ...]:
        """All rows; writes nothing. Raises the errors of ``core/errors.py``."""
        short = {"$lt": [{"$strLenBytes": {"$ifNull": ["$upText", ""]}}, _LONG]}
        kept = ["name", "kind", "checksumUp", "checksumDown", "downText", "state", "direction", "commandsDone"]
        kept += ["commandsTotal", "cursor", "started", "appliedAt", "durationMs", "appliedBy"]
        fields: Doc = dict.fromkeys(kept, 1) | {"upText": {"$cond": [short, "$upText", ""]}}
        limit = round(self._admin.target.limits.statement_timeout * 1000)
        try:
            client = await self._admin.client()
            found = client[self._database][HISTORY].find({}, fields).max_time_ms(limit)
            return tuple([_row(document) async for document in found])
        except (PyMongoError, OSError) as error:
            if isinstance(error, OperationFailure) and error.code == UNAUTHORIZED:
                raise self._unread() from None
            raise self._admin.error(error, "reading the migrations' history") from None

    async def done(self) -> tuple[str, ...]:
        """See :meth:`MigrationSession.done`."""
        if not self._run:
            return ()
        asked: Doc = {"runUid": self._run, "event": {"$in": list(STEP_EVENTS)}}
        try:
            client = await self._admin.client()
            # an ObjectId is made by one process after the other; the time is the server's and comes first
            found = client[self._database][EVENTS].find(asked).sort([("at", 1), ("_id", 1)])
            found = found.max_time_ms(round(self._admin.target.limits.statement_timeout * 1000))
            return tuple([line_of_event(one["version"], one["checksum"], one["event"]) async for one in found])
        except (PyMongoError, OSError) as error:
            raise self._admin.error(error, "reading the migrations' events") from None

    def _unread(self) -> NotPermittedError:
        user = self._admin.target.username
        remedy = granting(self._admin.target.auth_source, user, [("read", self._database)])
        message = f"user {user} may not read {HISTORY} of database {self._database}; run {remedy}"
        return NotPermittedError(Reason.INSUFFICIENT_PRIVILEGES, message, (remedy,))

    async def cursor(self, migration: Migration, direction: Direction) -> Cursor:
        """Where this direction of the migration stopped; a new cursor where it did not begin."""
        command = {"find": HISTORY, "filter": {"_id": migration.key}, "limit": 1, "singleBatch": True}
        reply = await self._admin.command(self._database, command, self._admin.target.limits.statement_timeout)
        for row in reply["cursor"]["firstBatch"]:
            if row["state"] == RowState.PARTIAL.value and row.get("direction", "up") == direction:
                commands = migration.down_commands if direction == "down" else migration.commands
                sent = row["started"] if isinstance(row["started"], str) else ""
                if row["started"] is True:  # as an earlier version wrote it: one command was sent, its end unknown
                    sent = fingerprint(commands[row["commandsDone"] : row["commandsDone"] + 1])
                return Cursor(row["commandsDone"], sent, row["cursor"], row.get("documents", 0), row.get("batch") or {})
        return Cursor()

    async def ensure(self) -> None:
        """Make both collections where they are missing."""
        for collection in (HISTORY, EVENTS):
            try:
                await self._admin.run(self._database, {"create": collection}, None, read=False)
            except OperationFailure as error:
                if error.code != NAMESPACE_EXISTS:
                    raise self._admin.error(error, f"creating {collection}") from None
            except (PyMongoError, OSError) as error:
                raise self._admin.error(error, f"creating {collection}") from None

    async def upgrade(self) -> None:
        """An earlier version knew what has no version by the number 0, of which there can be one: give it its name."""
        try:
            client = await self._admin.client()
            rows = client[self._database][HISTORY]
            old = await rows.find_one({"_id": "0", "kind": {"$exists": True, "$ne": "Versioned"}})
            if old is not None:
                key = f"{old['kind']}:{old['name']}"
                # twice is as good as once: a process that ends in between leaves both, and the next one goes on
                await rows.update_one({"_id": key}, {"$setOnInsert": {**old, "_id": key}}, upsert=True)
                await rows.delete_one({"_id": "0"})
        except (PyMongoError, OSError) as error:
            raise self._admin.error(error, "upgrading the migrations' history") from None

    def progress(self, migration: Migration, direction: Direction, cursor: Cursor, seconds: float) -> list[Doc]:
        """The commands that write a cursor, or at the end of a direction its last word, with the event."""
        commands = migration.down_commands if direction == "down" else migration.commands
        applied = cursor.done == len(commands)
        if applied and direction == "down":
            gone: Doc = {"documents": cursor.documents, "checksum": migration.down_mark}
            return [_delete(migration.key), self._event(migration, "Undone", **gone)]
        values = self._described(migration) | {
            "state": (RowState.APPLIED if applied else RowState.PARTIAL).value,
            "direction": direction,
            "commandsDone": cursor.done,
            "commandsTotal": len(commands),
            "cursor": "" if applied else fingerprint(commands[: cursor.done]),
            "started": cursor.sent,
            "documents": cursor.documents,
            "batch": cursor.batch,
            "durationMs": round(seconds * 1000),
        }
        if direction == "down":
            # how it was applied stays as it is written, until there is nothing left of it
            for name in ("upText", "checksumUp", "durationMs"):
                del values[name]
        written = [_upsert(migration.key, values, stamp=direction == "up")]
        return [*written, self._event(migration, "Applied", documents=cursor.documents)] if applied else written

    def recorded(
        self, migration: Migration, direction: Literal["mark", "unmark", "accept"], *, actor: str, reason: str
    ) -> list[Doc]:
        """The commands that change the history alone, with an event that names actor and reason."""
        said: Doc = {"actor": actor, "reason": reason}
        if direction == "unmark":
            return [_delete(migration.key), self._event(migration, "Unmarked", **said)]
        values = self._described(migration)
        if direction == "accept":
            for name in ("name", "appliedBy", "runUid", "toolVersion"):
                del values[name]
            change: Doc = {"q": {"_id": migration.key}, "u": {"$set": values}}
            return [{"update": HISTORY, "updates": [change]}, self._event(migration, "Accepted", **said)]
        total = len(migration.commands)
        values |= {
            "state": RowState.APPLIED.value,
            "direction": "up",
            "commandsDone": total,
            "commandsTotal": total,
            "cursor": "",
            "started": "",
            "documents": 0,
            "batch": {},
            "durationMs": 0,
        }
        return [_upsert(migration.key, values), self._event(migration, "Marked", **said)]

    def check_size(self, migration: Migration) -> None:
        """Raise InvalidError where the texts do not fit into a document."""
        size = len(migration.up.encode()) + len((migration.stored_down or "").encode())
        if size > _LARGEST:
            raise InvalidError(
                Reason.INVALID_MIGRATION,
                f"{migration.file} has {size} bytes, and the history keeps at most {_LARGEST}; split it",
            )

    def _described(self, migration: Migration) -> Doc:
        return {
            "name": migration.name,
            "kind": migration.kind,
            "checksumUp": migration.checksum,
            "checksumDown": migration.down_checksum,
            "upText": migration.up,
            "downText": migration.stored_down,
            "appliedBy": self._who,
            "runUid": self._run,
            "toolVersion": tool_version(),
        }

    def _event(self, migration: Migration, event: str, **more: Any) -> Doc:
        values = {
            "version": migration.key,
            "name": migration.name,
            "event": event,
            "checksum": migration.mark,
            "actor": self._who,
            "runUid": self._run,
            **more,
        }
        stamped = {"$set": values, "$currentDate": {"at": True}}
        return {"update": EVENTS, "updates": [{"q": {"_id": ObjectId()}, "u": stamped, "upsert": True}]}


def fingerprint(commands: Sequence[Command]) -> str:
    """sha256 over the commands that are done, to notice when one of them is changed later."""
    whole = hashlib.sha256()
    for command in commands:
        whole.update(hashlib.sha256(command.text.encode()).digest())
    return whole.hexdigest()


def check_cursor(migration: Migration, cursor: Cursor, commands: Sequence[Command]) -> Cursor:
    """The cursor for these commands. Raises InvalidError where one of those that are done was changed since.

    The command under way may have been mended: then it is another one, and was never sent.
    """
    if cursor.mark and cursor.mark != fingerprint(commands[: cursor.done]):
        raise InvalidError(
            Reason.CHECKSUM_MISMATCH,
            f"{migration.file}: one of its first {cursor.done} commands changed after it ran; put their old text back, "
            "only what has not run yet may be mended",
        )
    if cursor.sent and cursor.sent != fingerprint(commands[cursor.done : cursor.done + 1]):
        return replace(cursor, sent="", batch={})
    return cursor


async def write(
    server: Server, database: str, guard: Doc, commands: Sequence[Doc], session: AsyncClientSession | None
) -> None:
    """Send commands of this module behind the lease's guard. Raises TransientError where the lease is gone."""
    client = await server.client()
    for command in [guard, *commands]:
        reply: Doc = await client[database].command(command, session=session)
        check_reply(reply)
        if reply["n"] != 1 and "delete" not in command:
            raise lost(database)


def lost(database: str) -> TransientError:
    """The lease is somebody else's."""
    return TransientError(
        Reason.WAITING_FOR_LOCK,
        f"the migrations' lease of database {database} went to another run; tried again by itself",
    )


def _upsert(key: str, values: Doc, *, stamp: bool = True) -> Doc:
    """One document, with the time by the server's clock."""
    update: Doc = {"$set": values}
    if stamp:
        update["$currentDate"] = {"appliedAt": True}
    return {"update": HISTORY, "updates": [{"q": {"_id": key}, "u": update, "upsert": True}]}


def _delete(key: str) -> Doc:
    return {"delete": HISTORY, "deletes": [{"q": {"_id": key}, "limit": 1}]}


def _row(document: Doc) -> HistoryRow:
    at = document.get("appliedAt")
    duration = document.get("durationMs")
    kind = document.get("kind", "Versioned")
    return HistoryRow(
        # a repeatable and a seed are known by their names
        version=int(document["_id"]) if kind == "Versioned" else 0,
        name=document["name"],
        checksum=document["checksumUp"],
        state=RowState(document["state"]),
        done=document["commandsDone"],
        total=document["commandsTotal"],
        cursor=document["cursor"],
        started=bool(document["started"]),
        kind=kind,
        direction=document.get("direction", "up"),
        down_checksum=document.get("checksumDown"),
        up=document.get("upText") or "",
        down=document.get("downText"),
        applied_at=at.replace(tzinfo=UTC).timestamp() if at is not None else None,
        duration=duration / 1000 if duration is not None else None,
        applied_by=document.get("appliedBy", ""),
    )
