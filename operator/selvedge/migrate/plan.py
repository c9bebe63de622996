"""What a run will do: the files beside the history, decided without touching a database."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason
from selvedge.migrate.load import Migration
from selvedge.migrate.names import sort_key

_SHOWN = 5


class RowState(StrEnum):
    """How far a migration of the history is. ``Partial`` runs without a transaction and did not finish yet."""

    APPLIED = "Applied"
    PARTIAL = "Partial"


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One migration in the database's history.

    ``done`` statements of a partial one are complete and ``cursor`` is their fingerprint; ``started`` says that the
    next one was sent and its end is not known.
    """

    version: int
    name: str
    checksum: str
    state: RowState = RowState.APPLIED
    done: int = 0
    total: int = 0
    cursor: str = ""
    started: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One migration in one direction."""

    migration: Migration
    direction: Literal["up", "down"] = "up"


@dataclass(frozen=True, slots=True)
class RunPlan:
    """The steps of a run, in order. ``version`` is the newest in the history, 0 for none."""

    action: str
    steps: tuple[Step, ...]
    version: int = 0

    @property
    def digest(self) -> str:
        """See :func:`digest`."""
        return digest(self)


def plan(
    migrations: Sequence[Migration],
    history: Iterable[HistoryRow],
    action: str = "Up",
    target: str | int | None = None,
    out_of_order: str = "Refuse",
    environment: str = "",
) -> RunPlan:
    """Compare files with history and choose what runs.

    ``Up`` and ``Plan`` take every pending migration up to ``target`` (default: all), ``Validate`` takes none and only
    compares. A file with an ``-- env:`` line runs in those environments only. Every pending file is parsed here, so
    that nothing runs while a later one cannot be read.

    Raises InvalidError: ChecksumMismatch, MigrationMissing, OutOfOrder, InvalidMigration; InvalidSpec for a target that
    no file has; Unsupported for another action.
    """
    if action not in ("Up", "Plan", "Validate"):
        raise InvalidError(
            Reason.UNSUPPORTED, f"action {action} is not known to this version; use Up, Plan or Validate"
        )
    rows = {row.version: row for row in history}
    known = {migration.version: migration for migration in migrations}
    _check_missing(rows, known)
    _check_changed(rows, known)
    applied = [version for version, row in rows.items() if row.state is RowState.APPLIED]
    newest = max(applied, key=sort_key, default=0)
    pending = [
        migration
        for migration in sorted(migrations, key=lambda migration: sort_key(migration.version))
        if migration.version not in applied and _meant_for(migration, environment)
    ]
    limit = _target(target, known)
    if limit:
        pending = [migration for migration in pending if sort_key(migration.version) <= sort_key(limit)]
    if out_of_order != "Apply":
        _check_order(pending, rows, newest)
    for migration in pending:
        migration.check()
    steps = () if action == "Validate" else tuple(Step(migration) for migration in pending)
    return RunPlan(action, steps, newest)


def digest(plan: RunPlan) -> str:
    """sha256 over version, checksum and direction of each step: what an approval refers to."""
    lines = [f"{step.migration.version} {step.migration.checksum} {step.direction}\n" for step in plan.steps]
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def _meant_for(migration: Migration, environment: str) -> bool:
    environments = migration.directives.environments
    return not environments or environment in environments


def _target(target: str | int | None, known: dict[int, Migration]) -> int:
    if target in (None, ""):
        return 0
    if not str(target).isascii() or not str(target).isdecimal() or int(target) not in known:
        raise InvalidError(Reason.INVALID_SPEC, f"target {target} is no version of the source; name one of its files")
    return int(target)


def _check_missing(rows: dict[int, HistoryRow], known: dict[int, Migration]) -> None:
    missing = [f"{row.version} ({row.name})" for version, row in rows.items() if version not in known]
    if missing:
        raise InvalidError(
            Reason.MIGRATION_MISSING,
            f"the database's history has {_some(missing)} and the source has no such file: put it back, or use the "
            "source that this database was migrated with",
        )


def _check_changed(rows: dict[int, HistoryRow], known: dict[int, Migration]) -> None:
    changed = [
        known[version].file
        for version, row in rows.items()
        # one that stopped half way may be mended: the runner compares the statements that are done
        if row.state is RowState.APPLIED and row.checksum != known[version].checksum
    ]
    if changed:
        raise InvalidError(
            Reason.CHECKSUM_MISMATCH,
            f"{_some(changed)} changed after it ran: put the old text back and write the change as a new migration",
        )


def _check_order(pending: list[Migration], rows: dict[int, HistoryRow], newest: int) -> None:
    late = [
        migration.file
        for migration in pending
        if sort_key(migration.version) < sort_key(newest) and migration.version not in rows
    ]
    if late:
        raise InvalidError(
            Reason.OUT_OF_ORDER,
            f"{_some(late)} is older than version {newest}, which ran already: give it a newer version, "
            "or set outOfOrder: Apply",
        )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
