"""One operation on one database from its plan to its end: what the operator and ``selvedge migrate`` have in common.

::

    prepared = await prepare(session, source, operation)         # reads, and writes nothing
    check_approval(prepared)                                     # or ask a person
    result = await perform(session, prepared, on_progress=…, stop=…, may_write=…)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from selvedge.core.errors import InvalidError, NotPermittedError, RefusedError
from selvedge.core.reasons import Reason
from selvedge.core.words import count, some
from selvedge.migrate.history import HistoryRow, RowState
from selvedge.migrate.hooks import Hooks, split_hooks
from selvedge.migrate.load import Migration, load
from selvedge.migrate.names import Engine, sort_key
from selvedge.migrate.plan import Direction, RunPlan, Step, plan
from selvedge.migrate.protocol import MigrationSession, Timeouts
from selvedge.migrate.runner import OnProgress, RunResult, run
from selvedge.migrate.steps import RUNNING

if TYPE_CHECKING:
    from selvedge.migrate.conventions import Conventions

_NO_HOOKS = Hooks()
_RUNS = ("Up", "Down", "To", "Redo", "Plan")
_OWED = "the hook afterRun runs, to which an earlier run did not come"
_WORDS: dict[Direction, str] = {
    "down": "is undone",
    "mark": "is marked as run without running it",
    "unmark": "is marked as not run without undoing it",
    "accept": "gets the text of its file as the one that ran",
}


@dataclass(frozen=True, slots=True)
class Source:
    """The files of an operation: migrations in their order, and hooks."""

    migrations: tuple[Migration, ...] = ()
    hooks: Hooks = field(default_factory=Hooks)


@dataclass(frozen=True, slots=True)
class Operation:
    """What is asked for, in the words of a MigrationRun's spec.

    ``resumes``: an earlier pass of this very run began; what its session says is done was done for it.
    ``deciding`` names the fields that say what ``destructive`` is, and ``way_out`` what to do where that is Refuse.
    ``approved`` is the digest of the plan that a person approved. ``actor`` and ``reason`` are written into the history
    where nothing else says why it changed. ``conventions`` are those that advice speaks of, ``None`` the default ones.
    """

    action: str = "Up"
    target: str = ""
    engine: Engine = "Postgres"
    repair: str = ""
    out_of_order: str = "Refuse"
    environment: str = ""
    transaction: str = "PerMigration"
    destructive: str = "RequireApproval"
    deciding: str = "destructive"
    way_out: str = "make a run that allows it"
    approved: str = ""
    actor: str = ""
    reason: str = ""
    resumes: bool = False
    timeouts: Timeouts = field(default_factory=Timeouts)
    conventions: Conventions | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """An operation and its plan, as files and history are now.

    ``concerns`` say why a person has to approve, one sentence each; there are none where nobody has to. ``unmarked``
    is what loses data although its file does not say that it may (``-- allow:``). ``foreseen`` is advice
    that the server gave, see :func:`foreseen`.
    """

    operation: Operation
    plan: RunPlan
    hooks: Hooks = field(default_factory=Hooks)
    concerns: tuple[str, ...] = ()
    unmarked: tuple[str, ...] = ()
    foreseen: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """What an approval refers to: version, text, directives and direction of each step."""
        return self.plan.digest

    @property
    def does_something(self) -> bool:
        """Whether the plan holds anything at all."""
        return bool(self.plan.steps) or self.plan.drop_invalid_indexes or self.plan.owes_after_run


def source_of(
    files: Mapping[str, str],
    engine: Engine,
    *,
    placeholders: Mapping[str, str] | None = None,
    hooks: Mapping[str, str] | None = None,
) -> Source:
    """The migrations and hooks among these files (name → content). Raises InvalidError.

    ``placeholders`` are substituted in the migrations; in hooks nothing is. ``hooks`` are further ones by name
    (``beforeRun``), which no file holds.
    """
    if hooks and engine != "Postgres":
        raise InvalidError(Reason.INVALID_SPEC, f"hooks are SQL, and {engine} takes none: leave out {', '.join(hooks)}")
    found, rest = split_hooks(files, hooks) if engine == "Postgres" else (Hooks(), dict(files))
    return Source(load(rest, engine, placeholders=placeholders), found)


async def prepare(session: MigrationSession, source: Source, operation: Operation) -> Prepared:
    """Plan the operation; writes nothing.

    Raises what ``plan`` raises, and TransientError where something is to run in a schema that is not there (yet).
    """
    hook = source.hooks.after_run if operation.action in _RUNS else None
    owed = hook is not None and await session.owes_after_run()
    history = await session.history()
    done = await session.done() if operation.resumes and operation.action == "Redo" else ()
    # to read megabytes of statements takes seconds, and whoever waits on this loop has a Lease to renew
    prepared = await asyncio.to_thread(_prepared, source, operation, history, done, owed=owed)
    # where nothing is left to run, what ran may have dropped its own schema
    if prepared.does_something or not (history or await session.done()):
        await session.check_place()
    return prepared


def _prepared(
    source: Source, operation: Operation, history: tuple[HistoryRow, ...], done: tuple[str, ...], *, owed: bool
) -> Prepared:
    chosen = plan(
        source.migrations,
        history,
        operation.action,
        operation.target or None,
        operation.out_of_order,
        operation.environment,
        repair=operation.repair,
        engine=operation.engine,
        done=done,
    )
    hooks = source.hooks
    runs = any(step.direction in RUNNING for step in chosen.steps)
    if owed and not runs:
        hooks = Hooks(after_run=hooks.after_run)
        chosen = replace(chosen, warnings=(*chosen.warnings, _OWED))
    if owed or runs:
        chosen = replace(chosen, hooks=hooks.lines, owes_after_run=owed)
    losses, unmarked = losses_of(chosen, hooks)
    return Prepared(operation, chosen, hooks, (*losses, *concerns_of(chosen)), unmarked)


def losses_of(chosen: RunPlan, hooks: Hooks = _NO_HOOKS) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What of the way up, and of hooks, loses data, one sentence each: all of it, and what its file does not allow."""
    # what a redo of the same text loses, its way down has lost
    lost = {(step.migration.key, step.migration.checksum) for step in chosen.steps if step.direction == "down"}
    ups = [step.migration for step in chosen.steps if step.direction == "up"]
    running = [one for one in ups if (one.key, one.checksum) not in lost]
    if chosen.hooks:
        running += hooks.all
    if not running:
        return (), ()
    from selvedge.migrate.lint import destructive  # only what is about to run is looked into

    unmarked = destructive(running)
    found = unmarked
    if any(migration.directives.allow for migration in running):
        found = destructive(
            replace(one, directives=replace(one.directives, allow=())) if one.directives.allow else one
            for one in running
        )
    shown = tuple(f"{finding.file}, line {finding.line}: {finding.message}" for finding in found)
    return shown, tuple(str(finding) for finding in unmarked)


