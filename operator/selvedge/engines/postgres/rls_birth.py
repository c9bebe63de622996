"""Tables that are closed at birth: row-level security in the very transaction that makes a table.

Default privileges open a table when it is created, and policies come with the next pass. In between everybody who may
read would read every row. So the migrator enables row-level security before it commits: nobody but the owner sees a
row until policies say otherwise. FORCE, which concerns the owner, comes with the pass: later migrations of the same run
fill the table as its owner.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from selvedge.core.postgres.rls_changes import TableKey

# The row of a system column is written when a table is made and never again: its age tells what this transaction made.
_OPEN = sql.SQL("""
WITH RECURSIVE wanted AS (
    SELECT c.oid FROM json_to_recordset({tables}::json) w(s text, t text)
      JOIN pg_catalog.pg_namespace n ON n.nspname = w.s
      JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.t AND c.relkind IN ('r','p')),
  tree(oid, part, attached) AS (
    SELECT w.oid, false, false FROM wanted w
    UNION SELECT i.inhrelid, true, pg_catalog.age(i.xmin) <= pg_catalog.age(pg_catalog.pg_current_xact_id()::xid)
      FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid
      JOIN pg_catalog.pg_class k ON k.oid = i.inhrelid AND k.relispartition),
  found(oid, part, new) AS (
    SELECT t.oid, pg_catalog.bool_or(t.part), pg_catalog.bool_or(t.attached OR EXISTS (
        SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.oid AND a.attname = 'ctid'
           AND pg_catalog.age(a.xmin) <= pg_catalog.age(pg_catalog.pg_current_xact_id()::xid)))
      FROM tree t GROUP BY t.oid)
SELECT n.nspname, c.relname, pg_catalog.pg_get_userbyid(c.relowner), NOT c.relrowsecurity, f.part,
  (SELECT json_agg(DISTINCT CASE e.grantee WHEN 0 THEN NULL ELSE pg_catalog.pg_get_userbyid(e.grantee) END)
     FROM pg_catalog.aclexplode(c.relacl) e WHERE e.grantee <> c.relowner)::text
  FROM found f JOIN pg_catalog.pg_class c ON c.oid = f.oid AND c.relkind IN ('r','p')
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE f.new AND pg_catalog.pg_has_role(session_user, c.relowner, 'MEMBER')
 ORDER BY f.part, 1, 2
""")


async def close_at_birth(connection: psycopg.AsyncConnection, tables: Iterable[TableKey]) -> tuple[str, ...]:
    """Enable row-level security on those of ``tables``, and of their partitions, that this transaction made.

    To be called in the migrator's transaction right before it commits, with the session's role reset. What is granted
    on a new partition itself is revoked. What was there before is left to the pass, which knows its policies. Returns
    the names of what was closed. Raises psycopg's errors: then nothing of the migration stands either.
    """
    listed = [{"s": schema, "t": table} for schema, table in sorted(tables)]
    if not listed:
        return ()
    cursor = await connection.execute(_OPEN.format(tables=sql.Literal(json.dumps(listed))))
    closed = []
    for schema, name, owner, is_open, is_partition, grantees in await cursor.fetchall():
        table = sql.Identifier(schema, name)
        statements: list[sql.Composable] = []
        if is_open:
            statements.append(sql.SQL("ALTER TABLE {} ENABLE ROW LEVEL SECURITY").format(table))
        if is_partition and grantees:
            statements.append(_revoke(table, json.loads(grantees)))
        if statements:
            become = sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(owner))
            await connection.execute(sql.SQL("; ").join([become, *statements, sql.SQL("RESET ROLE")]))
            closed.append(f"{schema}.{name}")
    return tuple(closed)


def _revoke(table: sql.Identifier, grantees: Sequence[str | None]) -> sql.Composed:
    names = sql.SQL(", ").join(sql.SQL("PUBLIC") if name is None else sql.Identifier(name) for name in grantees)
    return sql.SQL("REVOKE ALL ON TABLE {} FROM {}").format(table, names)
