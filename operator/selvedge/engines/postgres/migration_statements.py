"""Send one statement of a migration, and say what went wrong in the words of its file."""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Literal

import psycopg
from psycopg import sql
from psycopg.generators import execute as execute_generator
from psycopg.pq import ExecStatus

from selvedge.engines.postgres.errors import is_connection_lost, statement_error
from selvedge.migrate.protocol import Failure, StatementFailedError, shorten_statement
from selvedge.migrate.transactions import IndexBuild, folded

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

    from selvedge.migrate.load import Migration
    from selvedge.migrate.splitter import Statement

RETRY = frozenset({"55P03", "40P01"})
"""lock_timeout and deadlock: the transaction is gone, the same migration may succeed a moment later."""

# Literals after PASSWORD are the one place where SQL asks for a secret.
_PASSWORD = re.compile(r"(\bPASSWORD\s+)('(?:[^']|'')*'|\S+)", re.IGNORECASE)

_HINTS = {
    "42501": "the migrations' role lacks a right; grant it in the DatabaseSchema, or change the owner of the object",
    "55P03": "another session holds a lock on the table for longer than timeouts.lock",
    "57014": "the statement took longer than timeouts.statement, or somebody cancelled it",
    "55P04": "a new enum value can be used only after its transaction; use it in the next migration",
    "25001": "this statement cannot run in a transaction; write -- transaction: false at the top of the file",
}
_ROW_SECURITY = "the table forces row-level security; give the migrations' role BYPASSRLS, or a policy and NO FORCE"

_INDEX = """
SELECT i.indisvalid AND i.indisready FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = pg_catalog.to_regclass(%s) AND c.relname = %s
"""
_BLOCKERS = """
SELECT coalesce(
  (SELECT 'lock held by ' || pg_catalog.string_agg(
     'session ' || a.pid || ' (' || a.usename || ', ' || a.state || ', ' || nullif(a.application_name, '') || ')', '; ')
   FROM pg_catalog.pg_stat_activity a WHERE a.pid = ANY(pg_catalog.pg_blocking_pids(%(pid)s))),
  (SELECT 'index build: ' || p.phase || CASE WHEN p.blocks_total > 0
     THEN ', ' || p.blocks_done || ' of ' || p.blocks_total || ' blocks' ELSE '' END
   FROM pg_catalog.pg_stat_progress_create_index p WHERE p.pid = %(pid)s),
  '')
"""


async def send(connection: psycopg.AsyncConnection, query: sql.SQL | sql.Composed) -> None:
    """Our own statements, several at once: the simple protocol."""
    await connection.execute(query)


async def execute(connection: psycopg.AsyncConnection, migration: Migration, statement: Statement) -> None:
    """Send a user's statement by the extended protocol, which takes one statement only.

    Should the splitter ever hand over two as one, the server refuses instead of running a COMMIT among them. Raises
    :class:`StatementFailedError`, or TransientError when the connection is lost.
    """
    try:
        if statement.data is not None:
            async with connection.cursor() as cursor, cursor.copy(statement.text.encode()) as copy:
                await copy.write(statement.data.encode())
            return
        async with connection.lock:
            results = await connection.wait(_send_one(connection.pgconn, statement.text.encode()))
        for result in results:
            if result.status == ExecStatus.FATAL_ERROR:
                raise psycopg.errors.error_from_result(result)
            if result.status in (ExecStatus.COPY_IN, ExecStatus.COPY_OUT, ExecStatus.COPY_BOTH):
                await connection.close()
                raise StatementFailedError(_failure(migration, statement, "", "COPY needs data in the file", 0))
    except psycopg.Error as error:
        raise statement_failed(migration, statement, error) from None


