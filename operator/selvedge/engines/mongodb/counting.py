"""How many documents go with a destructive change: counted where that is cheap, else the server's own number.

Counting reads a collection as far as a limit, for a second at most. It is done once for a plan.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pymongo.errors import ExecutionTimeout, OperationFailure

from selvedge.core.mongodb.changes import (
    CreateIndex,
    DropCollection,
    ReplaceIndex,
    SetCollectionExpiry,
    SetIndexOptions,
)
from selvedge.core.mongodb.model import Index, LiveCollection
from selvedge.core.rowcount import Counted, RowCount
from selvedge.core.unit import Risk
from selvedge.engines.mongodb.errors import MAX_TIME_EXPIRED, UNAUTHORIZED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from selvedge.core.mongodb.changes import Change
    from selvedge.engines.mongodb.connect import Server

#: More documents than these are not counted one by one: a person decides in the same way about a million and two.
MOST = 100_000
_SECONDS = 1.0
_UNIT = "document"

Key = tuple[str, str, str]
"""A change in a plan: its object, what is sent, and what that replaces."""


def key_of(change: Change) -> Key:
    """What a number was counted for."""
    found = change.summary()
    return str(found.ref), found.statement, found.before


class Losses:
    """What was counted for the plans of one server, by database. A plan that is over is forgotten."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._known: dict[str, dict[Key, RowCount]] = {}

    async def count(self, database: str, pending: Iterable[Change]) -> dict[Key, RowCount]:
        """How many documents go with each of the changes that lose some. Raises the driver's errors."""
        before, found = self._known.pop(database, {}), {}
        for change in pending:
            query = _lost(change) if change.risk is Risk.DESTRUCTIVE else None
            if query is not None:
                key = key_of(change)
                found[key] = before.get(key) or await self._count(database, change, query)
        if found:
            self._known[database] = found
        return found

    async def _count(self, database: str, change: Change, query: dict[str, Any]) -> RowCount:
        pipeline = [{"$match": query}, {"$limit": MOST + 1}, {"$count": "n"}]
        try:
            command = {"aggregate": change.collection, "pipeline": pipeline, "cursor": {}}
            batch = (await self._server.run(database, command, _SECONDS))["cursor"]["firstBatch"]
            number = int(batch[0]["n"]) if batch else 0
            if number <= MOST:
                return RowCount(number, Counted.EXACT, _UNIT)
            if query:
                return RowCount(MOST, Counted.AT_LEAST, _UNIT)
        except OperationFailure as error:
            # Too many to read in that time, or not ours to read; a server that is gone is somebody else's to tell.
            if not isinstance(error, ExecutionTimeout) and error.code not in (MAX_TIME_EXPIRED, UNAUTHORIZED):
                raise
            if query or error.code == UNAUTHORIZED:
                return RowCount(0, Counted.UNKNOWN, _UNIT)
        reply = await self._server.run(database, {"count": change.collection}, _SECONDS)
        return RowCount(int(reply["n"]), Counted.ESTIMATE, _UNIT)


def _lost(change: Change) -> dict[str, Any] | None:
    """The documents that go at once when the change is made; None where none do."""
    match change:
        case DropCollection():
            return {}
        case CreateIndex(desired=index) | ReplaceIndex(desired=index):
            return _older(index.keys[0][0], index.expire_after)
        case SetIndexOptions(before=Index() as index, expire_after=age):
            return _older(index.keys[0][0], age)
        case SetCollectionExpiry(before=LiveCollection(time_series=series), expire_after=age) if series is not None:
            return _older(series.time_field, age)
        case _:
            return None


def _older(field: str, seconds: float | None) -> dict[str, Any] | None:
    """Documents whose date is older than that; a text or a missing field never expires."""
    if seconds is None:
        return None
    try:
        limit = datetime.now(UTC) - timedelta(seconds=seconds)
    except OverflowError:
        return None
    return {field: {"$lt": limit}}
