"""How many rows go with a destructive change: counted where that is cheap, else the server's own estimate.

Counting reads the tables, as far as a limit, for a second at most, behind nobody's lock and by no policy. It is done
once for a plan, and where it cannot be done the plan says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from psycopg import errors as pg
from psycopg import sql

from selvedge.core.postgres.change import Change
from selvedge.core.postgres.partition_changes import DropPartitions
from selvedge.core.rowcount import Counted, RowCount
from selvedge.engines.postgres.session import Session

#: More rows than these are not counted one by one: a person decides in the same way about a million and about two.
MOST = 100_000

_TIMEOUT = sql.SQL("SET LOCAL statement_timeout = '1s'")
_LOCK_TIMEOUT = sql.SQL("SET LOCAL lock_timeout = '200ms'")

#: Where one of the tables is another server's, in whole or in a partition: that one would be asked, and may be slow.
_FOREIGN = sql.SQL("""
SELECT EXISTS (SELECT
  FROM ROWS FROM (pg_catalog.unnest({names}::text[]), pg_catalog.unnest({schemas}::text[])) AS w(name, schema)
  JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
 CROSS JOIN LATERAL (SELECT c.oid UNION SELECT t.relid::oid FROM pg_catalog.pg_partition_tree(c.oid) t) x
  JOIN pg_catalog.pg_class p ON p.oid = x.oid WHERE p.relkind = 'f')
""")


def loses_rows(change: Change) -> bool:
    """Whether rows go with the change when it is made."""
    return isinstance(change, DropPartitions) and change.shorter


async def count_rows(session: Session, changes: Iterable[Change]) -> dict[Change, RowCount]:
    """How many rows go with each change that loses some. Raises psycopg's errors."""
    found: dict[Change, RowCount] = {}
    for change in changes:
        if isinstance(change, DropPartitions) and change.shorter:
            tables = [(schema, name) for schema, name, _ in change.partitions]
            found[change] = await _count(session, tables, [rows for _, _, rows in change.partitions])
    return found


async def _count(session: Session, tables: Sequence[tuple[str, str]], estimates: Sequence[int]) -> RowCount:
    counted = await _counted(session, tables)
    if counted is not None and counted <= MOST:
        return RowCount(counted)
    known = [rows for rows in estimates if rows >= 0]
    if len(known) == len(estimates) and sum(known) > (MOST if counted is not None else 0):
        return RowCount(sum(known), Counted.ESTIMATE)
    if counted is not None:
        return RowCount(MOST, Counted.AT_LEAST)
    return RowCount(sum(known), Counted.ESTIMATE) if len(known) == len(estimates) else RowCount(0, Counted.UNKNOWN)


async def _counted(session: Session, tables: Sequence[tuple[str, str]]) -> int | None:
    """How many rows there are, one more than ``MOST`` at the most; None where they may or can not be counted."""
    parts = sql.SQL(" UNION ALL ").join(sql.SQL("SELECT FROM {}").format(sql.Identifier(*table)) for table in tables)
    count = sql.SQL("SELECT pg_catalog.count(*) FROM (SELECT FROM ({}) AS t LIMIT {}) AS s").format(
        parts, sql.Literal(MOST + 1)
    )
    schemas, names = [schema for schema, _ in tables], [name for _, name in tables]
    foreign = _FOREIGN.format(names=sql.Literal(names), schemas=sql.Literal(schemas))
    try:
        begin = (sql.SQL("BEGIN READ ONLY"), _TIMEOUT, _LOCK_TIMEOUT)
        rows = await session.run("count", *begin, foreign)
        if rows[-1][0][0]:
            return None
        rows = await session.run("count", count)
        return cast("int", rows[-1][0][0])
    except (pg.QueryCanceled, pg.LockNotAvailable, pg.InsufficientPrivilege, pg.UndefinedTable):
        # Too many to read in that time, locked, not ours to read, or gone meanwhile: the estimate has to do.
        return None
    finally:
        await session.rollback()
