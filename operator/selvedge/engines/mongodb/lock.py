"""The lock of a database: a lease document that whoever writes holds and renews, by the server's clock.

It lies beside the claims in the operator's own database, where no migration can take or end it; ``_id`` is the name of
the database that it is for. MongoDB has no advisory locks and no transactions over collections and indexes. The lease
bounds how long two operators can both believe that they may write: a holder that could not renew in time stops by
itself before the lease ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pymongo.errors import OperationFailure, PyMongoError

from selvedge.core.errors import SelvedgeError, TransientError
from selvedge.core.reasons import Reason
from selvedge.engines.mongodb import claims
from selvedge.engines.mongodb.connect import Server, operation
from selvedge.engines.mongodb.errors import DUPLICATE_KEY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

COLLECTION = "lock"
LEASE = 15.0
_MARGIN = 3.0
_POLL = 0.1
_LONG_AGO = datetime.fromtimestamp(0, UTC)


class Lock:
    """A lock that is held. :meth:`check` before every write."""

    def __init__(self, server: Server, metadata: str, database: str) -> None:
        self.fence = 0
        self._server = server
        self._metadata = metadata
        self._database = database
        self._holder = uuid.uuid4().hex
        self._renewed = 0.0

    def check(self) -> None:
        """Raise TransientError when the lease may have gone to somebody else."""
        if time.monotonic() - self._renewed > LEASE - _MARGIN:
            raise TransientError(
                Reason.WAITING_FOR_LOCK,
                f"the lock of database {self._database} could not be renewed in time; tried again by itself",
            )

    async def acquire(self) -> bool:
        """Take or renew the lease; False when somebody else holds it."""
        free = {"$or": [{"$lte": [{"$ifNull": ["$expires", _LONG_AGO]}, "$$NOW"]}, _mine(self._holder)]}
        fence: Any = {"$ifNull": ["$fence", 0]}
        taken = {
            "holder": {"$literal": self._holder},
            "fence": {"$cond": [_mine(self._holder), fence, {"$add": [fence, 1]}]},
            "expires": {"$add": ["$$NOW", int(LEASE * 1000)]},
        }
        kept = {"holder": "$holder", "fence": "$fence", "expires": "$expires"}
        update = {name: {"$cond": [free, taken[name], kept[name]]} for name in taken}
        sent = time.monotonic()
        command = {"findAndModify": COLLECTION, "query": {"_id": self._database}, "update": [{"$set": update}]}
        try:
            reply = await self._command(command | {"upsert": True, "new": True})
        except OperationFailure as error:
            if error.code == DUPLICATE_KEY:  # two made the document at the same moment, and the other one was first
                return False
            raise self._error(error) from None
        except (PyMongoError, OSError) as error:
            raise self._error(error) from None
        value = reply["value"]
        if value["holder"] != self._holder:
            return False
        self.fence, self._renewed = int(value["fence"]), sent
        return True

    async def release(self) -> None:
        """Give the lease back; the fence stays, so that it only ever grows."""
        expired = [{"$set": {"expires": _LONG_AGO}}]
        command = {"update": COLLECTION, "updates": [{"q": self._mine(), "u": expired}]}
        await self._command(command, self._server.target.limits.lock_timeout)

    async def remove(self) -> None:
        """Give the lease back for good, when nothing of ours is left in the database."""
        try:
            await self._command({"delete": COLLECTION, "deletes": [{"q": self._mine(), "limit": 1}]})
        except (PyMongoError, OSError) as error:
            raise self._error(error) from None

    def _mine(self) -> dict[str, Any]:
        return {"_id": self._database, "holder": self._holder}

    def _error(self, error: BaseException) -> Exception:
        return claims.error_of(error, self._server, self._metadata, f"lock {self._database}")

    async def _command(self, command: dict[str, Any], limit: float | None = None) -> dict[str, Any]:
        token = operation.set("lock")
        try:
            return await self._server.run(
                self._metadata, command, limit or self._server.target.limits.statement_timeout, read=False
            )
        finally:
            operation.reset(token)


@contextlib.asynccontextmanager
async def locked(server: Server, metadata: str, database: str, patience: float) -> AsyncIterator[Lock]:
    """Hold the lock of a database, renewed in the background. ``metadata`` is the operator's own database.

    Waits ``patience`` seconds for another holder, then raises TransientError WaitingForLock.
    """
    lock = Lock(server, metadata, database)
    deadline = time.monotonic() + patience
    while not await lock.acquire():
        if time.monotonic() >= deadline:
            raise TransientError(
                Reason.WAITING_FOR_LOCK, f"another operator works on database {database}; tried again by itself"
            )
        await asyncio.sleep(_POLL)
    renewal = asyncio.create_task(_renew(lock))
    try:
        yield lock
    finally:
        renewal.cancel()
        await asyncio.wait({renewal})
        # Without an answer the lease ends by itself.
        with contextlib.suppress(PyMongoError, OSError):
            await lock.release()


async def _renew(lock: Lock) -> None:
    while True:
        await asyncio.sleep(LEASE / 3)
        # A renewal that failed is tried again; whether the lease still holds, check() tells by the time alone.
        with contextlib.suppress(SelvedgeError):
            if not await lock.acquire():
                return


def _mine(holder: str) -> dict[str, Any]:
    return {"$eq": ["$holder", {"$literal": holder}]}
