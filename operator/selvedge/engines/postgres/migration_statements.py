"""Send one statement of a migration, and say what went wrong in the words of its file."""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from psycopg.generators import execute as execute_generator
from psycopg.pq import ExecStatus

from selvedge.core.errors import InvalidError, TransientError
from selvedge.core.reasons import Reason
from selvedge.engines.postgres.errors import is_connection_lost, statement_error
from selvedge.migrate.protocol import Failure, StatementFailedError, shorten_statement
from selvedge.migrate.transactions import ends_transactions

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

    from selvedge.migrate.splitter import Statement

RETRY = frozenset({"55P03", "40P01"})
"""lock_timeout and deadlock: the transaction is gone, the same migration may succeed a moment later."""

_CHUNK = 1 << 20
"""Characters of COPY's data that are encoded at once."""

# Literals after PASSWORD are the one place where SQL asks for a secret.
_PASSWORD = re.compile(r"(\bPASSWORD\s+)('(?:[^']|'')*'|\S+)", re.IGNORECASE)

_HINTS = {
    "42501": "the migrations' role lacks a right; grant it in the DatabaseSchema, or change the owner of the object",
    "55P03": "another session holds a lock on the table for longer than timeouts.lock",
    "57014": "the statement took longer than timeouts.statement, or somebody cancelled it",
    "55P04": "a new enum value can be used only after its transaction; use it in the next migration",
    "25001": "this statement cannot run in a transaction; write -- transaction: false at the top of the file",
    "2D000": "what commits by itself cannot run in a transaction; write -- transaction: false at the top of the file",
}
ROW_SECURITY = (
    "the table forces row-level security; give the migrations' role BYPASSRLS, or a policy of its own and write "
    "SET LOCAL row_security = on into the file"
)

READ_AS = {"client_encoding": "UTF8", "standard_conforming_strings": "on"}
"""How a file is read when it is cut into statements: settings that the server tells the client of when they change."""

_BLOCKERS = """
WITH p AS (SELECT * FROM pg_catalog.pg_stat_progress_create_index WHERE pid = %(pid)s),
  who(pid, text) AS (SELECT a.pid, 'session ' || a.pid || ' (' || pg_catalog.concat_ws(', ', a.usename, a.state,
    nullif(a.application_name, '')) || ')' FROM pg_catalog.pg_stat_activity a)
SELECT coalesce(
  (SELECT 'lock held by ' || pg_catalog.string_agg(text, '; ') FROM who
     WHERE pid = ANY(pg_catalog.pg_blocking_pids(%(pid)s)) AND NOT EXISTS (SELECT FROM p WHERE lockers_total > 0)),
  (SELECT 'index build: ' || p.phase
     || CASE WHEN p.blocks_total > 0 THEN ', ' || p.blocks_done || ' of ' || p.blocks_total || ' blocks ('
          || p.blocks_done * 100 / p.blocks_total || ' %%)' ELSE '' END
     || CASE WHEN p.tuples_total > 0 THEN ', ' || p.tuples_done || ' of ' || p.tuples_total || ' rows' ELSE '' END
     || CASE WHEN p.lockers_total > p.lockers_done THEN ', ' || p.lockers_total - p.lockers_done
          || ' transactions to wait for, now ' || coalesce((SELECT text FROM who
               WHERE who.pid = p.current_locker_pid), 'session ' || p.current_locker_pid) ELSE '' END FROM p),
  '')
"""


async def send(connection: psycopg.AsyncConnection, query: sql.SQL | sql.Composed) -> None:
    """Our own statements, several at once: the simple protocol."""
    await connection.execute(query)


async def execute(connection: psycopg.AsyncConnection, file: str, statement: Statement) -> None:
    """Send a user's statement by the extended protocol, which takes one statement only.

    Should the splitter ever hand over two as one, the server refuses instead of running a COMMIT among them. Raises
    :class:`StatementFailedError`, also for one that changes how the file is read, or TransientError when the connection
    is lost.
    """
    if statement.data is None:
        await _results(connection, file, statement)
    else:
        try:
            async with connection.cursor() as cursor, cursor.copy(statement.text.encode()) as copy:
                for start in range(0, len(statement.data), _CHUNK):
                    await copy.write(statement.data[start : start + _CHUNK].encode())
        except psycopg.Error as error:
            raise statement_failed(file, statement, error) from None
    for name, value in READ_AS.items():
        # the server would find another end of a string, or other letters, than we did; maybe a statement in a string
        if (now := connection.info.parameter_status(name)) != value:
            why = f"the statement set {name} to {now}, and the rest of the file was read with {value}; remove it"
            raise failed_after(file, statement, why)


