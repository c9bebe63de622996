"""Reading one database: collections, their indexes and our claims, all asked for at the same time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pymongo.errors import OperationFailure, PyMongoError

from selvedge.core.mongodb.document import number
from selvedge.core.mongodb.model import (
    Desired,
    Index,
    Live,
    LiveCollection,
    Scalar,
    TimeSeries,
    document_or_none,
    flat,
    index_from_server,
)
from selvedge.engines.mongodb import claims as claims_module
from selvedge.engines.mongodb.bson_json import to_bson, to_json
from selvedge.engines.mongodb.errors import NAMESPACE_NOT_FOUND

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from selvedge.core.mongodb.diff import Difference
    from selvedge.core.unit import ObjectRef
    from selvedge.engines.mongodb.claims import Claim
    from selvedge.engines.mongodb.connect import Server

_ON_VIEW = 166
_SYSTEM_PREFIX = "system."
#: Where a time series keeps its measurements.
_BUCKETS_PREFIX = "system.buckets."
_BATCH = 10_000


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A database as it was found. ``foreign`` are the collections that are neither the server's nor the operator's."""

    live: Live
    claims: Mapping[ObjectRef, Claim]
    foreign: frozenset[str]


async def snapshot(server: Server, metadata: str, database: str, names: Iterable[str]) -> Snapshot:
    """Look at a database; indexes are read of the collections in ``names`` and of those that are claimed.

    ``metadata`` is the operator's own database, which holds the claims.
    """
    wanted = sorted(set(names))
    collections, claims, *indexes = await asyncio.gather(
        _collections(server, database),
        _claims(server, metadata, database),
        *(_indexes(server, database, n) for n in wanted),
    )
    by_name = dict(zip(wanted, indexes, strict=True))
    more = sorted({claim.collection for claim in claims.values()} & set(collections) - set(wanted))
    by_name.update(zip(more, await asyncio.gather(*(_indexes(server, database, n) for n in more)), strict=True))
    live = {name: _live(entry, by_name.get(name, [])) for name, entry in collections.items()}
    foreign = frozenset(name for name in live if not name.startswith(claims_module.RESERVED_PREFIX))
    return Snapshot(Live(live), claims, foreign)


async def look_closer(server: Server, database: str, live: Live, desired: Desired, found: Difference) -> Live:
    """Answer the questions of a difference: which collections hold documents, how many violate the validator."""
    collections = dict(live.collections)
    for name in found.look_into:
        reply = await _read(server, database, {"find": name, "limit": 1, "singleBatch": True, "projection": {"_id": 1}})
        collections[name] = replace(collections[name], occupied=bool(reply["cursor"]["firstBatch"]))
    for wanted in desired.collections:
        if wanted.name in found.count and wanted.validator is not None:
            query = {"$nor": [to_bson(wanted.validator.value())]}
            reply = await _read(server, database, {"count": wanted.name, "query": query})
            collections[wanted.name] = replace(collections[wanted.name], violators=int(reply["n"]))
    return Live(collections)


async def _read(server: Server, database: str, command: dict[str, Any]) -> dict[str, Any]:
    return await server.command(database, command, server.target.limits.statement_timeout)


async def _collections(server: Server, database: str) -> dict[str, dict[str, Any]]:
    client = await server.client()
    try:
        cursor = await client[database].list_collections(maxTimeMS=int(server.target.limits.statement_timeout * 1000))
        entries = await cursor.to_list()
    except (PyMongoError, OSError) as error:
        raise server.error(error, "listCollections") from None
    uuids = {entry["name"]: (entry.get("info") or {}).get("uuid") for entry in entries}
    return {
        name: dict(entry) | {"identity": bytes(uuids[name] or uuids.get(_BUCKETS_PREFIX + name) or b"").hex()}
        for entry in entries
        if not (name := entry["name"]).startswith(_SYSTEM_PREFIX)
    }


async def _claims(server: Server, metadata: str, database: str) -> dict[ObjectRef, Claim]:
    client = await server.client()
    try:
        cursor = client[metadata][claims_module.COLLECTION].find(
            claims_module.of_database(database),
            batch_size=_BATCH,
            max_time_ms=int(server.target.limits.statement_timeout * 1000),
        )
        claims = [claims_module.from_document(document) for document in await cursor.to_list()]
    except (PyMongoError, OSError) as error:
        raise claims_module.error_of(error, server, metadata, f"find {metadata}.claims") from None
    return {claim.ref: claim for claim in claims}


async def _indexes(server: Server, database: str, name: str) -> list[dict[str, Any]]:
    try:
        # With the build's UUID an index that is still being built can be told from one that stands.
        reply = await server.run(
            database, {"listIndexes": name, "includeBuildUUIDs": True}, server.target.limits.statement_timeout
        )
    except OperationFailure as error:
        if error.code in (NAMESPACE_NOT_FOUND, _ON_VIEW):
            return []
        raise server.error(error, "listIndexes") from None
    except (PyMongoError, OSError) as error:
        raise server.error(error, "listIndexes") from None
    return list(reply["cursor"]["firstBatch"])


def _live(entry: Mapping[str, Any], indexes: list[dict[str, Any]]) -> LiveCollection:
    options = to_json(entry.get("options") or {})
    series = options.get("timeseries")
    collation = flat(options.get("collation"))
    return LiveCollection(
        name=entry["name"],
        kind=entry.get("type", "collection"),
        validator=document_or_none(options.get("validator")),
        level=options.get("validationLevel", "strict"),
        action=options.get("validationAction", "error"),
        indexes=_live_indexes(indexes, collation),
        time_series=None if series is None else _series(series),
        expire_after=None if options.get("expireAfterSeconds") is None else number(options["expireAfterSeconds"]),
        identity=entry["identity"],
    )


def _live_indexes(indexes: Iterable[Mapping[str, Any]], collation: tuple[tuple[str, Scalar], ...]) -> tuple[Index, ...]:
    entries = (index_from_server(to_json(index), collation) for index in indexes)
    return tuple(sorted((index for index in entries if index.name != "_id_"), key=lambda index: index.name))


def _series(raw: Mapping[str, Any]) -> TimeSeries:
    return TimeSeries(raw["timeField"], raw.get("metaField", ""), raw.get("granularity", "seconds"))
