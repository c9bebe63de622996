"""The migrations' lease of a MongoDB database: one runner at a time, by the server's clock, with a fence.

It is another lease than the reconciler's: a migration may run for hours. Who lost it can still believe to hold it for
a moment, so every write of the history carries the fence, and a fence that is not the newest writes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from selvedge.core.errors import SelvedgeError, TransientError
from selvedge.core.reasons import Reason

if TYPE_CHECKING:
    from selvedge.engines.mongodb.connect import Server

COLLECTION = "selvedge.migrations"
LEASE = 20.0
"""Seconds that a dead runner keeps others out."""

_MARGIN = 5.0
_NAME = "lease"
_FENCE = "fence"
_LONG_AGO = datetime.fromtimestamp(0, UTC)


class Lease:
    """The lease; :meth:`check` before every write. Once lost it stays lost: a new run takes a new one.

    ``run`` (a resource's uid) is told to whoever waits, with this process and its host.
    """

    def __init__(self, server: Server, database: str, lease: float = LEASE, *, run: str = "") -> None:
        self.fence = 0
        self._server = server
        self._database = database
        self._lease = lease
        self._holder = uuid.uuid4().hex
        self._who = f"process {os.getpid()} on {socket.gethostname()}" + (f", run {run}" if run else "")
        self._renewed = 0.0
        self._lost = False
        self._task: asyncio.Task[None] | None = None

    def check(self) -> None:
        """Raise TransientError when the lease may have gone to somebody else."""
        if self._lost or time.monotonic() - self._renewed > self._lease - min(_MARGIN, self._lease / 4):
            raise TransientError(
                Reason.WAITING_FOR_LOCK,
                f"the migrations' lease of database {self._database} could not be renewed in time; tried again",
            )

    async def acquire(self) -> bool:
        """Take the lease, or renew it; False while somebody else holds it."""
        await self._send(
            {
                "update": COLLECTION,
                "updates": [
                    {
                        "q": {"_id": _NAME},
                        "u": {"$setOnInsert": {"holder": "", "fence": 0, "expires": _LONG_AGO}},
                        "upsert": True,
                    }
                ],
            }
        )
        mine = {"$eq": ["$holder", self._holder]}
        sent = time.monotonic()
        reply = await self._send(
            {
                "findAndModify": COLLECTION,
                "query": {"_id": _NAME, "$expr": {"$or": [{"$lt": ["$expires", "$$NOW"]}, mine]}},
                "update": [
                    {
                        "$set": {
                            "fence": {"$cond": [mine, "$fence", {"$add": ["$fence", 1]}]},
                            "expires": {"$add": ["$$NOW", int(self._lease * 1000)]},
                            "holder": self._holder,
                            "who": {"$literal": self._who},
                        }
                    }
                ],
                "new": True,
            }
        )
        value = reply.get("value")
        if value is None:
            return False
        self.fence, self._renewed = int(value["fence"]), sent
        if self._task is None:
            self._task = asyncio.create_task(self._beat())
        return True

    async def holder(self) -> str:
        """Who holds the lease, or held it last; empty where that is not written into it."""
        find = {"find": COLLECTION, "filter": {"_id": _NAME}, "projection": {"who": 1}, "limit": 1, "singleBatch": True}
        reply = await self._server.command(self._database, find, self._server.target.limits.statement_timeout)
        return next((str(one.get("who", "")) for one in reply["cursor"]["firstBatch"]), "")

    async def confirm(self) -> bool:
        """Renew the lease if it is still ours; never take it again once it was another's."""
        sent = time.monotonic()
        reply = await self._send(
            {
                "findAndModify": COLLECTION,
                "query": {"_id": _NAME, "holder": self._holder, "fence": self.fence},
                "update": [{"$set": {"expires": {"$add": ["$$NOW", int(self._lease * 1000)]}}}],
            }
        )
        if reply.get("value") is None:
            self._lost = True
        elif not self._lost:
            self._renewed = sent
        return not self._lost

    async def publish(self) -> None:
        """Make our fence the newest: from here on nobody who held the lease before can commit.

        It is a document of its own, because the renewals of the lease would conflict with every long transaction that
        guards itself by it. This waits for a transaction of the holder before, which is to be ended first.
        """
        newest = {"q": {"_id": _FENCE}, "u": {"$max": {"fence": self.fence}}, "upsert": True}
        await self._send({"update": COLLECTION, "updates": [newest]})

    async def release(self) -> None:
        """Let the next one in at once."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        expired = {"q": {"_id": _NAME, "holder": self._holder}, "u": {"$set": {"expires": _LONG_AGO}}}
        await self._send({"update": COLLECTION, "updates": [expired]})

    def guard(self) -> dict[str, Any]:
        """An update that matches one document only while our fence is the newest; it belongs into a transaction."""
        return {
            "update": COLLECTION,
            "updates": [{"q": {"_id": _FENCE, "fence": self.fence}, "u": [{"$set": {"written": "$$NOW"}}]}],
        }

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._lease / 4)
            try:
                if not await self.confirm():
                    return
            except SelvedgeError:
                continue  # check() says so when it lasts

    async def _send(self, command: dict[str, Any]) -> dict[str, Any]:
        limit = self._server.target.limits.statement_timeout
        return await self._server.command(self._database, command, limit, read=False)
