"""The shapes that the migrations' history had, and the way from each to the present one.

A database that was migrated by an earlier version keeps its history: the tables are changed where they stand, in one
transaction, and the number of their shape is in the comment of the table. Those that no version wrote it into are told
apart by their columns.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from psycopg import sql

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import LiteralString

    import psycopg

SHAPE = 4
"""The present one."""
OLDEST = 3
"""The oldest shape whose versions work with the present one, too: going back to them loses nothing."""

_COMMENT = re.compile(r"selvedge: migrations, shape (?P<number>[0-9]{1,6}), works for (?P<oldest>[0-9]{1,6})")

_LOOK = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_class e WHERE e.relnamespace = n.oid AND e.relname = %(events)s),
  pg_catalog.obj_description(h.oid, 'pg_class'),
  ARRAY(SELECT attname::text FROM pg_catalog.pg_attribute WHERE attrelid = h.oid AND NOT attisdropped AND attnum > 0),
  (SELECT conname::text FROM pg_catalog.pg_constraint WHERE conrelid = h.oid AND contype = 'p')
FROM pg_catalog.pg_class h JOIN pg_catalog.pg_namespace n ON n.oid = h.relnamespace
WHERE n.nspname = %(schema)s AND h.relname = %(history)s
"""

_STEPS: dict[int, LiteralString] = {
    # one history for several schemas, ways back, and events that name what has no version
    1: """
ALTER TABLE {history} ADD COLUMN scope text NOT NULL DEFAULT '', ADD COLUMN direction text NOT NULL DEFAULT 'up';
ALTER TABLE {history} DROP CONSTRAINT {primary}, ADD CONSTRAINT {primary} PRIMARY KEY (scope, version);
ALTER TABLE {events} ADD COLUMN scope text NOT NULL DEFAULT '', ADD COLUMN name text NOT NULL DEFAULT '',
  ALTER COLUMN version DROP NOT NULL, ALTER COLUMN checksum SET DEFAULT '';""",
    # repeatables and seeds are known by their names
    2: """
ALTER TABLE {history} ADD COLUMN key text;
UPDATE {history} SET key = CASE WHEN kind = 'Versioned' THEN version::text ELSE kind || ':' || name END;
ALTER TABLE {history} ALTER COLUMN key SET NOT NULL, DROP CONSTRAINT {primary},
  ADD CONSTRAINT {primary} PRIMARY KEY (scope, key);""",
    # events say of which key they are: the rest of a run that was cut off is recognised by them
    3: "ALTER TABLE {events} ADD COLUMN key text NOT NULL DEFAULT '';",
}

_MARK: LiteralString = "COMMENT ON TABLE {history} IS {comment}"


async def shape_of(connection: psycopg.AsyncConnection, schema: str, history: str, events: str) -> tuple[int, str]:
    """The shape of the tables with these names, 0 where they do not exist, and the name of the primary key.

    A newer version's counts as the present one, if it says that this one can work with it; else raises InvalidError.
    """
    cursor = await connection.execute(_LOOK, {"schema": schema, "history": history, "events": events})
    row = await cursor.fetchone()
    if row is None or not row[0]:
        return 0, ""
    _, comment, columns, primary = row
    found = _COMMENT.match(comment or "")
    # shape 4 differs from 3 in the other table alone, and has always had its number
    number = int(found["number"]) if found else 3 if "key" in columns else 2 if "scope" in columns else 1
    if found and int(found["oldest"]) > SHAPE:
        raise InvalidError(
            Reason.UNSUPPORTED,
            f"{schema}.{history} was written by a newer version of Selvedge (shape {number}, this one knows {SHAPE}): "
            "upgrade this one",
        )
    return min(number, SHAPE), primary or ""


def upgrade(shape: int, primary: str, names: Mapping[str, sql.Identifier]) -> Iterator[sql.Composed]:
    """The statements that make the present shape of ``shape``, all for one transaction; none where it is that."""
    if shape >= SHAPE:
        return
    for number in range(shape, SHAPE):
        yield sql.SQL(_STEPS[number]).format(primary=sql.Identifier(primary), **names)
    yield mark(names)


def mark(names: Mapping[str, sql.Identifier]) -> sql.Composed:
    """Write the present shape's number down."""
    return sql.SQL(_MARK).format(
        comment=sql.Literal(f"selvedge: migrations, shape {SHAPE}, works for {OLDEST}"), **names
    )