def advice_of(prepared: Prepared, server_version: int) -> tuple[str, ...]:
    """What the linter says of the migrations that would run, one line each, worst first; what is refused apart.

    Takes a moment for many files, and a process where squawk is installed: not for an event loop.
    """
    running = [step.migration for step in prepared.plan.steps if step.direction == "up"]
    if not running:
        return prepared.foreseen
    from selvedge.migrate.lint import advice  # only where there is something to say

    found = advice(running, server_version=server_version, conventions=prepared.operation.conventions)
    return (*prepared.foreseen, *(f"{one.severity}: {one}" for one in found))


def concerns_of(chosen: RunPlan) -> tuple[str, ...]:
    """Why a person has to approve a plan, apart from what its way up loses."""
    found = []
    for direction, word in _WORDS.items():
        if direction == "mark" and chosen.action == "Baseline":
            continue
        files = [_name(step) for step in chosen.steps if step.direction == direction]
        if files:
            found.append(
                f"{some(files)} {word}"
                if len(files) == 1
                else f"{count(len(files), 'migration')} ({some(files)}): each {word}"
            )
    if chosen.drop_invalid_indexes:
        found.append("invalid indexes are dropped")
    return tuple(found)


async def preflight(session: MigrationSession, prepared: Prepared) -> None:
    """Look for what is known to fail, and run nothing. Raises InvalidError (StatementFailed) for the first of it."""

    async def waiting(what: str) -> None:
        """Nobody is told: a plan has no progress."""

    failure = await session.preflight(prepared.plan.steps, waiting)
    if failure is not None:
        raise InvalidError(Reason.STATEMENT_FAILED, f"would fail: {failure}")


