"""The user that runs a database's migrations: made for a run with a random password, and dropped after it.

It is a fence as well: a connection loses its rights when its user is dropped, also when another user takes the name. So
a runner that was paused, lost its lease and wakes up can send what it likes; the server runs none of it.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pymongo.errors import OperationFailure, PyMongoError

from selvedge.core.errors import NotPermittedError, TransientError
from selvedge.core.names import shorten
from selvedge.core.reasons import Reason
from selvedge.engines.mongodb.connect import Client, Server
from selvedge.engines.mongodb.errors import UNAUTHORIZED
from selvedge.engines.mongodb.shell import granting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from selvedge.engines.base import Observer, ServerTarget

ROLES = ("readWrite", "dbAdmin")
"""What it may do, in the database that it migrates and in no other."""

_AT_ONCE = 1000
_USER_NOT_FOUND = 11
_USER_EXISTS = 51003

Doc = dict[str, Any]


def user_name(database: str) -> str:
    """The user of a database's migrations."""
    return shorten(database, "_migrator")


class Migrator:
    """The user and its connections. ``server`` is there after :meth:`make`."""

    def __init__(self, target: ServerTarget, admin: Server, database: str, observer: Observer) -> None:
        self.name = user_name(database)
        self._target = target
        self._admin = admin
        self._database = database
        self._observer = observer
        self._server: Server | None = None
        self._identity: object = None

    @property
    def made(self) -> bool:
        """Whether there is a user to drop."""
        return self._server is not None

    @property
    def server(self) -> Server:
        """The connections of the user."""
        if self._server is None:
            raise AssertionError("lock() comes before attempt()")
        return self._server

    async def make(self, still_ours: Callable[[], Awaitable[bool]]) -> None:
        """Make the user anew, which ends the rights of whoever was it before.

        ``still_ours`` asks the server whether we hold the lease: before anything is touched, and again at the end,
        since a runner that was paused in between must not be the one that stays. Raises TransientError then.
        """
        if not await still_ours():
            raise self._lost()
        await self.drop()
        password = secrets.token_urlsafe(32)
        limit = self._target.limits.statement_timeout
        roles = [{"role": role, "db": self._database} for role in ROLES]
        command = {"createUser": self.name, "pwd": password, "roles": roles, "mechanisms": ["SCRAM-SHA-256"]}
        try:
            await self._admin.run(self._database, command, limit, read=False)
        except (PyMongoError, OSError) as error:
            if isinstance(error, OperationFailure) and error.code == _USER_EXISTS:
                raise self._lost() from None
            raise self._refused(error, f"create user {self.name}") from None
        self._identity = await self._look()
        if not await still_ours():
            if await self.still_there():
                await self.drop()
            raise self._lost()
        target = replace(
            self._target,
            username=self.name,
            password=password,
            auth_source=self._database,
            limits=replace(self._target.limits, max=3),
        )
        self._server = Server(target, self._observer)

    def _lost(self) -> TransientError:
        return TransientError(
            Reason.WAITING_FOR_LOCK,
            f"the migrations' lease of database {self._database} went to another run; tried again by itself",
        )

    async def still_there(self) -> bool:
        """Whether the user is the one that was made here."""
        found = await self._look()
        return found is not None and found == self._identity

    async def end_leftovers(self) -> None:
        """End commands and transactions of a run that was killed: both would go on on the server for a while.

        An index build is left to the server: the same command is sent again, and waits for it to end.
        """
        try:
            client = await self.server.client()
            async with client.start_session() as session:
                spared = [session.session_id["id"], *await self._building(client)]
                # by a cursor: what ran here within half an hour is listed, in several batches
                found = await client["admin"].aggregate([{"$listLocalSessions": {}}], session=session)
                others = [{"id": one["_id"]["id"]} async for one in found if one["_id"]["id"] not in spared]
                for start in range(0, len(others), _AT_ONCE):
                    command = {"killSessions": others[start : start + _AT_ONCE]}
                    await client["admin"].command(command, session=session)
        except (PyMongoError, OSError) as error:
            raise self.server.error(error, "ending the sessions of an earlier run") from None

    async def _building(self, client: Client) -> list[object]:
        """The sessions of this user in which indexes are built."""
        stages: list[Doc] = [{"$currentOp": {}}, {"$match": {"command.createIndexes": {"$exists": True}}}]
        reply: Doc = await client["admin"].command({"aggregate": 1, "pipeline": stages, "cursor": {}})
        found = [(one.get("command") or {}).get("lsid") or {} for one in reply["cursor"]["firstBatch"]]
        return [one["id"] for one in found if "id" in one]

    async def drop(self) -> None:
        """Drop the user, if there is one."""
        command = {"dropUser": self.name}
        try:
            await self._admin.run(self._database, command, self._target.limits.statement_timeout, read=False)
        except OperationFailure as error:
            if error.code != _USER_NOT_FOUND:
                raise self._refused(error, f"drop user {self.name}") from None
        except (PyMongoError, OSError) as error:
            raise self._refused(error, f"drop user {self.name}") from None

    def _refused(self, error: BaseException, doing: str) -> Exception:
        if isinstance(error, OperationFailure) and error.code == UNAUTHORIZED:
            name, source = self._target.username, self._target.auth_source
            return NotPermittedError(
                Reason.INSUFFICIENT_PRIVILEGES,
                f"migrations run as a user of their own, and {name} may not {doing}: grant it userAdmin, or dbOwner, "
                f"on database {self._database}",
                (granting(source, name, [("userAdmin", self._database)]),),
            )
        return self._admin.error(error, doing)

    async def disconnect(self) -> None:
        """Close the user's connections."""
        server, self._server = self._server, None
        if server is not None:
            await server.close()

    async def _look(self) -> object:
        command = {"usersInfo": {"user": self.name, "db": self._database}}
        reply = await self._admin.command(self._database, command, self._target.limits.statement_timeout)
        users = reply["users"]
        return users[0].get("userId") if users else None