async def ask(connection: psycopg.AsyncConnection, file: str, statement: Statement) -> list[bytes | None]:
    """The first column of a user's query, as the server writes it; raises as :func:`execute` does."""
    results = await _results(connection, file, statement)
    return [result.get_value(row, 0) for result in results if result.nfields for row in range(result.ntuples)]


async def _results(connection: psycopg.AsyncConnection, file: str, statement: Statement) -> list[PGresult]:
    try:
        async with connection.lock:
            results = await connection.wait(_send_one(connection.pgconn, statement.text.encode()))
        for result in results:
            if result.status == ExecStatus.FATAL_ERROR:
                raise psycopg.errors.error_from_result(result)
            if result.status in (ExecStatus.COPY_IN, ExecStatus.COPY_OUT, ExecStatus.COPY_BOTH):
                await connection.close()
                raise StatementFailedError(_failure(file, statement, "", "COPY needs data in the file", 0))
    except psycopg.Error as error:
        raise statement_failed(file, statement, error) from None
    return results


def statement_failed(file: str, statement: Statement, error: psycopg.Error) -> Exception:
    """The error for a statement of a migration, with its line."""
    if is_connection_lost(error):
        return statement_error(error, f"running {file}, line {statement.line}")
    diag = error.diag
    text = diag.message_primary or str(error).split("\n", 1)[0]
    position = int(diag.statement_position or 0)
    hint = _HINTS.get(error.sqlstate or "") or diag.message_hint or ""
    if error.sqlstate == "42501" and "row-level security" in text:
        hint = ROW_SECURITY
    failure = _failure(file, statement, error.sqlstate or "", text, position, hint)
    return StatementFailedError(failure, retry=error.sqlstate in RETRY)


def failed_after(file: str, statement: Statement, why: str) -> StatementFailedError:
    """The error for a statement that the server accepted, or would, and that does something else than it should."""
    return StatementFailedError(_failure(file, statement, "", why, 0))


class NotSentError(StatementFailedError):
    """A statement was not sent (again), because something is waited for: tried again, and nothing new is known."""


def not_sent(file: str, statement: Statement, why: str) -> NotSentError:
    """The error for a statement that waits before it is sent."""
    return NotSentError(_failure(file, statement, "", why, 0), retry=True)


def check_doubt(file: str, statement: Statement) -> None:
    """Raises InvalidError for a statement that was sent, may have run, and may not be meant to run twice."""
    if ends_transactions(statement):
        raise InvalidError(
            Reason.PARTLY_APPLIED,
            f"{file}, line {statement.line}: {statement.head[0]} was sent and its answer was lost; what it "
            "committed stays, and nobody can tell whether it ended: look, then remove the statement from the file "
            "if it did (leave a comment where it was the only one), or change its text (a space will do) to run it "
            "again",
        )


def partly_done(error: StatementFailedError) -> StatementFailedError:
    """The error of a statement that commits by itself: another attempt is a person's to decide."""
    hint = "what it committed before stays: see to it that it may be called again, then run Up"
    return StatementFailedError(replace(error.failure, hint=hint))


def commit_failed(file: str, line: int, error: psycopg.Error) -> Exception:
    """The error for what turned up only at the end, such as a deferred constraint; ``line`` is the part's first."""
    if is_connection_lost(error):
        return statement_error(error, f"committing {file}")
    text = f"at the end of the migration: {error.diag.message_primary}"
    return StatementFailedError(
        Failure(file, line, "COMMIT", error.sqlstate or "", text), retry=error.sqlstate in RETRY
    )


class CommitUnknownError(TransientError):
    """The connection broke at COMMIT: whether it was committed stands in the history."""

    def __init__(self, file: str, error: psycopg.Error) -> None:
        known = statement_error(error, f"committing {file}")
        super().__init__(known.reason, known.message)


async def blockers(connection: psycopg.AsyncConnection, pid: int) -> str:
    """Who holds what a session waits for, or how far its index build is; empty when it waits for nobody."""
    cursor = await connection.execute(_BLOCKERS, {"pid": pid})
    row = await cursor.fetchone()
    return str(row[0]) if row else ""


def _failure(file: str, statement: Statement, sqlstate: str, message: str, position: int, hint: str = "") -> Failure:
    line = statement.line + statement.text.count("\n", 0, max(0, position - 1))
    shown = _PASSWORD.sub(r"\1'…'", shorten_statement(statement.text))
    return Failure(file, line, shown, sqlstate, message, hint)


def _send_one(pgconn: PGconn, text: bytes) -> Generator[Any, Any, list[PGresult]]:
    pgconn.send_query_params(text, None)
    results: list[PGresult] = yield from execute_generator(pgconn)
    return results
