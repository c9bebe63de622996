"""The migrations' history in the target database: two tables beside the claims, and how they are read and written.

``history`` has one row for each migration, ``events`` only ever grows. The migrator's login may write both; nothing in
the schema is granted to the roles that migrations run as.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING

from psycopg import sql

from selvedge.migrate.plan import HistoryRow, RowState

if TYPE_CHECKING:
    import psycopg

    from selvedge.migrate.load import Migration
    from selvedge.migrate.splitter import Statement

LOCK_KEY = int.from_bytes(b"selvedge")
"""The lock that creating anything in the schema takes: the one of the engine's own transactions."""

_CREATE = """
CREATE SCHEMA IF NOT EXISTS {schema};
CREATE TABLE IF NOT EXISTS {history} (
  version numeric(20) PRIMARY KEY, name text NOT NULL, kind text NOT NULL DEFAULT 'Versioned',
  checksum_up text NOT NULL, checksum_down text, up_text text NOT NULL, down_text text,
  state text NOT NULL, statements_done integer NOT NULL, statements_total integer NOT NULL,
  cursor_hash text NOT NULL DEFAULT '', started boolean NOT NULL DEFAULT false, transaction_mode text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(), duration_ms bigint,
  applied_by text NOT NULL DEFAULT session_user, run_uid text NOT NULL DEFAULT '', tool_version text NOT NULL,
  error text);
CREATE TABLE IF NOT EXISTS {events} (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  version numeric(20) NOT NULL, event text NOT NULL, checksum text NOT NULL, actor text NOT NULL DEFAULT session_user,
  run_uid text NOT NULL DEFAULT '', message text NOT NULL DEFAULT '');
REVOKE ALL ON {history}, {events} FROM PUBLIC;
"""

_READ = """
SELECT version, name, checksum_up, state, statements_done, statements_total, cursor_hash, started
FROM {history} ORDER BY version
"""

_WRITE = """
INSERT INTO {history} (version, name, checksum_up, checksum_down, up_text, down_text, state, statements_done,
  statements_total, cursor_hash, started, transaction_mode, duration_ms, run_uid, tool_version)
VALUES (%(version)s, %(name)s, %(checksum)s, %(down_checksum)s, %(up)s, %(down)s, %(state)s, %(done)s, %(total)s,
  %(cursor)s, %(started)s, %(mode)s, %(duration)s, %(run)s, %(tool)s)
ON CONFLICT (version) DO UPDATE SET name = excluded.name, checksum_up = excluded.checksum_up,
  checksum_down = excluded.checksum_down, up_text = excluded.up_text, down_text = excluded.down_text,
  state = excluded.state, statements_done = excluded.statements_done, statements_total = excluded.statements_total,
  cursor_hash = excluded.cursor_hash, started = excluded.started, duration_ms = excluded.duration_ms,
  run_uid = excluded.run_uid, tool_version = excluded.tool_version, applied_at = pg_catalog.clock_timestamp()
"""

_EVENT = """
INSERT INTO {events} (version, event, checksum, run_uid, message) VALUES (%s, %s, %s, %s, %s)
"""


class Ledger:
    """The two tables of one database; ``run`` is written into every row."""

    def __init__(self, schema: str, run: str = "") -> None:
        self.schema = schema
        self.run = run
        self._names = {
            "schema": sql.Identifier(schema),
            "history": sql.Identifier(schema, "history"),
            "events": sql.Identifier(schema, "events"),
        }

    async def ensure(self, admin: psycopg.AsyncConnection, login: str) -> None:
        """Create what is missing and let the login write it; two at once do not disturb each other."""
        async with admin.transaction():
            await admin.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s)", [LOCK_KEY])
            if not await self.exists(admin):
                await admin.execute(self._sql(_CREATE))
            await admin.execute(
                self._sql(
                    "GRANT USAGE ON SCHEMA {schema} TO {login};"
                    "GRANT SELECT, INSERT, UPDATE ON {history} TO {login}; GRANT SELECT, INSERT ON {events} TO {login}",
                    login=sql.Identifier(login),
                )
            )

    async def exists(self, connection: psycopg.AsyncConnection) -> bool:
        """Whether both tables are there."""
        names = [self._names["history"].as_string(connection), self._names["events"].as_string(connection)]
        cursor = await connection.execute(
            "SELECT pg_catalog.count(pg_catalog.to_regclass(name)) FROM pg_catalog.unnest(%s::text[]) AS name", [names]
        )
        row = await cursor.fetchone()
        return row is not None and row[0] == len(names)

    async def read(self, connection: psycopg.AsyncConnection) -> tuple[HistoryRow, ...]:
        """All rows; none where the tables do not exist."""
        if not await self.exists(connection):
            return ()
        cursor = await connection.execute(self._sql(_READ))
        return tuple(
            HistoryRow(int(version), name, checksum, RowState(state), done, total, cursor_hash, started)
            for version, name, checksum, state, done, total, cursor_hash, started in await cursor.fetchall()
        )

    async def write(
        self,
        connection: psycopg.AsyncConnection,
        migration: Migration,
        row: HistoryRow,
        *,
        seconds: float,
    ) -> None:
        """Insert or replace the row of a migration; an event says so once it is applied."""
        values = {
            "version": migration.version,
            "name": migration.name,
            "checksum": migration.checksum,
            "down_checksum": migration.down_checksum,
            "up": migration.up,
            "down": migration.down,
            "state": row.state.value,
            "done": row.done,
            "total": row.total,
            "cursor": row.cursor,
            "started": row.started,
            "mode": "PerMigration" if migration.script.transactional else "None",
            "duration": round(seconds * 1000),
            "run": self.run,
            "tool": installed_version("selvedge"),
        }
        await connection.execute(self._sql(_WRITE), values)
        if row.state is RowState.APPLIED:
            await self.event(connection, migration, "Applied")

    async def event(
        self, connection: psycopg.AsyncConnection, migration: Migration, event: str, text: str = ""
    ) -> None:
        """Append one event."""
        await connection.execute(
            self._sql(_EVENT), [migration.version, event, migration.checksum, self.run, text[:1000]]
        )

    def _sql(self, text: str, **names: sql.Identifier) -> sql.Composed:
        return sql.SQL(text).format(**self._names, **names)  # every text is a constant above


def fingerprint(statements: Sequence[Statement]) -> str:
    """sha256 over the statements that are done, to notice when one of them is changed later."""
    whole = hashlib.sha256()
    for statement in statements:
        whole.update(hashlib.sha256(f"{statement.text}\0{statement.data or ''}".encode()).digest())
    return whole.hexdigest()
