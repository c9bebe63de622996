"""A user of somebody's own that migrations run as, in place of the one that is made for each run.

It is looked at before anything runs: it may do enough in the database, and nothing anywhere else. It cannot be the
fence that a user made anew is, so what holds a runner back that was paused is the lease alone: once another run has it,
the server refuses every write of the history, and with it every transaction and what is written down before it is sent.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pymongo.errors import PyMongoError

from selvedge.core.errors import InvalidError, NotPermittedError
from selvedge.core.reasons import Reason
from selvedge.engines.mongodb.connect import Server
from selvedge.engines.mongodb.migration_user import Migrator
from selvedge.engines.mongodb.shell import granting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from selvedge.engines.base import Observer, ServerTarget

NEEDED = frozenset({"find", "insert", "update", "remove", "createCollection", "createIndex"})
"""What the history needs, and hardly a migration goes without."""

_COMMENT = "^selvedge migration "

Doc = dict[str, Any]


class OwnUser(Migrator):
    """The user ``login`` (name and password), defined in the database that is migrated."""

    def __init__(
        self, target: ServerTarget, admin: Server, database: str, observer: Observer, login: tuple[str, str]
    ) -> None:
        super().__init__(target, admin, database, observer)
        self.name, self._password = login

    async def make(self, still_ours: Callable[[], Awaitable[bool]]) -> None:
        """Log in, and look at what it may do. Raises InvalidError, NotPermittedError, and what a login raises."""
        if not await still_ours():
            raise self._lost()
        limits = replace(self._target.limits, max=3)
        target = replace(
            self._target, username=self.name, password=self._password, auth_source=self._database, limits=limits
        )
        server = Server(target, self._observer)
        try:
            self._check(await self._privileges(server))
        except BaseException:
            await server.close()
            raise
        self._server = server

    async def still_there(self) -> bool:
        """It is not ours to know when it goes: a login that is refused says so itself."""
        return True

    async def end_leftovers(self) -> None:
        """End what migrations of a run that was killed left running, and nothing else of this user's.

        A transaction that such a run left open is ended by the server, within a minute.
        """
        mine: list[Doc] = [
            {"$currentOp": {}},
            {"$match": {"command.comment": {"$regex": _COMMENT}, "command.createIndexes": {"$exists": False}}},
        ]
        try:
            client = await self.server.client()
            reply: Doc = await client["admin"].command({"aggregate": 1, "pipeline": mine, "cursor": {}})
            for one in reply["cursor"]["firstBatch"]:
                await client["admin"].command({"killOp": 1, "op": one["opid"]})
        except (PyMongoError, OSError) as error:
            raise self.server.error(error, "ending the commands of an earlier run") from None

    async def drop(self) -> None:
        """Nothing: the user is not ours."""

    async def _privileges(self, server: Server) -> list[Doc]:
        command = {"connectionStatus": 1, "showPrivileges": True}
        reply = await server.command(self._database, command, self._target.limits.statement_timeout)
        found: list[Doc] = reply["authInfo"]["authenticatedUserPrivileges"]
        return found

    def _check(self, privileges: Collection[Doc]) -> None:
        # a cluster's resources have no database, and "any database" has an empty one
        elsewhere = sorted({one["resource"].get("db") or "" for one in privileges} - {self._database})
        if elsewhere:
            where = f"database {elsewhere[0]}" if elsewhere[0] else "other databases, or the whole server"
            raise InvalidError(
                Reason.INVALID_SPEC,
                f"user {self.name} of runAs may act on {where}: migrations run as a user of database "
                f"{self._database} alone; take its other roles away, or name another user",
            )
        held: set[str] = set()
        for privilege in privileges:
            resource = privilege["resource"]
            if resource.get("collection") == "":
                held.update(privilege["actions"])
        lacking = sorted(NEEDED - held)
        if lacking:
            roles = [(role, self._database) for role in ("readWrite", "dbAdmin")]
            raise NotPermittedError(
                Reason.INSUFFICIENT_PRIVILEGES,
                f"user {self.name} of runAs may not {', '.join(lacking)} in database {self._database}: grant it "
                "readWrite and dbAdmin there",
                (granting(self._database, self.name, roles),),
            )
