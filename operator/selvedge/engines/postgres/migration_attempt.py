"""One migration on one connection: in a transaction, or statement by statement with a cursor in the history.

Whatever a statement does to its session (``RESET ROLE``, ``set_config``) is undone before the history is written, and
it is written as the migrator's login, in the transaction of the statements themselves wherever there is one.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NoReturn

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from selvedge.core.errors import InvalidError, SelvedgeError
from selvedge.core.reasons import Reason
from selvedge.engines.postgres.errors import is_connection_lost
from selvedge.engines.postgres.migration_indexes import (
    check_builder,
    detach_state,
    drop_broken,
    drop_index,
    drop_leftovers,
    finalize,
    index_state,
    is_dropped,
)
from selvedge.engines.postgres.migration_ledger import Ledger, fingerprint
from selvedge.engines.postgres.migration_statements import (
    CommitUnknownError,
    NotSentError,
    ask,
    check_doubt,
    commit_failed,
    execute,
    failed_after,
    partly_done,
    send,
)
from selvedge.engines.postgres.rls_birth import close_at_birth
from selvedge.migrate.history import HistoryRow, RowState
from selvedge.migrate.protocol import Control, StatementFailedError
from selvedge.migrate.session_state import is_said_again
from selvedge.migrate.together import script_of
from selvedge.migrate.transactions import IndexBuild, ends_transactions, index_build

if TYPE_CHECKING:
    from selvedge.migrate.load import Migration
    from selvedge.migrate.splitter import Statement

_DEFERRED = """
SELECT n.nspname, c.conname FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_namespace n ON n.oid = c.connamespace
WHERE pg_catalog.has_schema_privilege(n.oid, 'USAGE') GROUP BY 1, 2 HAVING pg_catalog.bool_and(c.condeferred)
"""
_BETWEEN = sql.SQL("RESET ALL; DISCARD TEMP")
_SETTLE = sql.SQL("SET CONSTRAINTS ALL IMMEDIATE; RESET ROLE; SET LOCAL search_path = pg_catalog, pg_temp")
#: What keeps a failure from being written down, and does not take its place: tried again, a procedure would run twice.
_UNWRITTEN = (psycopg.Error, SelvedgeError, StatementFailedError)


@dataclass(frozen=True, slots=True)
class Ground:
    """What every attempt of a session stands on.

    ``role`` runs the statements, with ``path`` as search_path where there is one. ``closed`` are tables that are closed
    at birth. ``holds`` raises where the migrations' lock is not ours any more.
    """

    ledger: Ledger
    role: str
    path: tuple[str, ...]
    closed: frozenset[tuple[str, str]]
    holds: Callable[[psycopg.AsyncConnection], Awaitable[None]]


class Attempt:
    """One direction of one migration, once."""

    def __init__(
        self,
        ground: Ground,
        work: psycopg.AsyncConnection,
        migration: Migration,
        direction: Literal["up", "down"],
        control: Control,
    ) -> None:
        self.ground = ground
        self.work = work
        self.migration = migration
        self.direction = direction
        self.control = control
        self.script = script_of(migration, direction)
        self.statements = self.script.statements
        self.file = (migration.down_file or migration.file) if direction == "down" else migration.file
        self.line = migration.down_line if direction == "down" else migration.up_line
        self.started = time.monotonic()
        self.noted = False

    async def run(self, row: HistoryRow | None) -> None:
        """The whole attempt, with its commit; ``row`` is where an earlier one stopped."""
        # one that began without a transaction, and was mended so that it could have one, still goes on where it stopped
        if self.script.transactional and not (row and (row.done or row.started)):
            await self.within("PerMigration", begin=True)
            await self.commit()
        else:
            try:
                await self._resume(row)
            except StatementFailedError as error:
                if not self.noted:
                    try:
                        await self._note(str(error))
                    except _UNWRITTEN as unwritten:
                        raise error from unwritten
                raise

    async def hook(self, event: str = "") -> None:
        """A script that is no migration, in a transaction of its own and, but for an ``event``, without a trace."""
        await self._settings(begin=True)
        await self._statements(self.migration, self.statements)
        await self._settle()
        if event:
            try:
                await self.ground.holds(self.work)
                hook = self.migration
                await self.ground.ledger.event(self.work, None, event, hook.name, checksum=hook.mark)
            except psycopg.Error as error:
                raise commit_failed(self.file, self.line, error) from None
        await self.commit()

    async def within(self, mode: str, *, begin: bool = False) -> None:
        """All statements and the history's row, in a transaction that ``begin`` opens; it is not committed yet.

        Without ``begin`` it goes on in the transaction of another migration, of which nothing else reaches this one.
        """
        if not begin:
            await send(self.work, _BETWEEN)
        await self._settings(begin=begin)
        if not begin:
            await self._restore_deferral()
        await self._script(self.control.before)
        for done, statement in enumerate(self.statements):
            self.control.checkpoint()
            await execute(self.work, self.file, statement)
            self._still_in_transaction(statement)
            await self.control.advance(done + 1)
        await self._script(self.control.after)
        await self._settle()
        await self._verify()
        await self._write(self._row(len(self.statements)), mode)

    async def commit(self) -> None:
        """Commit, if we may. Raises CommitUnknownError where the answer did not arrive."""
        self.control.may_write()
        try:
            await send(self.work, sql.SQL("COMMIT"))
        except psycopg.Error as error:
            if is_connection_lost(error):
                raise CommitUnknownError(self.file, error) from None
            raise commit_failed(self.file, self.line, error) from None

    async def _restore_deferral(self) -> None:
        """Constraints that are deferred by their own declaration are so again, after another migration's end."""
        cursor = await self.work.execute(_DEFERRED)
        names = [sql.Identifier(*names) for names in await cursor.fetchall()]
        if names:
            await send(self.work, sql.SQL("SET CONSTRAINTS {} DEFERRED").format(sql.SQL(", ").join(names)))

    # -- without a transaction -----------------------------------------------------------------------------------

    async def _resume(self, row: HistoryRow | None) -> None:
        """Statement by statement from the cursor on; what can be is committed together with the cursor."""
        statements, work = self.statements, self.work
        first, pending = (row.done, row.started) if row else (0, False)
        before, _, sent = (row.cursor if row else "").partition("+")
        if before and before != fingerprint(statements[:first]):
            raise InvalidError(
                Reason.CHECKSUM_MISMATCH,
                f"{self.file}: one of its first {first} statements changed after it ran; put their old text back, "
                "only what has not run yet may be mended",
            )
        if self.control.before is not None and not first and not pending:
            await Attempt(self.ground, work, self.control.before, "up", self.control).hook()
        for statement in statements[:first]:
            if is_said_again(statement):
                await execute(work, self.file, statement)
        same = pending and (not sent or sent == fingerprint(statements[first : first + 1]))
        done = first
        while done < len(statements):
            statement, end = statements[done], self.script.together(done)
            self.control.checkpoint()
            if done in self.script.alone:
                if same and done == first:
                    check_doubt(self.file, statement)
                await self._cursor(done, started=True)
                try:
                    await self._alone(statement, same and done == first, pending and done == first)
                except StatementFailedError as error:
                    await self._failed(error, done, row if pending and done == first else None)
                if ends_transactions(statement):
                    await self._cursor(end)  # it did end: nobody has to look, whatever fails behind it
                await send(work, sql.SQL("BEGIN"))
            else:
                await self._settings(begin=True)
                for statement in statements[done:end]:
                    self.control.checkpoint()
                    await execute(work, self.file, statement)
                    self._still_in_transaction(statement)
            await self._advance(end)
            done = end
        if first == len(statements):  # there is none, what was left was taken out of the file, or only its end is left
            await send(work, sql.SQL("BEGIN"))
            await self._advance(first)

    async def _failed(self, error: StatementFailedError, done: int, sent: HistoryRow | None) -> NoReturn:
        """Raise why a statement alone failed, once that is written; ``sent`` is its row where it was sent before."""
        why = partly_done(error) if ends_transactions(self.statements[done]) else error
        # But where it waits the server's answer is known: an index that exists later was not made by this statement.
        mark = sent.cursor if sent is not None and isinstance(error, NotSentError) else ""
        self.noted = True
        try:
            await self._cursor(done, started=bool(mark), mark=mark, why=str(why))
        except _UNWRITTEN as unwritten:
            raise why from unwritten
        raise why from None

    async def _cursor(self, done: int, *, started: bool = False, mark: str = "", why: str = "") -> None:
        row = self._row(done, RowState.PARTIAL, started=started)
        await send(self.work, sql.SQL("BEGIN"))
        await self._settle()
        await self._write(replace(row, cursor=mark or row.cursor), "None")
        if why:
            await self.ground.ledger.failed(self.work, self.migration, why)
        await self.commit()

    async def _note(self, why: str) -> None:
        """Whoever looks at the row of what is partly done finds the reason there."""
        await send(self.work, sql.SQL("ROLLBACK; BEGIN"))
        await self._settle()
        await self.ground.holds(self.work)
        await self.ground.ledger.failed(self.work, self.migration, why)
        await self.commit()

    async def _advance(self, done: int) -> None:
        """Commit a statement that is done, with the cursor behind it."""
        if done == len(self.statements) and self.control.after is not None:
            await self._settings()
            await self._script(self.control.after)
        await self._settle()
        if done == len(self.statements):
            await self._verify()
        await self._write(self._row(done), "None")
        await self.commit()
        await self.control.advance(done)

    async def _alone(self, statement: Statement, interrupted: bool, pending: bool) -> None:
        """A statement without a transaction.

        ``interrupted``: it was sent before, and its end is not known; ``pending``: it, or what stood in its place.
        """
        build, work = index_build(statement), self.work
        await send(work, self._session(statement))
        try:
            if await self._is_done(statement, build, interrupted, pending):
                return
            try:
                await execute(work, self.file, statement)
            except Exception:
                # not when cancelled: the drop may wait as long as the build did, and the next run finds what is left
                await drop_broken(work, self.file, statement, build)
                raise
            if build is not None and await index_state(work, build) != "valid":
                raise failed_after(self.file, statement, f"index {build.index} was built and is not valid")
        finally:
            if not work.closed and work.info.transaction_status is TransactionStatus.IDLE:
                await send(work, sql.SQL("RESET ROLE"))

    async def _is_done(self, statement: Statement, build: IndexBuild | None, interrupted: bool, pending: bool) -> bool:
        """Whether an earlier attempt did the work; what it left half done is taken away, or brought to its end."""
        work = self.work
        if build is not None:
            state = await index_state(work, build)
            # The server itself would skip IF NOT EXISTS although the index that exists is unusable.
            if state == "invalid" and (pending or build.if_not_exists):
                await check_builder(work, self.file, statement, build)
                await drop_index(work, self.file, build)
            return state == "valid" and interrupted
        detached = await detach_state(work, statement)
        if detached == "pending":
            await execute(work, self.file, finalize(statement))
            return True
        if not interrupted:
            return False
        if detached == "detached" or await is_dropped(work, statement):
            return True
        await drop_leftovers(work, self.file, statement)
        return False

    # -- parts ---------------------------------------------------------------------------------------------------

    async def _script(self, script: Migration | None) -> None:
        if script is not None:
            await self._statements(script, script.script.statements)

    async def _statements(self, script: Migration, statements: Sequence[Statement]) -> None:
        for statement in statements:
            self.control.checkpoint()
            await execute(self.work, script.file, statement)
            self._still_in_transaction(statement, script.file)

    async def _settle(self) -> None:
        """Fire what is deferred, as the migrations' role, and take the session back from the statements."""
        try:
            await send(self.work, _SETTLE)
        except psycopg.Error as error:
            raise commit_failed(self.file, self.line, error) from None

    async def _verify(self) -> None:
        """The file's own queries, as the migrations' role and read-only; each row has to say true."""
        if self.direction == "down":
            return
        for query in self.migration.verifications:
            await send(self.work, sql.SQL("SAVEPOINT verification; SET TRANSACTION READ ONLY"))
            await self._settings()
            answers = await ask(self.work, self.file, query)
            if not answers or set(answers) != {b"t"}:
                shown = ", ".join((one or b"null").decode(errors="replace")[:40] for one in answers[:3]) or "no row"
                raise failed_after(self.file, query, f"the verification says {shown}, and only true is good")
            await send(self.work, sql.SQL("ROLLBACK TO SAVEPOINT verification; RELEASE SAVEPOINT verification"))

    async def _write(self, row: HistoryRow, mode: str) -> None:
        """The history's row, as the migrator's login, if the lock is still ours."""
        try:
            await self.ground.holds(self.work)
            await close_at_birth(self.work, self.ground.closed)
            ledger = self.ground.ledger
            if self.direction == "up":
                seconds = time.monotonic() - self.started
                await ledger.write(self.work, self.migration, row, seconds=seconds, mode=mode)
            elif row.state is RowState.PARTIAL:
                await ledger.undoing(self.work, self.migration, row)
            else:
                await ledger.undone(self.work, self.migration)
        except psycopg.Error as error:
            raise commit_failed(self.file, self.line, error) from None

    def _row(self, done: int, state: RowState | None = None, *, started: bool = False) -> HistoryRow:
        total = len(self.statements)
        state = state or (RowState.APPLIED if done == total else RowState.PARTIAL)
        mark = fingerprint(self.statements[:done]) if state is RowState.PARTIAL else ""
        if started:
            mark += "+" + fingerprint(self.statements[done : done + 1])
        migration = self.migration
        return HistoryRow(
            migration.version,
            migration.name,
            migration.checksum,
            state,
            done,
            total,
            mark,
            started,
            direction=self.direction,
        )

    async def _settings(self, *, begin: bool = False) -> None:
        limits = self.control.timeouts
        opening = sql.SQL("BEGIN;") if begin else sql.SQL("")
        settings = sql.SQL(
            "{} SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {};"
            "SET LOCAL idle_in_transaction_session_timeout = '5min'; {} SET ROLE {}"
        )
        path = sql.SQL("SET LOCAL search_path = {};").format(self._path()) if self.ground.path else sql.SQL("")
        role = sql.Identifier(self.ground.role)
        lock, statement = _milliseconds(limits.lock), _milliseconds(limits.statement)
        await send(self.work, settings.format(opening, lock, statement, path, role))

    def _session(self, statement: Statement) -> sql.Composed:
        # A CONCURRENTLY that waits blocks nobody, and one that gives up leaves an invalid index: it may wait.
        limits = self.control.timeouts
        lock = 0 if "CONCURRENTLY" in statement.head else limits.lock
        path = sql.SQL("SET search_path = {};").format(self._path()) if self.ground.path else sql.SQL("")
        settings = sql.SQL("SET lock_timeout = {}; SET statement_timeout = {}; {} SET ROLE {}")
        role = sql.Identifier(self.ground.role)
        return settings.format(_milliseconds(lock), _milliseconds(limits.statement), path, role)

    def _path(self) -> sql.Composed:
        return sql.SQL(", ").join(map(sql.Identifier, self.ground.path))

    def _still_in_transaction(self, statement: Statement, file: str = "") -> None:
        if self.work.info.transaction_status is not TransactionStatus.INTRANS:
            raise failed_after(
                file or self.file, statement, "the statement ended the transaction that keeps the migration whole"
            )


def _milliseconds(seconds: float) -> sql.Literal:
    return sql.Literal(f"{round(seconds * 1000)}ms")
