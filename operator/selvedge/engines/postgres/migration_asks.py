"""What a run of migrations asks its connections: one value, whether there is any row, whether a pooler answers."""

from __future__ import annotations

import psycopg

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason


async def one(connection: psycopg.AsyncConnection, query: str, values: tuple[object, ...] = ()) -> object:
    """The first value of the first row; None without one. ``query`` is a constant of the caller's."""
    cursor = await connection.execute(query, values)
    row = await cursor.fetchone()
    return row[0] if row else None


async def none(connection: psycopg.AsyncConnection, query: str, values: tuple[object, ...] = ()) -> bool:
    """Whether a query has no row."""
    cursor = await connection.execute(query, values)
    return cursor.rowcount == 0


async def refuse_pooler(connection: psycopg.AsyncConnection) -> None:
    """A pooler gives a session's locks and settings to somebody else; it also hides the server's process id."""
    if await one(connection, "SELECT pg_catalog.pg_backend_pid()") != connection.info.backend_pid:
        raise InvalidError(
            Reason.POOLER_DETECTED,
            "a connection pooler answers instead of the server, and migrations need a session of their own; "
            "give the server's own address in spec.hosts",
        )
