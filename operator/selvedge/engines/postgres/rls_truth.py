"""What really stands in a table, read by the administrator for probes to be compared with.

Reading a users' table as the administrator is no small thing: planning a query runs the immutable functions of its
index expressions, and a view that took the table's name would run anything. COPY of a table is not planned, refuses
views, and runs no more than the types' output functions. That is why it is used here and nothing else.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from selvedge.core.postgres.rls_changes import TableKey
from selvedge.engines.postgres.session import Session

#: A table of at most so many rows is counted; of a larger one rows are sampled.
COUNTED = 10_000
#: Two tenants are looked for among so many rows.
LOOKED_AT = 100_000
SAMPLE = 50
_SECONDS = 10.0

_LEAVES = sql.SQL("""
WITH RECURSIVE tree(oid, relkind) AS (
    SELECT c.oid, c.relkind FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = {schema} AND c.relname = {table}
    UNION ALL SELECT c.oid, c.relkind FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.oid
      JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid WHERE tree.relkind = 'p')
SELECT (SELECT json_agg(json_build_array(n.nspname, c.relname)) FROM tree
          JOIN pg_catalog.pg_class c ON c.oid = tree.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE tree.relkind <> 'p')::text,
  (SELECT json_agg(json_build_array(a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod)) ORDER BY k.n)
     FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indisprimary
     CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, n)
     JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
    WHERE n.nspname = {schema} AND c.relname = {table})::text
""")


class UnreadableError(Exception):
    """The table cannot be read; the text says why."""


@dataclass(slots=True)
class Truth:
    """``rows`` were read, all there are where ``complete``; ``sample`` are primary keys, ``tenants`` two tenants."""

    rows: int = 0
    complete: bool = True
    tenants: list[str] = field(default_factory=list)
    key: tuple[tuple[str, str], ...] = ()
    sample: list[tuple[str, ...]] = field(default_factory=list)


class _EnoughError(Exception):
    """Nothing more has to be read."""


async def read_truth(admin: Session, snapshot: str, table: TableKey, column: str | None) -> Truth:
    """Look at the rows of a table as another session's exported ``snapshot`` shows them.

    With ``column`` two of its values are looked for, otherwise the rows are counted and sampled by primary key. Raises
    :class:`UnreadableError`.
    """
    truth = Truth()
    begin = sql.SQL("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}")
    look = _LEAVES.format(schema=sql.Literal(table[0]), table=sql.Literal(table[1]))
    try:
        rows = await admin.run("probe", begin.format(sql.Literal(snapshot)), look)
        leaves, key = (json.loads(str(text)) if text else [] for text in rows[-1][0])
        truth.key = tuple((name, kind) for name, kind in key)
        columns = [column] if column else [name for name, _ in truth.key]
        for leaf in leaves:
            await _read(admin, tuple(leaf), columns, truth, by_tenant=column is not None)
    except _EnoughError:
        truth.complete = False
    except TimeoutError:
        raise UnreadableError("reading it took too long") from None
    except psycopg.Error as error:
        if error.sqlstate == "42501":
            text = "the operator's login may not read it past its policies: give it SELECT there and BYPASSRLS"
            raise UnreadableError(text) from None
        if error.sqlstate is None or admin.connection.closed:
            raise
        raise UnreadableError(f"reading it failed ({error.sqlstate})") from None
    finally:
        await admin.rollback()
    return truth


async def _read(
    admin: Session, leaf: tuple[str, str], columns: Sequence[str], truth: Truth, *, by_tenant: bool
) -> None:
    names = sql.SQL(", ").join(sql.Identifier(name) for name in columns)
    # Without a primary key the rows are only counted.
    listed = sql.SQL("({})").format(names) if columns else sql.SQL("")
    statement = sql.SQL("COPY {} {} TO STDOUT").format(sql.Identifier(*leaf), listed)
    async with asyncio.timeout(_SECONDS), admin.connection.cursor() as cursor, cursor.copy(statement) as copy:
        async for row in copy.rows():
            truth.rows += 1
            if by_tenant:
                value = row[0]
                if value is not None and value not in truth.tenants:
                    truth.tenants.append(value)
                if len(truth.tenants) == 2 or truth.rows >= LOOKED_AT:
                    raise _EnoughError
            else:
                if columns and len(truth.sample) < SAMPLE:
                    truth.sample.append(tuple(str(value) for value in row))
                if truth.rows > COUNTED:
                    raise _EnoughError
