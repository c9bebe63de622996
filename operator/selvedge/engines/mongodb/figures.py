"""What a MongoDB server says about itself, from the answers of ``serverStatus`` and ``replSetGetStatus``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from selvedge.core.figures import ReplicaLag, ServerFigures, farthest

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Parts that cost time or space and that nothing here is taken from.
_LEFT_OUT = (
    "asserts",
    "extra_info",
    "flowControl",
    "indexBulkBuilder",
    "locks",
    "logicalSessionRecordCache",
    "metrics",
)
_LEFT_OUT_TOO = ("mirroredReads", "opLatencies", "opReadConcernCounters", "repl", "tcmalloc", "transactions")

SERVER_STATUS: dict[str, Any] = {"serverStatus": 1, **dict.fromkeys(_LEFT_OUT + _LEFT_OUT_TOO, 0)}


def figures_of(server: Mapping[str, Any] | None, members: Mapping[str, Any] | None) -> ServerFigures:
    """The figures from the two answers; None where the user may not ask, or where there is no replica set."""
    server, listed = server or {}, (members or {}).get("members") or []
    holding = [member for member in listed if member["stateStr"] != "ARBITER"]
    connections = server.get("connections") or {}
    current, available = connections.get("current"), connections.get("available")
    states: dict[str, int] = {}
    if current is not None and "active" in connections:
        active = int(connections["active"])
        states = {"active": active, "idle": max(0, int(current) - active)}
    cache = (server.get("wiredTiger") or {}).get("cache") or {}
    size, dirty = cache.get("maximum bytes configured"), cache.get("tracked dirty bytes in the cache")
    queue = (server.get("globalLock") or {}).get("currentQueue") or {}
    return ServerFigures(
        connections=states,
        connection_limit=None if current is None or available is None else int(current) + int(available),
        counters=_counters(cache),
        # Another process, or another member: its counters began at another time.
        counted_by=f"{server.get('host')} {server.get('pid')}",
        lags=_lags(holding),
        replicas_connected=sum(member["stateStr"] == "SECONDARY" for member in listed) if listed else None,
        replicas_expected=len(holding) - 1 if listed else None,
        dirty_ratio=int(dirty) / int(size) if size and dirty is not None else None,
        queued=int(queue["total"]) if "total" in queue else None,
    )


def _counters(cache: Mapping[str, Any]) -> dict[str, int]:
    requested, read = cache.get("pages requested from the cache"), cache.get("pages read into cache")
    if requested is None or read is None:
        return {}
    # Pages that are read ahead were not asked for.
    return {"blocks_hit": max(0, int(requested) - int(read)), "blocks_read": int(read)}


def _lags(members: list[Mapping[str, Any]]) -> tuple[ReplicaLag, ...]:
    """By the dates of the last operations; a member that does not answer, or has none yet, states nothing."""
    newest = next((member["optimeDate"] for member in members if member["stateStr"] == "PRIMARY"), None)
    if newest is None:
        return ()
    return farthest(
        [
            ReplicaLag(str(member["name"]), max(0.0, (newest - member["optimeDate"]).total_seconds()))
            for member in members
            if member["stateStr"] in ("SECONDARY", "RECOVERING") and member.get("health", 1) and _applied(member)
        ]
    )


def _applied(member: Mapping[str, Any]) -> bool:
    return "optimeDate" in member and int(member["optimeDate"].year) > 1970
