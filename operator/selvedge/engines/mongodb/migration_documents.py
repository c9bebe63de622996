"""Counting documents before a change that they may not fit: keys that are there twice, violations of a validator.

Both read the whole collection, as the build of the index or the first updates would. They give up after a while, and
say nothing then: the server's own answer comes later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pymongo.errors import ExecutionTimeout, OperationFailure

from selvedge.engines.mongodb.errors import connection_lost

if TYPE_CHECKING:
    from collections.abc import Mapping

    from selvedge.engines.mongodb.connect import Server

PATIENCE = 600.0
"""Seconds for one count."""

Doc = dict[str, Any]


async def duplicates(server: Server, database: str, name: str, index: Mapping[str, Any]) -> int:
    """How many keys of a unique index are there more than once; 0 also where that cannot be told.

    Never too many: what an array or a path with numbers in it gives as keys is left out where it is not sure.
    """
    key: dict[str, Any] = dict(index.get("key") or {})
    plain = all(way in (1, -1) and not any(part.isdecimal() for part in path.split(".")) for path, way in key.items())
    if not key or not plain:
        return 0
    paths = list(key)
    stages: list[Doc] = []
    if index.get("partialFilterExpression"):
        stages.append({"$match": index["partialFilterExpression"]})
    if index.get("sparse"):
        stages.append({"$match": {"$or": [{path: {"$exists": True}} for path in paths]}})
    fields = {f"k{number}": {"$ifNull": [f"${path}", None]} for number, path in enumerate(paths)}
    stages.append({"$project": {"_id": 0, **fields}})
    for field in fields:
        # each element of an array is a key of its own; the same one twice in one document is no duplicate
        one = f"${field}"
        stages.append({"$set": {field: {"$cond": [{"$isArray": one}, {"$setUnion": [one, []]}, [one]]}}})
        stages.append({"$unwind": one})
        stages.append({"$match": {"$expr": {"$not": [{"$isArray": one}]}}})
    stages.append({"$group": {"_id": {field: f"${field}" for field in fields}, "n": {"$sum": 1}}})
    stages.append({"$match": {"n": {"$gt": 1}}})
    return await _count(server, database, name, stages, index.get("collation"))


async def violations(server: Server, database: str, name: str, validator: Any) -> int:
    """How many documents a validator refuses."""
    return await _count(server, database, name, [{"$match": {"$nor": [validator]}}])


async def matching(server: Server, database: str, name: str, where: Doc, limit: float) -> int | None:
    """How many documents a filter finds; None where that takes longer than ``limit`` seconds or cannot be counted."""
    try:
        reply = await server.run(database, {"count": name, "query": where}, limit)
    except TimeoutError:
        return None
    except OperationFailure as error:
        if connection_lost(error):
            raise
        return None  # $near is found and not counted; what is wrong with the filter itself, the update will say
    return int(reply["n"])


async def _count(server: Server, database: str, name: str, stages: list[Doc], collation: Any = None) -> int:
    command: Doc = {"aggregate": name, "pipeline": [*stages, {"$count": "n"}], "cursor": {}, "allowDiskUse": True}
    if collation:
        command["collation"] = collation
    try:
        reply = await server.run(database, command, PATIENCE)
    except (ExecutionTimeout, TimeoutError):
        return 0
    batch = reply["cursor"]["firstBatch"]
    return int(batch[0]["n"]) if batch else 0
