"""What a command of a migration waits for, and how far an index build is: asked of the server while the command runs.

The build goes on in a thread of the server's own, so only the administrator sees it; the command's comment tells which
one it is. Where the administrator's user may not look (``inprog``), nothing is told.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from pymongo.errors import PyMongoError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from selvedge.engines.mongodb.connect import Server

EVERY = 1.0
"""Seconds between two looks."""

Doc = dict[str, Any]


@contextlib.asynccontextmanager
async def watching(admin: Server, comment: str, waiting: Callable[[str], Awaitable[None]]) -> AsyncIterator[None]:
    """Tell ``waiting`` what the commands with this comment wait for, for as long as the block runs."""
    task = asyncio.create_task(_watch(admin, comment, waiting))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _watch(admin: Server, comment: str, waiting: Callable[[str], Awaitable[None]]) -> None:
    last = ""
    try:
        while True:
            await asyncio.sleep(EVERY)
            try:
                now = told(await _operations(admin, comment))
            except (PyMongoError, OSError):
                return  # it may not look, or the connection broke, which the command itself finds out
            if now != last:
                last = now
                await waiting(now)
    finally:
        if last:
            await waiting("")


async def _operations(admin: Server, comment: str) -> list[Doc]:
    mine = {"$or": [{"command.comment": comment}, {"transaction": {"$exists": True}, "active": False}]}
    fields = {"ns": 1, "msg": 1, "progress": 1, "command.comment": 1, "command.indexes.name": 1, "desc": 1}
    fields |= {"command.createIndexes": 1, "waitingForLock": 1, "transaction.timeOpenMicros": 1, "appName": 1}
    pipeline = [
        {"$currentOp": {"allUsers": True, "idleSessions": True}},
        {"$match": mine},
        {"$project": fields},
    ]
    reply = await admin.run("admin", {"aggregate": 1, "pipeline": pipeline, "cursor": {}}, 5.0)
    found: list[Doc] = reply["cursor"]["firstBatch"]
    for one in found:
        one["mine"] = (one.get("command") or {}).get("comment") == comment
    return found


def told(operations: list[Doc]) -> str:
    """One line from what ``$currentOp`` says; empty where there is nothing to tell."""
    for one in operations:
        message = str(one.get("msg") or "")
        if one["mine"] and message.startswith("Index Build"):
            return _build(one, message)
    if not any(one["mine"] and one.get("waitingForLock") for one in operations):
        return ""
    others = [one for one in operations if not one["mine"] and one.get("transaction")]
    oldest = max(others, key=lambda one: one["transaction"].get("timeOpenMicros", 0), default=None)
    if oldest is None:
        return "a lock that another operation holds"
    seconds = oldest["transaction"].get("timeOpenMicros", 0) / 1e6
    return f"a lock; a transaction of {oldest.get('appName') or 'a client'} is open for {seconds:.0f} s"


def _build(one: Doc, message: str) -> str:
    names = ", ".join(str(index.get("name")) for index in (one.get("command") or {}).get("indexes", ()))
    collection = str(one.get("ns", "")).partition(".")[2]
    phase = message.removeprefix("Index Build: ").partition(" Index Build:")[0].partition(":")[0]
    progress = one.get("progress") or {}
    total = progress.get("total", 0)
    share = f", {min(100, 100 * progress.get('done', 0) // total)} %" if total else ""
    return f"the build of index {names} on {collection}: {phase}{share}"
