"""How the history's schema and tables are made: by an administrator who need not own the database, for nobody else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from selvedge.engines.postgres.acting import as_role
from selvedge.engines.postgres.remedy import may_create
from selvedge.engines.postgres.trust import check_trust, close

if TYPE_CHECKING:
    import psycopg

_TABLES = """
CREATE TABLE IF NOT EXISTS {history} (
  scope text NOT NULL DEFAULT '', key text NOT NULL, version numeric(20) NOT NULL, name text NOT NULL,
  kind text NOT NULL DEFAULT 'Versioned', checksum_up text NOT NULL, checksum_down text, up_text text NOT NULL,
  down_text text, state text NOT NULL, direction text NOT NULL DEFAULT 'up', statements_done integer NOT NULL,
  statements_total integer NOT NULL, cursor_hash text NOT NULL DEFAULT '', started boolean NOT NULL DEFAULT false,
  transaction_mode text NOT NULL, applied_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  duration_ms bigint, applied_by text NOT NULL DEFAULT session_user, run_uid text NOT NULL DEFAULT '',
  tool_version text NOT NULL, error text, PRIMARY KEY (scope, key));
CREATE TABLE IF NOT EXISTS {events} (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  scope text NOT NULL DEFAULT '', version numeric(20), name text NOT NULL DEFAULT '', event text NOT NULL,
  checksum text NOT NULL DEFAULT '', actor text NOT NULL DEFAULT session_user, run_uid text NOT NULL DEFAULT '',
  message text NOT NULL DEFAULT '', key text NOT NULL DEFAULT '');
"""

_RIGHTS = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = %s),
  pg_catalog.has_database_privilege(d.oid, 'CREATE'), pg_catalog.pg_has_role(d.datdba, %s),
  pg_catalog.pg_get_userbyid(d.datdba)
FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()
"""


async def create(admin: psycopg.AsyncConnection, schema: str, tables: tuple[str, str], *, borrows: bool) -> None:
    """Make what is missing, inside a transaction. Raises RefusedError where somebody else was faster; psycopg's errors.

    ``borrows``: who may become the database's owner and may not make a schema gives himself that right as the owner, as
    the operator does.
    """
    names = {"history": sql.Identifier(schema, tables[0]), "events": sql.Identifier(schema, tables[1])}
    become = "SET" if admin.info.server_version >= 160000 else "MEMBER"
    cursor = await admin.execute(_RIGHTS, [schema, become])
    there, may, becomes, owner = await cursor.fetchone() or (False, False, False, "")
    if not there:
        if borrows and becomes and not may:
            lent = as_role(may_create(admin.info.user, admin.info.dbname), owner)
            await admin.execute(sql.Composed([lent]))
        await admin.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
    await admin.execute(sql.SQL(_TABLES).format(**names))
    # what somebody made since we looked is none of ours; from here on nobody else can
    await check_trust(admin, schema, tables, writes=True)
    await admin.execute(close(schema, tables))
