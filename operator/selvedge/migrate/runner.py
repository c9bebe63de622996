"""Run a plan: under the lock, one step after the other, retried where only a lock was in the way.

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
from selvedge.migrate.history import AFTER_RUN, HistoryRow, RowState
from selvedge.migrate.hooks import Hooks
from selvedge.migrate.load import Migration
from selvedge.migrate.plan import RunPlan, Step
from selvedge.migrate.protocol import (
    Control,
    MigrationSession,
    MigrationState,
    Progress,
    StatementFailedError,
    StoppedError,
    Timeouts,
)
from selvedge.migrate.steps import (
    DONE,
    FINAL,
    RUNNING,
    begun_alone,
    final_error,
    first_row,
    is_done,
    limits,
    lock_of,
    unfit,
)
from selvedge.migrate.together import check_together

ATTEMPTS = 10
"""How often a migration is tried that meets somebody else's lock."""

_RETRY_BASE = 1.0
_RETRY_CAP = 60.0

OnProgress = Callable[[Progress], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended: one row for each step, and why it did not go to its end (``None``: it did).

    A TransientError in ``error`` means: call again, it goes on where it stopped. An InvalidError means: somebody has to
    change a file or the database first. ``stopped`` says that the run was asked to stop. ``dropped`` are the invalid
    indexes that a repair dropped.
    """

    migrations: tuple[Progress, ...]
    error: SelvedgeError | None = None
    stopped: bool = False
    dropped: tuple[str, ...] = ()

    @property
    def applied(self) -> int:
        """How many steps of the plan are done."""
        return sum(row.state in DONE for row in self.migrations)


async def run(
    session: MigrationSession,
    plan: RunPlan,
    *,
    timeouts: Timeouts,
    on_progress: OnProgress,
    stop: asyncio.Event,
    may_write: Callable[[], None],
    random: Random | None = None,
    transaction: str = "PerMigration",
    hooks: Hooks = Hooks(),  # noqa: B008 - frozen
    actor: str = "",
    reason: str = "",
) -> RunResult:
    """Run the steps of a plan in order; stops at the first that fails.

    ``on_progress`` hears of every change of a row. ``may_write`` is called before each migration, statement and commit
    and raises when this process may not write any more; its error, and cancellation, come through, with the migration
    under way rolled back (or, without a transaction, its cursor kept). ``stop`` ends the run between two statements.
    ``transaction`` All runs everything in one transaction, or nothing. ``actor`` and ``reason`` go into the events of
    what changes the history alone; a repair needs both.

    Raises InvalidError before anything runs for a repair without them, and for All where that is not possible.
    """
    if plan.action in ("Plan", "Status", "Validate"):
        raise AssertionError(f"{plan.action} only looks, and nothing of it is run")
    if plan.action == "Repair" and not (actor.strip() and reason.strip()):
        raise InvalidError(
            Reason.INVALID_SPEC, "a repair is written down with who did it and why: give an actor and a reason"
        )
    together = transaction == "All" and any(step.direction in RUNNING for step in plan.steps)
    if together and plan.steps[0].migration.engine == "Postgres":
        check_together(plan.steps)
    runner = _Runner(session, plan, timeouts, on_progress, stop, may_write, random or Random(), hooks, actor, reason)
    return await runner.run(together=together)


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
        hooks: Hooks,
        actor: str,
        reason: str,
    ) -> None:
        self.session = session
        self.plan = plan
        self.timeouts = timeouts
        self.on_progress = on_progress
        self.stop = stop
        self.may_write = may_write
        self.random = random
        self.hooks = hooks
        self.actor = actor
        self.reason = reason
        self.waited = 0.0
        self.dropped: tuple[str, ...] = ()
        self.rows = [first_row(number, step) for number, step in enumerate(plan.steps)]

    async def run(self, *, together: bool) -> RunResult:
        """Lock, look at the history again, and run what is still to do."""
        if not self.rows and not self.plan.drop_invalid_indexes and not self.plan.owes_after_run:
            return RunResult(())
        error: SelvedgeError | None = None
        try:
            for index in range(len(self.rows)):
                await self._tell(index)
            self._checkpoint()
            await self.session.lock(self.timeouts.lock_wait, self._wait_for_lock)
            error = await (self._together() if together else self._one_by_one())
            if error is None and self.plan.drop_invalid_indexes:
                self._checkpoint()
                self.dropped = await self.session.drop_invalid_indexes(actor=self.actor, reason=self.reason)
        except StoppedError:
            return RunResult(tuple(self.rows), stopped=True)
        except SelvedgeError as raised:
            # may_write's refusal is the caller's own and is no result of the run
            if raised.reason is Reason.NOT_LEADING:
                raise
            error = raised
        return RunResult(tuple(self.rows), error, dropped=self.dropped)

    async def _wait_for_lock(self, holder: str) -> None:
        self._checkpoint()
        if self.rows:
            await self._tell(0, waiting_for=holder)

    async def _todo(self) -> tuple[list[int], dict[str, HistoryRow], SelvedgeError | None]:
        """The steps that are still to do, by the history as it is now, and what of it does not fit the plan."""
        history = {row.key: row for row in await self.session.history()}
        known = dict(history)
        found: list[int] = []
        for index, step in enumerate(self.plan.steps):
            row = known.get(step.migration.key)
            error = unfit(step, known, self.session.server_version, in_order=self.plan.in_order)
            if error is not None:
                return found, history, error
            if is_done(step, row):
                await self._tell(index, state=MigrationState.SKIPPED, done=self.rows[index].total, waiting_for="")
            else:
                found.append(index)
            if step.direction in ("down", "unmark"):
                known.pop(step.migration.key, None)
        return found, history, None

    async def _one_by_one(self) -> SelvedgeError | None:
        todo, history, misfit = await self._todo()
        runs = any(self.plan.steps[index].direction in RUNNING for index in todo)
        owed = await self._owes(runs=runs)
        if runs and self.hooks.before_run is not None and (error := await self._hook(self.hooks.before_run)):
            return error
        for index in todo:
            step = self.plan.steps[index]
            if (error := await self._step(index, step, history.pop(step.migration.key, None))) is not None:
                return error
        if misfit is not None:
            return misfit
        return await self._after_run() if owed else None

    async def _owes(self, *, runs: bool) -> bool:
        """Whether the hook ``afterRun`` runs at the end; written down before the first statement, for who goes on."""
        if self.hooks.after_run is None or not (runs or self.plan.owes_after_run):
            return False
        owed = await self.session.owes_after_run()
        if runs and not owed:
            self._checkpoint()
            await self.session.owe_after_run(self.hooks.after_run)
        return runs or owed

    async def _after_run(self) -> SelvedgeError | None:
        return await self._hook(self.hooks.after_run, AFTER_RUN) if self.hooks.after_run is not None else None

    async def _step(self, index: int, step: Step, row: HistoryRow | None) -> SelvedgeError | None:
        direction = step.direction
        if direction != "up" and direction != "down":
            self._checkpoint()
            await self.session.record(step.migration, direction, actor=self.actor, reason=self.reason)
            await self._tell(index, state=FINAL[direction], waiting_for="")
            return None

        control = self._control(index, step)
        current = [row if row is not None and row.state is RowState.PARTIAL else None]

        async def attempt() -> None:
            await self.session.attempt(step.migration, current[0], control, direction)

        async def again() -> None:
            found = await self._row(step.migration.key)
            current[0] = found if found is not None and found.state is RowState.PARTIAL else None
            await self._tell(index, done=current[0].done if current[0] else 0)

        return await self._attempts([index], attempt, again, current[0].done if current[0] else 0)

    async def _together(self) -> SelvedgeError | None:
        """All steps in one transaction; what another run did already is left out."""
        todo, history, misfit = await self._todo()
        half = [row for index in todo if (row := history.get(self.plan.steps[index].migration.key)) and row.cursor]
        if misfit is not None or half:
            return misfit or begun_alone(half[0])
        indexes = [index for index in todo if self.plan.steps[index].direction in RUNNING]
        steps = [self.plan.steps[index] for index in indexes]
        owed = await self._owes(runs=bool(steps))
        if steps and self.hooks.before_run is not None and (error := await self._hook(self.hooks.before_run)):
            return error

        async def attempt() -> None:
            await self.session.attempt_all(
                steps, [self._control(index, step) for index, step in zip(indexes, steps, strict=True)]
            )

        async def again() -> None:
            for index in indexes:
                await self._tell(index, done=0)

        if steps and (error := await self._attempts(indexes, attempt, again, 0)) is not None:
            return error
        for index in sorted(set(todo) - set(indexes)):
            if (error := await self._step(index, self.plan.steps[index], None)) is not None:
                return error
        return await self._after_run() if owed else None

    async def _attempts(
        self,
        indexes: list[int],
        attempt: Callable[[], Awaitable[None]],
        again: Callable[[], Awaitable[None]],
        done: int,
    ) -> SelvedgeError | None:
        """Try until it succeeds, fails for good, or the patience is over; the rows of ``indexes`` tell of it."""
        started = time.monotonic()
        for index in indexes:
            await self._tell(index, state=MigrationState.RUNNING, started_at=time.time(), done=done)
        try:
            failure = await self._try(indexes[0], attempt, again)
        except (StoppedError, TransientError):
            for index in indexes:
                await self._tell(index, state=MigrationState.PENDING, waiting_for="")
            raise
        except SelvedgeError:
            for index in indexes:
                state = MigrationState.FAILED if index == indexes[0] else MigrationState.PENDING
                await self._tell(index, state=state, waiting_for="")
            raise
        duration = time.monotonic() - started
        if failure is None:
            for index in indexes:
                row = self.rows[index]
                state = FINAL[row.direction]
                await self._tell(index, state=state, done=row.total, duration=duration, waiting_for="")
            return None
        failed = next((i for i in indexes if failure.failure.file in self._files(i)), indexes[0])
        state = MigrationState.PENDING if failure.retry else MigrationState.FAILED
        for index in indexes:
            if index == failed:
                await self._tell(index, state=state, duration=duration, error=failure.failure, waiting_for="")
            else:  # rolled back with it
                await self._tell(index, state=MigrationState.PENDING, done=0, waiting_for="")
        return final_error(failure)

    async def _try(
        self, index: int, attempt: Callable[[], Awaitable[None]], again: Callable[[], Awaitable[None]]
    ) -> StatementFailedError | None:
        """Returns the failure that is final."""
        for number in range(ATTEMPTS):
            self._checkpoint()
            started = time.monotonic()
            try:
                await attempt()
            except StatementFailedError as failed:
                pause = delay(number, base=_RETRY_BASE, cap=_RETRY_CAP, random=self.random)
                # only waiting counts: what ran before the lock was met may have taken long
                self.waited += pause + min(time.monotonic() - started, self.timeouts.lock)
                patient = number + 1 < ATTEMPTS and self.waited < self.timeouts.lock_wait
                if not failed.retry or not patient:
                    return failed
                if self.rows:
                    await self._tell(index, waiting_for=self.rows[index].waiting_for or lock_of(failed.failure))
                await self._sleep(pause)
                await again()
            else:
                return None
        raise AssertionError("the last attempt returns")

    async def _hook(self, hook: Migration, event: str = "") -> SelvedgeError | None:
        async def attempt() -> None:
            await self.session.run_hook(hook, self._plain_control(hook), event=event)

        async def again() -> None:
            pass

        failure = await self._try(0, attempt, again)
        if self.rows:
            await self._tell(0, waiting_for="")  # the watch may have ended before it saw the lock let go
        return None if failure is None else final_error(failure)

    def _plain_control(self, hook: Migration) -> Control:
        async def advance(done: int) -> None:
            pass

        async def waiting(who: str) -> None:
            if self.rows:
                await self._tell(0, waiting_for=who)

        return Control(limits(self.timeouts, hook, "up"), self._checkpoint, self.may_write, advance, waiting)

    def _control(self, index: int, step: Step) -> Control:
        return Control(
            timeouts=limits(self.timeouts, step.migration, step.direction),
            checkpoint=self._checkpoint,
            may_write=self.may_write,
            advance=lambda done: self._tell(index, done=done),
            waiting=lambda who: self._tell(index, waiting_for=who),
            before=self.hooks.before_each,
            after=self.hooks.after_each,
        )

    async def _row(self, key: str) -> HistoryRow | None:
        return next((row for row in await self.session.history() if row.key == key), None)

    def _files(self, index: int) -> tuple[str, str]:
        migration = self.plan.steps[index].migration
        return migration.file, migration.down_file

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
