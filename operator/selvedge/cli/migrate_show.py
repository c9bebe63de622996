"""The progress of a run: bars on a terminal, one line for each migration in a pipe, one object a line for machines."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from selvedge.cli import migrate_output as output
from selvedge.cli.output import clean
from selvedge.core.words import count
from selvedge.migrate.protocol import MigrationState
from selvedge.migrate.steps import DONE, FINAL, NOTHING_INVALID

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from selvedge.cli.migrate_session import Place
    from selvedge.migrate.operation import Prepared
    from selvedge.migrate.protocol import Progress
    from selvedge.migrate.runner import RunResult

#: As many bars as are drawn at once.
_BARS = 8

_DONE = {
    "up": "applied",
    "down": "undone",
    "mark": "marked as run",
    "unmark": "marked as not run",
    "accept": "accepted",
}


class Board:
    """What a run tells; the base class says it to people in a pipe. Used as a context manager around the run."""

    def __init__(self, place: Place, prepared: Prepared) -> None:
        self.place = place
        self.prepared = prepared

    def __enter__(self) -> Board:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        """Nothing to put away."""

    def nothing(self) -> None:
        """There was nothing to do."""
        click.echo(f"{clean(self.place.title)}: nothing to do, {_at(self.prepared.plan.version)}")

    async def progress(self, row: Progress) -> None:
        """A row of the run changed."""
        if row.state is MigrationState.SKIPPED:
            click.echo(f"{_name(row)}: done already by another run")
        elif row.state in DONE:
            click.echo(f"{_name(row)}: {_done(row)}")
        elif row.waiting_for:
            click.echo(f"{_name(row)}: waits for {self._clean(row.waiting_for)}", err=True)

    def end(self, state: str, message: str, *, result: RunResult | None = None, version: str = "") -> None:
        """How the run ended; ``message`` is empty where it reached its end."""
        if state == "Succeeded":
            done = result.applied if result else 0
            what = count(done, "step") + " done"
            if result and self.prepared.plan.drop_invalid_indexes:
                what = f"dropped {', '.join(map(clean, result.dropped))}" if result.dropped else NOTHING_INVALID
            click.echo(f"{clean(self.place.title)}: {what}, {_at(version)}")
        else:
            click.echo(f"{'error' if state == 'Failed' else 'stopped'}: {message.removeprefix('stopped ')}", err=True)

    def _clean(self, text: str) -> str:
        return clean(self.place.redactor.redact(text))


class _Machine(Board):
    """One object a line (json), or one document each (yaml)."""

    def __init__(self, place: Place, prepared: Prepared, form: str) -> None:
        super().__init__(place, prepared)
        self.form = form

    def nothing(self) -> None:
        """The result alone."""
        self._result("Succeeded", "", 0, str(self.prepared.plan.version or ""))

    async def progress(self, row: Progress) -> None:
        """Each change."""
        output.emit(self._redacted(output.progress_document(row)), self.form)

    def end(self, state: str, message: str, *, result: RunResult | None = None, version: str = "") -> None:
        """The last object."""
        dropped = result.dropped if result else ()
        self._result(state, message, result.applied if result else 0, version, dropped)

    def _result(self, state: str, message: str, done: int, version: str, dropped: tuple[str, ...] = ()) -> None:
        plan = self.prepared.plan
        document = {
            "event": "result",
            "database": self.place.database,
            "schema": self.place.scope,
            "action": plan.action,
            "state": state,
            "done": done,
            "steps": len(plan.steps),
            "version": version,
            "digest": self.prepared.digest,
            "droppedIndexes": list(dropped),
            "message": message,
        }
        output.emit(document, self.form)

    def _redacted(self, document: dict[str, Any]) -> dict[str, Any]:
        redact = self.place.redactor.redact
        return {
            key: redact(value)
            if isinstance(value, str)
            else self._redacted(value)
            if isinstance(value, dict)
            else value
            for key, value in document.items()
        }


class _Terminal(Board):
    """A bar for each migration: statements, elapsed time, and what it waits for.

    A terminal draws as many bars as it has lines and hides the last ones: the oldest that are done become plain lines.
    """

    def __init__(self, place: Place, prepared: Prepared) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Drawn

        super().__init__(place, prepared)
        self._bars: Bars = Drawn(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.completed}/{task.total}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(stderr=True, highlight=False),
            transient=False,
        )
        self._tasks: dict[int, TaskID] = {}
        self._ended: dict[int, Progress] = {}

    def __enter__(self) -> Board:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._bars.stop()

    async def progress(self, row: Progress) -> None:
        """Draw it; one that has not begun has no bar yet, or many would scroll the running one away."""
        if row.state is MigrationState.PENDING and row.step not in self._tasks and not row.waiting_for:
            return
        if row.step not in self._tasks:
            if not self._make_room():
                return  # all of one transaction are under way at once: the first of them stand for the others
            self._tasks[row.step] = self._bars.add_task(_name(row), total=max(row.total, 1), note="")
        task = self._tasks[row.step]
        ended = row.state not in (MigrationState.PENDING, MigrationState.RUNNING)
        waits = f"waits for {self._clean(row.waiting_for)}" if row.waiting_for else ""
        self._bars.update(
            task,
            completed=max(row.total, 1) if row.state in DONE else row.done,
            note=waits or (str(row.state).lower() if ended else ""),
        )
        if ended:
            self._bars.stop_task(task)
            self._ended[row.step] = row

    def _make_room(self) -> bool:
        """Whether there is a line for one more bar."""
        if len(self._tasks) < _BARS:
            return True
        if not self._ended:
            return False
        oldest = min(self._ended)
        row = self._ended.pop(oldest)
        self._bars.remove_task(self._tasks.pop(oldest))
        said = _done(row) if row.state in FINAL.values() else str(row.state).lower()
        self._bars.console.print(f"{_name(row)}: {said}", markup=False)
        return True

    def end(self, state: str, message: str, *, result: RunResult | None = None, version: str = "") -> None:
        """Below the bars."""
        self._bars.stop()
        super().end(state, message, result=result, version=version)


def board_of(form: str, place: Place, prepared: Prepared) -> Board:
    """The board for ``-o`` and where the output goes."""
    if form != "human":
        return _Machine(place, prepared, form)
    return _Terminal(place, prepared) if sys.stderr.isatty() else Board(place, prepared)


def _at(version: object) -> str:
    return f"version {version}" if version else "no migration has run"


def _name(row: Progress) -> str:
    return f"{row.version} {clean(row.name)}" if row.version else clean(row.name)


def _done(row: Progress) -> str:
    took = f", {row.duration:.2f} s" if row.duration is not None else ""
    return f"{_DONE[row.direction]}{f', {row.statements} statements' if row.total else ''}{took}"
