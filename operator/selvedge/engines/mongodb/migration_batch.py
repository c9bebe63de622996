"""A batched update: every document that a filter finds, in the order of _id, a batch in each transaction.

The last _id of a batch is committed with the batch, so a run that was cut off goes on behind it and changes no document
twice. Documents that come in behind the walk are not looked for: the application has to write them right already.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pymongo.errors import OperationFailure

from selvedge.engines.mongodb.bson_json import to_bson
from selvedge.engines.mongodb.migration_commands import check_reply
from selvedge.engines.mongodb.migration_documents import matching

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from pymongo.asynchronous.client_session import AsyncClientSession

    from selvedge.engines.mongodb.connect import Server
    from selvedge.engines.mongodb.migration_history import Cursor
    from selvedge.migrate.mongo import BatchUpdate

COUNT_SECONDS = 30.0
"""How long the documents are counted, which is only for people to see how far it is."""

_TRIES = 8
_PAUSE = 0.05
_UNTOLD = 1.0

Doc = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Turn:
    """What the batches need of the run. ``commit`` runs a batch and writes the cursor, in one transaction if it can."""

    checkpoint: Callable[[], None]
    waiting: Callable[[str], Awaitable[None]]
    commit: Callable[[Callable[[AsyncClientSession | None], Awaitable[Cursor]]], Awaitable[Cursor]]
    limit: float
    comment: str
    random: Random


async def run_batches(server: Server, database: str, batch: BatchUpdate, cursor: Cursor, turn: Turn) -> Cursor:
    """Run what is left of a batched update; returns the cursor behind its last batch, still on this command.

    Raises the driver's exceptions, and what ``turn`` raises.
    """
    where, update = to_bson(batch.filter), to_bson(batch.update)
    if not cursor.batch:
        cursor = replace(cursor, batch={"total": await _total(server, database, batch, where, turn), "documents": 0})
    try:
        while True:
            if cursor.batch["documents"] or (cursor.batch["total"] or 0) > batch.size:
                await turn.waiting(_told(batch, cursor.batch))
            turn.checkpoint()
            keys = await _keys(server, database, batch, where, cursor.batch, turn)
            if not keys:
                return cursor
            cursor = await _one(server, database, batch, (where, update), cursor, keys, turn)
    finally:
        await turn.waiting("")


async def _total(server: Server, database: str, batch: BatchUpdate, where: Doc, turn: Turn) -> int | None:
    """How many documents there are to update, told as what is waited for where it takes a while."""
    counting = asyncio.create_task(matching(server, database, batch.collection, where, COUNT_SECONDS))
    try:
        done, _ = await asyncio.wait({counting}, timeout=_UNTOLD)
        if not done:
            await turn.waiting(f"the count of documents in {batch.collection} to be updated")
        return await counting
    finally:
        counting.cancel()


async def _one(
    server: Server,
    database: str,
    batch: BatchUpdate,
    change: tuple[Doc, Any],
    cursor: Cursor,
    keys: list[Any],
    turn: Turn,
) -> Cursor:
    """One batch and the cursor behind it; tried again where somebody else writes the same documents."""
    where, update = change
    query = {"$and": [{"_id": {"$in": keys}}, where]} if where else {"_id": {"$in": keys}}
    command: Doc = {"update": batch.collection, "updates": [{"q": query, "u": update, "multi": True}]}
    command["comment"] = turn.comment
    if turn.limit > 0:
        command["maxTimeMS"] = round(turn.limit * 1000)

    async def work(session: AsyncClientSession | None) -> Cursor:
        client = await server.client()
        reply: Doc = await client[database].command(command, session=session)
        check_reply(reply)
        changed = int(reply.get("nModified", 0))
        state = cursor.batch | {"after": keys[-1], "documents": cursor.batch["documents"] + changed}
        return replace(cursor, batch=state, documents=cursor.documents + changed)

    for attempt in range(_TRIES):
        try:
            return await turn.commit(work)
        except OperationFailure as error:
            if attempt + 1 == _TRIES or not error.has_error_label("TransientTransactionError"):
                raise
            await asyncio.sleep(turn.random.uniform(0, _PAUSE * 2**attempt))
            turn.checkpoint()
    raise AssertionError("the last try returns or raises")


async def _keys(server: Server, database: str, batch: BatchUpdate, where: Doc, state: Doc, turn: Turn) -> list[Any]:
    """The next keys. By the bounds of the index and not by $gt, which finds values of the same type alone."""
    command: Doc = {
        "find": batch.collection,
        "filter": where,
        "projection": {"_id": 1},
        "hint": {"_id": 1},
        "sort": {"_id": 1},
        "limit": batch.size,
        "batchSize": batch.size,
        "singleBatch": True,
        "comment": turn.comment,
    }
    if "after" in state:
        beyond = {"_id": {"$ne": state["after"]}}
        command |= {"min": {"_id": state["after"]}, "filter": {"$and": [beyond, where]} if where else beyond}
    reply = await server.run(database, command, turn.limit or None)
    return [document["_id"] for document in reply["cursor"]["firstBatch"]]


def _told(batch: BatchUpdate, state: Doc) -> str:
    total = state.get("total")
    of = f" of {total}" if total is not None else ""
    return f"the update of {batch.collection}: {state['documents']}{of} documents"
