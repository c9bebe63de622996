"""What a run will do: the files beside the history, decided without touching a database."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason
from selvedge.migrate.book import Book, target_of
from selvedge.migrate.history import HistoryRow, RowState
from selvedge.migrate.load import Migration
from selvedge.migrate.names import Engine, sort_key

__all__ = ["ACTIONS", "REPAIRS", "Direction", "HistoryRow", "RowState", "RunPlan", "Step", "digest", "line_of", "plan"]

ACTIONS = ("Up", "Down", "To", "Redo", "Baseline", "Repair", "Validate", "Plan", "Status")
"""What a run can be asked for."""

REPAIRS = ("Accept", "MarkApplied", "MarkUnapplied", "DropInvalidIndexes")
"""The kinds of repair; there are no others."""

_FINISH = "finish it with the action Up, or undo it by hand and repair: MarkUnapplied"

Direction = Literal["up", "down", "mark", "unmark", "accept"]
"""``up`` and ``down`` run statements. ``mark`` and ``unmark`` change the history alone: run, not run. ``accept`` takes
the file's text over as the one that ran."""


@dataclass(frozen=True, slots=True)
class Step:
    """One migration in one direction; ``scope`` is the schema that it runs in, where a run is for several."""

    migration: Migration
    direction: Direction = "up"
    scope: str = ""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """The steps of a run, in order. ``version`` is the newest in the history, 0 for none.

    ``target`` is what makes the same plan when a run that was cut off is planned again: one step down, planned twice,
    would be two. Keep it before the first step runs, and give it to :func:`plan` the next time. ``warnings`` are
    sentences for the person who looks at the plan. ``in_order``: no step may turn out to be older than what ran.
    ``hooks`` are the lines of :attr:`Hooks.lines`, where any step runs statements. ``state`` names the history that the
    plan was made of, where it goes back or changes the history by hand: what was approved is done once, and not again
    when the same migrations are there some other day. ``owes_after_run``: an earlier run, or this one before it was cut
    off, did not come to its hook ``afterRun``, which runs now.
    """

    action: str
    steps: tuple[Step, ...]
    version: int = 0
    warnings: tuple[str, ...] = ()
    target: str = ""
    drop_invalid_indexes: bool = False
    in_order: bool = True
    hooks: tuple[str, ...] = ()
    state: tuple[str, ...] = ()
    owes_after_run: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the digest is taken of beside the steps: values of placeholders, checksums of hooks, the history."""
        return (*self.beside, *self.state)

    @property
    def beside(self) -> tuple[str, ...]:
        """What runs with the steps: values of placeholders, and checksums of hooks."""
        values = {pair for step in self.steps for pair in step.migration.placeholders or ()}
        return (*(f"{name}={value}" for name, value in sorted(values)), *self.hooks)

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
    *,
    repair: str = "",
    engine: Engine = "Postgres",
    done: Sequence[str] = (),
) -> RunPlan:
    """Compare files with history and choose what runs.

    - ``Up``, ``Plan``, ``Status``: every pending migration up to ``target`` (default: all), then the repeatables whose
      text changed and the seeds of ``environment``. A file with an ``-- env:`` line runs in those environments only.
    - ``Down``: the newest one alone, or with a target everything newer than it; ``0`` is everything, a version 0
      included, which is a target itself as ``00``. A migration whose file is gone is undone by the text that the
      history kept.
    - ``To``: down or up, to exactly ``target``.
    - ``Redo``: the newest one down and up again. Its own text may have changed. What this very run undid, by ``done``
      (:meth:`MigrationSession.done`), only goes up again.
    - ``Baseline``: everything up to ``target`` counts as run; nothing runs.
    - ``Repair``: one of :data:`REPAIRS`, named by ``repair``. ``Accept`` takes all changed texts over, or that of
      ``target``; the two marks need a target.
    - ``Validate``: nothing runs; the files are read, both directions, and compared with the history.

    Everything that will run is parsed here, so that nothing runs while a later one cannot be read. ``engine`` matters
    only where there is no file.

    Raises InvalidError: ChecksumMismatch, MigrationMissing, OutOfOrder, InvalidMigration, Irreversible; InvalidSpec for
    a target that cannot be or is missing; Unsupported for an unknown action or repair.
    """
    if action not in ACTIONS:
        raise InvalidError(Reason.UNSUPPORTED, f"action {action} is not known; use one of {', '.join(ACTIONS)}")
    book = Book(migrations, history, environment, engine, strict_order=out_of_order != "Apply")
    chosen = _Chosen(book)
    if action == "Validate":
        book.check_files(all_parts=True)
        book.check_order(book.pending())
    elif action == "Down":
        chosen.down(target)
    elif action == "To":
        chosen.to(target)
    elif action == "Redo":
        chosen.redo(target, done)
    elif action == "Baseline":
        chosen.baseline(target)
    elif action == "Repair":
        chosen.repair(repair, target)
    else:
        chosen.up(target)
    return RunPlan(
        action,
        tuple(chosen.steps),
        book.newest(),
        tuple(book.warnings),
        chosen.target,
        drop_invalid_indexes=chosen.drop_invalid_indexes,
        in_order=book.strict_order,
        state=(state_line(book.rows.values()),) if any(_once(action, step) for step in chosen.steps) else (),
    )


def digest(plan: RunPlan) -> str:
    """sha256 over version, mark and direction of each step: what an approval refers to.

    A mark covers text and directives of what runs. Where placeholders are substituted, over their values as well: the
    checksums are those before it. Where there are hooks, over their texts: an approval is not given to what somebody
    puts beside the migrations later. Where the plan goes back, over the state of the history (:func:`state_line`).
    """
    lines = [line_of(step) for step in plan.steps]
    lines += [f"{line}\n" for line in plan.inputs]
    if plan.drop_invalid_indexes:
        lines.append("drop invalid indexes\n")
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def line_of(step: Step) -> str:
    """One line of what the digest is taken of. The schema is in it: an approval for one is not for another."""
    migration = step.migration
    # what runs on the way down is not what went up
    mark = migration.down_mark if step.direction == "down" else migration.mark
    return f"{migration.key} {mark} {step.direction}{f' {step.scope}' if step.scope else ''}\n"


def state_line(rows: Iterable[HistoryRow]) -> str:
    """What a digest is taken of for a state of the history: every row with its text and the time when it ran.

    The same migrations undone and run again are another state.
    """
    lines = sorted(f"{row.key} {row.checksum} {row.applied_at or 0:.6f}\n" for row in rows)
    return f"history {hashlib.sha256(''.join(lines).encode()).hexdigest()}"


def states_line(states: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The states of several histories as one; a single one is as it is, and none is none."""
    lines = [line for state in states for line in state]
    if len(lines) < 2:
        return tuple(lines)
    return (f"history {hashlib.sha256(chr(10).join(lines).encode()).hexdigest()}",)