def statement_failed(migration: Migration, statement: Statement, error: psycopg.Error) -> Exception:
    """The error for a statement of a migration, with its line."""
    if is_connection_lost(error):
        return statement_error(error, f"running {migration.file}, line {statement.line}")
    diag = error.diag
    text = diag.message_primary or str(error).split("\n", 1)[0]
    position = int(diag.statement_position or 0)
    hint = _HINTS.get(error.sqlstate or "") or diag.message_hint or ""
    if error.sqlstate == "42501" and "row-level security" in text:
        hint = _ROW_SECURITY
    failure = _failure(migration, statement, error.sqlstate or "", text, position, hint)
    return StatementFailedError(failure, retry=error.sqlstate in RETRY)


def commit_failed(
    migration: Migration, statement: Statement | None, why: str, error: psycopg.Error | None = None
) -> Exception:
    """The error for what turned up only at the end: a deferred constraint, a lost connection at COMMIT."""
    if error is None:
        if statement is None:
            raise AssertionError("only a statement can fail without an error")
        return StatementFailedError(_failure(migration, statement, "", why, 0))
    if is_connection_lost(error):
        # Whether it was committed stands in the history, which the next run reads.
        return statement_error(error, f"committing {migration.file}")
    text = f"at the end of the migration: {error.diag.message_primary}"
    failure = Failure(migration.file, migration.up_line, "COMMIT", error.sqlstate or "", text)
    return StatementFailedError(failure, retry=error.sqlstate in RETRY)


async def index_state(connection: psycopg.AsyncConnection, build: IndexBuild) -> Literal["absent", "invalid", "valid"]:
    """What became of an index."""
    cursor = await connection.execute(_INDEX, [build.table, build.index])
    row = await cursor.fetchone()
    if row is None:
        return "absent"
    return "valid" if row[0] else "invalid"


async def drop_index(connection: psycopg.AsyncConnection, migration: Migration, build: IndexBuild) -> None:
    """Drop what a failed CREATE INDEX CONCURRENTLY left; callers have seen that it is not valid."""
    query = """
    SELECT n.nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = pg_catalog.to_regclass(%s)
    """
    cursor = await connection.execute(query, [build.table])
    row = await cursor.fetchone()
    if row is None:
        return
    name = sql.Identifier(str(row[0]), build.index)
    try:
        await connection.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(name))
    except psycopg.Error as error:
        doing = f"dropping the invalid index {build.index} that {migration.file} left behind"
        raise statement_error(error, doing) from None


async def is_dropped(connection: psycopg.AsyncConnection, statement: Statement) -> bool:
    """Whether a DROP INDEX CONCURRENTLY has nothing left to drop."""
    head = statement.head
    if head[:3] != ("DROP", "INDEX", "CONCURRENTLY"):
        return False
    name = head[5:] if head[3:5] == ("IF", "EXISTS") else head[3:]
    name = name[:3] if name[1:2] == (".",) else name[:1]
    parts = [sql.Identifier(folded(word)).as_string(connection) for word in name if word != "."]
    cursor = await connection.execute("SELECT pg_catalog.to_regclass(%s) IS NULL", [".".join(parts)])
    row = await cursor.fetchone()
    return bool(row and row[0])


async def blockers(connection: psycopg.AsyncConnection, pid: int) -> str:
    """Who holds what a session waits for, or how far its index build is; empty when it waits for nobody."""
    cursor = await connection.execute(_BLOCKERS, {"pid": pid})
    row = await cursor.fetchone()
    return str(row[0]) if row else ""


def _failure(
    migration: Migration, statement: Statement, sqlstate: str, message: str, position: int, hint: str = ""
) -> Failure:
    line = statement.line + statement.text.count("\n", 0, max(0, position - 1))
    shown = _PASSWORD.sub(r"\1'…'", shorten_statement(statement.text))
    return Failure(migration.file, line, shown, sqlstate, message, hint)


def _send_one(pgconn: PGconn, text: bytes) -> Generator[Any, Any, list[PGresult]]:
    pgconn.send_query_params(text, None)
    results: list[PGresult] = yield from execute_generator(pgconn)
    return results
