"""What the runner asks about one step: whether it is done, whether it still fits, its limits and its first row."""

from __future__ import annotations

from collections.abc import Mapping

from selvedge.core.errors import InvalidError, SelvedgeError, TransientError
from selvedge.core.reasons import Reason
from selvedge.migrate.history import HistoryRow, RowState
from selvedge.migrate.load import Migration
from selvedge.migrate.names import sort_key
from selvedge.migrate.plan import Direction, Step
from selvedge.migrate.protocol import Failure, MigrationState, Progress, StatementFailedError, Timeouts
from selvedge.migrate.together import script_of

RUNNING = ("up", "down")
"""The directions that run statements."""

FINAL: dict[Direction, MigrationState] = {
    "up": MigrationState.APPLIED,
    "down": MigrationState.UNDONE,
    "mark": MigrationState.MARKED,
    "unmark": MigrationState.UNMARKED,
    "accept": MigrationState.ACCEPTED,
}
"""The state that a step of each direction ends in."""

NOTHING_INVALID = "no index is invalid, but for what is being built"
"""What a repair says that found no index to drop."""

DONE = (*FINAL.values(), MigrationState.SKIPPED)
"""The states of a step that is done."""


def first_row(number: int, step: Step) -> Progress:
    """A step's row before anything ran; raises InvalidError where the statements cannot be read."""
    migration = step.migration
    total = 0
    if step.direction in RUNNING:
        if migration.engine == "Postgres":
            total = len(script_of(migration, step.direction).statements)
        else:
            total = len(migration.down_commands if step.direction == "down" else migration.commands)
    return Progress(
        migration.version,
        migration.name,
        total=total,
        direction=step.direction,
        step=number,
        kind=migration.kind,
        scope=step.scope,
    )


def is_done(step: Step, row: HistoryRow | None) -> bool:
    """Whether the history says already what the step would make it say."""
    if step.direction in ("down", "unmark"):
        return row is None
    if row is None or row.state is not RowState.APPLIED:
        return False
    if step.direction == "mark":
        return True
    same = row.checksum == step.migration.checksum
    return same and (step.direction == "up" or row.down_checksum == step.migration.down_checksum)


def final_error(failure: StatementFailedError) -> SelvedgeError:
    """What a failure means for the run: tried again later, or a person has to change something."""
    if failure.retry:
        return TransientError(Reason.WAITING_FOR_LOCK, f"{failure.failure}; tried again by itself")
    return InvalidError(Reason.STATEMENT_FAILED, str(failure.failure))


def limits(timeouts: Timeouts, migration: Migration, direction: str) -> Timeouts:
    """The run's limits with what the file says about them."""
    directives = migration.down_directives if direction == "down" else migration.directives
    return Timeouts(
        lock=timeouts.lock if directives.lock_timeout is None else directives.lock_timeout,
        statement=timeouts.statement if directives.statement_timeout is None else directives.statement_timeout,
        lock_wait=timeouts.lock_wait,
    )


def begun_alone(row: HistoryRow) -> InvalidError:
    """Why a run cannot be one transaction: a part of it is committed."""
    return InvalidError(
        Reason.PARTLY_APPLIED,
        f"version {row.version} ({row.name}) is half done, {row.done} of {row.total} statements, so this run cannot be "
        "all or nothing: set transaction to PerMigration",
    )


def _newer(step: Step, rows: Mapping[str, HistoryRow]) -> int:
    """The newest version of the history, if it is newer than the step's; else 0."""
    versions = [
        row.version
        for row in rows.values()
        if row.kind == "Versioned" and (row.state is RowState.APPLIED or step.direction == "down")
    ]
    newest = max(versions, key=sort_key, default=0)
    return newest if sort_key(newest) > sort_key(step.migration.version) else 0


def lock_of(failure: Failure) -> str:
    """What was waited for, where nobody saw who held it."""
    return f"a lock ({failure.sqlstate})"


def unfit(step: Step, rows: Mapping[str, HistoryRow], server_version: int, *, in_order: bool) -> SelvedgeError | None:
    """Why a step does not fit the history as it is now, or the server; ``None`` where it does.

    ``rows`` are by key, as the steps before it leave them on the way down.
    """
    migration = step.migration
    row = rows.get(migration.key)
    if step.direction not in RUNNING:
        return None
    if migration.kind == "Versioned" and (row is None) == (step.direction == "up") and (newer := _newer(step, rows)):
        if step.direction == "down":
            return InvalidError(
                Reason.OUT_OF_ORDER,
                f"{migration.file} is not the newest any more: another run applied {newer} meanwhile; plan again",
            )
        if in_order:
            return InvalidError(
                Reason.OUT_OF_ORDER,
                f"{migration.file} is older than version {newer}, which another run applied meanwhile; plan again",
            )
    if row is not None and row.state is RowState.PARTIAL and row.direction != step.direction:
        other = "undone" if row.half_undone else "applied"
        return InvalidError(
            Reason.PARTLY_APPLIED, f"{migration.file} was half {other} by another run meanwhile; plan again"
        )
    if step.direction == "down":
        return None
    if row is not None and row.state is RowState.APPLIED and migration.kind == "Versioned":
        if row.checksum != migration.checksum:
            return InvalidError(
                Reason.CHECKSUM_MISMATCH, f"{migration.file}: another run applied it with another text; plan again"
            )
        return None
    required = migration.directives.requires_version
    if required is not None and server_version < required:
        return InvalidError(
            Reason.UNSUPPORTED_VERSION,
            f"{migration.file} needs version {required}, the server has {server_version}; upgrade it",
        )
    return None
