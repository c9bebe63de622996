"""The one lock of a database that every writing transaction of the operator takes."""

from __future__ import annotations

from psycopg import sql

#: One constant for every database, never derived from a resource's name: two resources must meet at one lock. The
#: letters "selvedge" as a bigint, to be recognised in pg_locks.
LOCK_KEY = int.from_bytes(b"selvedge")


def lock_statement() -> sql.Composed:
    """Take the lock of the session's database until the transaction ends."""
    return sql.SQL("SELECT pg_catalog.pg_advisory_xact_lock({})").format(sql.Literal(LOCK_KEY))


#: Opens a transaction under the lock.
BEGIN_LOCKED = (sql.SQL("BEGIN"), lock_statement())
