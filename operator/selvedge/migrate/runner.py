"""Run a plan: under the lock, one migration after the other, retried where only a lock was in the way.

Nothing is remembered here. The history is read again once the lock is held, so another run, or this one before it was
killed, may have done any part of the plan already.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from random import Random

from selvedge.core.backoff import delay
from selvedge.core.errors import InvalidError, SelvedgeError, TransientError
from selvedge.core.reasons import Reason
from selvedge.migrate.load import Migration
from selvedge.migrate.plan import HistoryRow, RowState, RunPlan
from selvedge.migrate.protocol import (
    Control,
    Failure,
    MigrationSession,
    MigrationState,
    Progress,
    StatementFailedError,
    StoppedError,
    Timeouts,
)

ATTEMPTS = 10
"""How often a migration is tried that meets somebody else's lock."""

_RETRY_BASE = 1.0
_RETRY_CAP = 60.0

OnProgress = Callable[[Progress], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended: one row for each step, and why it did not go to its end (``None``: it did).

    A TransientError in ``error`` means: call again, it goes on where it stopped. An InvalidError means: somebody has to
    change a file or the database first. ``stopped`` says that the run was asked to stop.
    """

    migrations: tuple[Progress, ...]
    error: SelvedgeError | None = None
    stopped: bool = False

    @property
    def applied(self) -> int:
        """How many migrations of the plan stand in the history now."""
        return sum(row.state in (MigrationState.APPLIED, MigrationState.SKIPPED) for row in self.migrations)


async def run(
    session: MigrationSession,
    plan: RunPlan,
    *,
    timeouts: Timeouts,
    on_progress: OnProgress,
    stop: asyncio.Event,
    may_write: Callable[[], None],
    random: Random | None = None,
) -> RunResult:
    """Run the steps of a plan in order; stops at the first that fails.

    ``on_progress`` hears of every change of a row. ``may_write`` is called before each migration, statement and commit
    and raises when this process may not write any more; its error, and cancellation, come through, with the migration
    under way rolled back (or, without a transaction, its cursor kept). ``stop`` ends the run between two statements.
    """
    runner = _Runner(session, plan, timeouts, on_progress, stop, may_write, random or Random())
    return await runner.run()


class _Runner:
    def __init__(
        self,
        session: MigrationSession,
        plan: RunPlan,
        timeouts: Timeouts,
        on_progress: OnProgress,
        stop: asyncio.Event,
        may_write: Callable[[], None],
        random: Random,
    ) -> None:
        self.session = session
        self.plan = plan
        self.timeouts = timeouts
        self.on_progress = on_progress
        self.stop = stop
        self.may_write = may_write
        self.random = random
        self.deadline = time.monotonic() + timeouts.lock_wait
        self.rows = [
            Progress(step.migration.version, step.migration.name, total=step.migration.steps) for step in plan.steps
        ]

    async def run(self) -> RunResult:
        """Lock, look at the history again, and run what is still to do."""
        if not self.rows:
            return RunResult(())
        error: SelvedgeError | None = None
        try:
            for index in range(len(self.rows)):
                await self._tell(index)
            self._checkpoint()
            await self.session.lock(self.timeouts.lock_wait, self._wait_for_lock)
            history = {row.version: row for row in await self.session.history()}
            for index, step in enumerate(self.plan.steps):
                error = await self._step(index, step.migration, history.get(step.migration.version))
                if error is not None:
                    break
        except StoppedError:
            return RunResult(tuple(self.rows), stopped=True)
        except SelvedgeError as raised:
            # may_write's refusal is the caller's own and is no result of the run
            if raised.reason is Reason.NOT_LEADING:
                raise
            error = raised
        return RunResult(tuple(self.rows), error)

    async def _wait_for_lock(self, holder: str) -> None:
        self._checkpoint()
        await self._tell(0, waiting_for=holder)

    async def _step(self, index: int, migration: Migration, row: HistoryRow | None) -> SelvedgeError | None:
        if row is not None and row.state is RowState.APPLIED:
            if row.checksum != migration.checksum:
                return InvalidError(
                    Reason.CHECKSUM_MISMATCH, f"{migration.file}: another run applied it with another text; plan again"
                )
            await self._tell(index, state=MigrationState.SKIPPED, done=self.rows[index].total)
            return None
        required = migration.directives.requires_version
        if required is not None and self.session.server_version < required:
            return InvalidError(
                Reason.UNSUPPORTED_VERSION,
                f"{migration.file} needs version {required}, the server has {self.session.server_version}; upgrade it",
            )
        started = time.monotonic()
        done = row.done if row else 0
        await self._tell(index, state=MigrationState.RUNNING, started_at=time.time(), done=done)
        try:
            failure = await self._attempts(index, migration, row)
        except (StoppedError, TransientError):
            await self._tell(index, state=MigrationState.PENDING, waiting_for="")
            raise
        duration = time.monotonic() - started
        if failure is None:
            total = self.rows[index].total
            await self._tell(index, state=MigrationState.APPLIED, done=total, duration=duration, waiting_for="")
            return None
        if failure.retry:
            await self._tell(index, state=MigrationState.PENDING, duration=duration, error=failure.failure)
            return TransientError(Reason.WAITING_FOR_LOCK, f"{failure.failure}; tried again by itself")
        await self._tell(index, state=MigrationState.FAILED, duration=duration, error=failure.failure, waiting_for="")
        return InvalidError(Reason.STATEMENT_FAILED, str(failure.failure))

    async def _attempts(self, index: int, migration: Migration, row: HistoryRow | None) -> StatementFailedError | None:
        """Try until it succeeds, fails for good, or the patience is over; returns the failure that is final."""
        control = Control(
            timeouts=_limits(self.timeouts, migration),
            checkpoint=self._checkpoint,
            may_write=self.may_write,
            advance=lambda done: self._tell(index, done=done),
            waiting=lambda who: self._tell(index, waiting_for=who),
        )
        for attempt in range(ATTEMPTS):
            self._checkpoint()
            try:
                await self.session.attempt(migration, row, control)
            except StatementFailedError as failed:
                pause = delay(attempt, base=_RETRY_BASE, cap=_RETRY_CAP, random=self.random)
                patient = attempt + 1 < ATTEMPTS and time.monotonic() + pause < self.deadline
                if not failed.retry or not patient:
                    return failed
                await self._tell(index, waiting_for=self.rows[index].waiting_for or _lock(failed.failure))
                await self._sleep(pause)
                row = await self._row(migration.version)
                await self._tell(index, done=row.done if row else 0)
            else:
                return None
        raise AssertionError("the last attempt returns")

    async def _row(self, version: int) -> HistoryRow | None:
        return next((row for row in await self.session.history() if row.version == version), None)

    async def _sleep(self, seconds: float) -> None:
        """Wait, but not past the wish to stop."""
        try:
            async with asyncio.timeout(seconds):
                await self.stop.wait()
        except TimeoutError:
            return
        raise StoppedError

    def _checkpoint(self) -> None:
        if self.stop.is_set():
            raise StoppedError
        self.may_write()

    async def _tell(self, index: int, **changes: object) -> None:
        """Change a row and report it, unless nothing changed."""
        before = self.rows[index]
        self.rows[index] = replace(before, **changes)  # type: ignore[arg-type]  # the names are Progress's fields
        if self.rows[index] != before or not changes:
            await self.on_progress(self.rows[index])


def _limits(timeouts: Timeouts, migration: Migration) -> Timeouts:
    """The run's limits with what the file says about them."""
    directives = migration.directives
    return Timeouts(
        lock=timeouts.lock if directives.lock_timeout is None else directives.lock_timeout,
        statement=timeouts.statement if directives.statement_timeout is None else directives.statement_timeout,
        lock_wait=timeouts.lock_wait,
    )


def _lock(failure: Failure) -> str:
    return f"a lock ({failure.sqlstate})"
