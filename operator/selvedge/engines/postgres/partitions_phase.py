"""Taking old partitions away while their table is read and written: DETACH CONCURRENTLY, then DROP.

A plain DETACH needs the table for itself: whoever reads it for long keeps everybody else waiting behind the detach.
CONCURRENTLY marks the partition, so that no new query sees it, and then waits for those that began before, blocking
nobody. It runs in no transaction, so it can be interrupted: the partition stays marked, and the next pass finishes it
(FINALIZE, which runs in one, with the DROP). What was detached and not dropped yet says in its comment what it was.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import psycopg
from psycopg import sql

from selvedge.core.postgres.partition_changes import DropPartitions
from selvedge.engines.postgres.locks import LOCK_KEY
from selvedge.engines.postgres.partitions_sql import drop_steps, plain_drops

Send = Callable[[sql.Composable], Awaitable[list[tuple[object, ...]]]]
Close = Callable[[], Awaitable[None]]

#: For those who use the table now. It holds up this pass and the database's lock, and nobody who reads or writes.
PATIENCE = "2s"
_LOCK_TIMEOUT = "500ms"


async def detach_and_drop(
    send: Send, close: Close, change: DropPartitions, role: str, may_write: Callable[[], None]
) -> None:
    """Take each partition of the change away, as ``role`` or as the session's login where that is empty.

    Raises psycopg's errors; a partition that somebody still reads then stays marked. Whatever else happens, the session
    is closed by ``close`` and not used by anybody again.
    """
    async with _locked(send, close, role):
        for (mark, detach, drop), plain in zip(drop_steps(change), plain_drops(change), strict=True):
            may_write()
            try:
                await send(mark)
            except psycopg.errors.InsufficientPrivilege:
                # Somebody else's, and nothing would know it again once it is detached: both at once, or nothing.
                await send(sql.SQL("; ").join([sql.SQL("BEGIN"), plain, sql.SQL("COMMIT")]))
                continue
            await send(sql.SQL("SET lock_timeout = {}").format(sql.Literal(PATIENCE)))
            await send(detach)
            may_write()
            await send(drop)
            await send(sql.SQL("SET lock_timeout = {}").format(sql.Literal(_LOCK_TIMEOUT)))


async def is_attached(send: Send, partition: tuple[str, str]) -> bool:
    """Whether somebody made the table a partition again since it was looked at; inside a transaction, and locks it."""
    name = sql.Identifier(*partition)
    await send(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(name))
    attached = sql.SQL("SELECT relispartition FROM pg_catalog.pg_class WHERE oid = {}::pg_catalog.regclass")
    return bool((await send(attached.format(sql.Literal(name.as_string(None)))))[0][0])


@asynccontextmanager
async def _locked(send: Send, close: Close, role: str) -> AsyncIterator[None]:
    """Hold the database's lock without a transaction; afterwards the session is as it was."""
    try:
        await send(sql.SQL("SET lock_timeout = {}").format(sql.Literal(_LOCK_TIMEOUT)))
        await send(sql.SQL("SELECT pg_catalog.pg_advisory_lock({})").format(sql.Literal(LOCK_KEY)))
        if role:
            await send(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
        yield
    except psycopg.errors.Error as error:
        if error.sqlstate is None:
            await close()
            raise
        await _as_it_was(send, close)
        raise
    except BaseException:
        await close()
        raise
    else:
        await _as_it_was(send, close)


async def _as_it_was(send: Send, close: Close) -> None:
    try:
        await send(sql.SQL("ROLLBACK"))  # there is a transaction only where one failed
        await send(sql.SQL("RESET ROLE; RESET lock_timeout"))
        await send(sql.SQL("SELECT pg_catalog.pg_advisory_unlock({})").format(sql.Literal(LOCK_KEY)))
    except psycopg.Error:
        await close()  # and its locks with it; what is to be told is what happened before
