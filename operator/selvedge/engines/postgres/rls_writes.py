"""The probes that write: as one tenant, on rows of another. Each is rolled back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from selvedge.engines.postgres.errors import is_connection_lost

if TYPE_CHECKING:
    from selvedge.engines.postgres.rls_probe import _Tenant

_COLUMNS = sql.SQL("""
SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod)
  FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = {schema} AND c.relname = {table} AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
   AND a.attidentity <> 'a' ORDER BY a.attnum
""")

#: What a trigger or a function of the users' raises says nothing about the policies.
_OWN_ERRORS = ("P0", "XX", "57", "40", "55", "25")


async def probe_writes(probe: _Tenant, connection: psycopg.AsyncConnection, first: str, second: str) -> None:
    """As ``first``: insert a row of ``second``, give an own row to him, change and delete one of his."""
    column = sql.Identifier(probe.probe.column)
    where = {"t": probe.relation, "c": column, "own": sql.Literal(first), "other": sql.Literal(second)}
    cursor = await connection.execute(
        _COLUMNS.format(schema=sql.Literal(probe.key[0]), table=sql.Literal(probe.key[1]))
    )
    columns = await cursor.fetchall()
    kind = next((str(type_) for name, type_ in columns if name == probe.probe.column), "text")
    other = sql.SQL("{}::{}").format(sql.Literal(second), sql.SQL(kind))
    one = sql.SQL(
        "(tableoid, ctid) IN (SELECT tableoid, ctid FROM {t} WHERE pg_catalog.format('%s', {c}) = {v} LIMIT 1)"
    )
    own_row = one.format(t=probe.relation, c=column, v=where["own"])
    other_row = one.format(t=probe.relation, c=column, v=where["other"])
    names = sql.SQL(", ").join(sql.Identifier(str(name)) for name, _ in columns)
    values = sql.SQL(", ").join(
        other if name == probe.probe.column else sql.Identifier(str(name)) for name, _ in columns
    )
    insert = sql.SQL("INSERT INTO {t} ({names}) SELECT {values} FROM {t} WHERE {row}").format(
        t=probe.relation, names=names, values=values, row=own_row
    )
    give = sql.SQL("UPDATE {} SET {} = {} WHERE {}").format(probe.relation, column, other, own_row)
    change = sql.SQL("UPDATE {} SET {} = {} WHERE {}").format(probe.relation, column, column, other_row)
    delete = sql.SQL("DELETE FROM {} WHERE {}").format(probe.relation, other_row)
    await _write(probe, connection, first, insert, "may insert rows of another tenant", needs_row=True)
    await _write(probe, connection, first, give, "may give its rows to another tenant", needs_row=True)
    await _write(probe, connection, first, change, "may change rows of another tenant", needs_row=False)
    await _write(probe, connection, first, delete, "may delete rows of another tenant", needs_row=False)


async def _write(
    probe: _Tenant,
    connection: psycopg.AsyncConnection,
    tenant: str,
    statement: sql.Composable,
    what: str,
    *,
    needs_row: bool,
) -> None:
    """Try one statement; ``needs_row``: it starts from an own row, and without one proves nothing."""
    role = sql.Identifier(probe.role)
    try:
        await connection.execute("BEGIN")
        await connection.execute(sql.SQL("SET LOCAL ROLE {}").format(role))
        await connection.execute(
            sql.SQL("SELECT pg_catalog.set_config({}, {}, true)").format(
                sql.Literal(probe.probe.setting), sql.Literal(tenant)
            )
        )
        cursor = await connection.execute(sql.Composed([statement]))
        if cursor.rowcount > 0:
            probe.fail(f"{what} in {probe.name}")
        elif needs_row:
            probe.skip(f"found no row of its own to try whether it {what}")
        else:
            probe.verdict.passed += 1
    except psycopg.Error as error:
        if is_connection_lost(error) or connection.closed:
            raise
        state = error.sqlstate or "?"
        if state == "42501":
            probe.verdict.passed += 1
        elif state.startswith(_OWN_ERRORS):
            probe.skip(f"trying whether it {what} raised {state}")
        else:
            # Policies are asked before constraints: whatever those say, the policy had let the row through.
            probe.fail(f"{what} in {probe.name}, were it not for a constraint ({state})")
    finally:
        if not connection.closed:
            await connection.execute("ROLLBACK")