def _once(action: str, step: Step) -> bool:
    """Whether a step needs an approval that is good for one state of the history alone."""
    return step.direction != "up" and not (step.direction == "mark" and action == "Baseline")


def _newer(rows: Sequence[HistoryRow], version: int | None) -> list[HistoryRow]:
    """The rows of newer versions; all, a version 0 included, for None."""
    return [row for row in rows if version is None or sort_key(row.version) > sort_key(version)]


@dataclass(slots=True)
class _Chosen:
    """The steps of one action, as they are chosen."""

    book: Book
    steps: list[Step] = field(default_factory=list)
    target: str = ""
    drop_invalid_indexes: bool = False

    def up(self, target: str | int | None) -> None:
        limit = self.book.file_version(target)
        self.target = "" if limit is None else str(limit)
        self.book.check_files()
        self._forward(limit, self.book.rows)

    def down(self, target: str | int | None) -> None:
        rows = self.book.versioned()
        if target in (None, ""):
            undone, version = rows[-1:], rows[-2].version if len(rows) > 1 else None
        else:
            version = self.book.row_version(target)
            undone = _newer(rows, version)
        self.target = target_of(version)
        self._backward(undone, everything=version is None and bool(undone))

    def to(self, target: str | int | None) -> None:
        version = self.book.any_version(target)
        self.target = target_of(version)
        undone = _newer(self.book.versioned(), version)
        self._backward(undone, everything=version is None)
        if version is not None:
            gone = {row.key for row in undone}
            left = {key: row for key, row in self.book.rows.items() if key not in gone}
            self.book.check_files(left)
            self._forward(version, left)

    def redo(self, target: str | int | None, done: Sequence[str]) -> None:
        rows = self.book.versioned()
        version = self.book.any_version(target) if target not in (None, "") else rows[-1].version if rows else None
        if version is None:
            raise InvalidError(Reason.INVALID_SPEC, "there is nothing to redo: no migration has run yet")
        newest = rows[-1] if rows else None
        self.target = target_of(version)
        file = self.book.files.get(str(version))
        if newest is not None and sort_key(newest.version) > sort_key(version):
            raise InvalidError(
                Reason.INVALID_SPEC,
                f"version {version} is not the newest that ran, {newest.version} is: redo is for the newest alone",
            )
        undone = [line.split()[2] for line in done if line.split()[0] == str(version)][-1:] == ["down"]
        if not undone:
            if newest is None or newest.version != version:
                raise InvalidError(
                    Reason.INVALID_SPEC,
                    f"version {version} did not run: there is nothing to redo; run it with the action Up",
                )
            if newest.state is RowState.PARTIAL and newest.direction == "up":
                raise self.book.half(newest, _FINISH)
            self.steps.append(Step(self.book.undo(newest, may_have_changed=True), "down"))
        if file is None:
            raise InvalidError(Reason.MIGRATION_MISSING, f"version {version} has no file to redo it from; put it back")
        file.check()
        self.steps.append(Step(file, "up"))

    def baseline(self, target: str | int | None) -> None:
        if target in (None, ""):
            raise InvalidError(Reason.INVALID_SPEC, "baseline needs a target: the newest version that counts as run")
        limit = self.book.file_version(target)
        self.target = str(limit)
        for migration in self.book.pending(limit):
            row = self.book.rows.get(migration.key)
            if row is not None:
                raise self.book.half(row, "finish it before the baseline, or repair it")
            self.steps.append(Step(migration, "mark"))

    def repair(self, kind: str, target: str | int | None) -> None:
        if kind not in REPAIRS:
            raise InvalidError(
                Reason.UNSUPPORTED, f"repair {kind or 'without a kind'}: use one of {', '.join(REPAIRS)}"
            )
        self.target = str(target or "")
        if kind == "DropInvalidIndexes":
            self.drop_invalid_indexes = True
            return
        if kind == "Accept":
            self.steps = [Step(one, "accept") for one in self.book.changed(self.book.find(target) if target else None)]
            return
        if target in (None, ""):
            raise InvalidError(Reason.INVALID_SPEC, f"repair {kind} needs a target: the version to mark")
        key = self.book.find(target)
        row, file = self.book.rows.get(key), self.book.files.get(key)
        if kind == "MarkUnapplied":
            if row is not None:
                self.steps = [Step(file or self.book.from_history(row), "unmark")]
        elif row is None or row.state is not RowState.APPLIED:
            if file is None:
                raise InvalidError(
                    Reason.MIGRATION_MISSING, f"{key} has no file: put it back, its text goes into the history"
                )
            self.steps = [Step(file, "mark")]

    def _forward(self, limit: int | None, rows: dict[str, HistoryRow]) -> None:
        pending = self.book.pending(limit, rows)
        for migration in pending:
            row = rows.get(migration.key)
            if row is not None and row.half_undone:
                raise self.book.half(row, "end it with the action Down first, or repair it")
        self.book.check_order(pending, rows)
        # repeatables (views, functions) are written for the newest version, not for one on the way
        partly = limit is not None and len(self.book.pending(None, rows)) > len(pending)
        last = [] if partly else self.book.again(rows)
        for migration in [*pending, *last]:
            migration.check()
            self.book.check_down(migration)
            self.steps.append(Step(migration, "up"))

    def _backward(self, undone: Sequence[HistoryRow], *, everything: bool) -> None:
        for row in undone:
            if row.state is RowState.PARTIAL and row.direction == "up":
                raise self.book.half(row, _FINISH)
        self.steps += [Step(self.book.undo(row), "down") for row in reversed(undone)]
        if everything:
            # what they made stood on what is gone now: they run again with the next way up
            again = self.book.unversioned()
            self.steps += [Step(self.book.files.get(row.key) or self.book.from_history(row), "unmark") for row in again]