async def foreseen(session: MigrationSession, prepared: Prepared) -> Prepared:
    """The same with what a Postgres server is certain to refuse, as advice: one query. MongoDB has its preflight.

    Raises TransientError alone: what is wrong is said, and no plan ends with that.
    """
    if prepared.operation.engine != "Postgres" or not prepared.plan.steps:
        return prepared
    try:
        await preflight(session, prepared)
    except (InvalidError, NotPermittedError) as error:
        return replace(prepared, foreseen=(f"warning: {error.message}",))
    return prepared


def check_approval(prepared: Prepared) -> None:
    """Raise RefusedError where a person has to say yes first and did not, or said it to another plan."""
    concerns, operation = prepared.concerns, prepared.operation
    if not concerns or operation.destructive == "Allow":
        return
    check_marks(prepared)
    why = summary(concerns)
    if operation.destructive == "Refuse":
        said = f"{operation.deciding} is Refuse, so nothing was run: {operation.way_out}"
        raise RefusedError(Reason.DESTRUCTIVE_REFUSED, f"{why}; {said}")
    if operation.approved == prepared.digest:
        return
    if operation.approved:
        raise RefusedError(
            Reason.SUPERSEDED, f"{operation.approved} was approved, and what waits now is {prepared.digest}: {why}"
        )
    raise RefusedError(Reason.WAITING_FOR_APPROVAL, f"{why}; set spec.approvedPlan to {prepared.digest} to let it run")


def check_marks(prepared: Prepared) -> None:
    """Raise RefusedError where a file loses data and does not say that it may; no approval makes up for that."""
    if prepared.unmarked:
        raise RefusedError(Reason.DESTRUCTIVE_REFUSED, summary(prepared.unmarked))


def summary(concerns: tuple[str, ...]) -> str:
    """The first few concerns in one sentence."""
    return "; ".join(concerns[:3]) + (f" and {len(concerns) - 3} more" if len(concerns) > 3 else "")


async def perform(
    session: MigrationSession,
    prepared: Prepared,
    *,
    on_progress: OnProgress,
    stop: asyncio.Event,
    may_write: Callable[[], None],
) -> RunResult:
    """Run the plan; see :func:`selvedge.migrate.runner.run`. Whether it may run is for the caller to find out."""
    operation = prepared.operation
    return await run(
        session,
        prepared.plan,
        timeouts=operation.timeouts,
        on_progress=on_progress,
        stop=stop,
        may_write=may_write,
        transaction=operation.transaction,
        hooks=prepared.hooks,
        actor=operation.actor,
        reason=operation.reason,
    )


def newest_version(history: Iterable[HistoryRow]) -> str:
    """The newest version that ran to its end, empty for none."""
    versions = [row.version for row in history if row.kind == "Versioned" and row.state is RowState.APPLIED]
    return str(max(versions, key=sort_key)) if versions else ""


def _name(step: Step) -> str:
    migration = step.migration
    return f"{migration.version} {migration.name}" if migration.kind == "Versioned" else migration.name
