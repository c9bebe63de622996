"""``selvedge migrate up``, ``down``, ``to`` and the others that change something: approval, signals, progress."""

from __future__ import annotations

import asyncio
import signal
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from selvedge.cli import migrate_output as output
from selvedge.cli.main import note
from selvedge.cli.migrate_look import parts_of
from selvedge.cli.migrate_session import Place, in_words_of, message_of, opened, source_in
from selvedge.cli.migrate_show import Board, board_of
from selvedge.core.errors import RefusedError
from selvedge.core.reasons import Reason
from selvedge.migrate.operation import Operation, Prepared, check_marks, newest_version, perform, prepare, summary
from selvedge.migrate.scopes import InTurn, scoped, told_of
from selvedge.migrate.steps import DONE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from selvedge.migrate.operation import Source
    from selvedge.migrate.protocol import MigrationSession, Progress

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run(places: Sequence[Place], directory: str | None, operation: Operation, *, form: str, yes: bool) -> int:
    """Plan, ask where somebody has to be asked, run, and say how it ended; returns the exit status.

    Several schemas are planned and agreed to together before anything runs in the first of them; then one is run after
    the other, and the first that does not come to its end is the last.

    Raises SelvedgeError and click's errors where nothing was begun.
    """
    several = len(places) > 1
    operations = _agreed(places, directory, operation, yes=yes) if several else (operation,)
    for index, (place, agreed) in enumerate(zip(places, operations, strict=True)):
        with in_words_of(place), told_of(place.scope):
            source = source_in(place, directory)
            status = asyncio.run(_Call(places, index, agreed, form, yes=yes).main(source))
        if status:
            return status
    return 0


def _agreed(
    places: Sequence[Place], directory: str | None, operation: Operation, *, yes: bool
) -> tuple[Operation, ...]:
    """The operation in each schema; where somebody agreed to the plan of all, with the digest of each."""
    parts = parts_of(places, directory, operation)
    plans = [(place.title, part.prepared) for place, part in zip(places, parts, strict=True)]
    if not _approve(InTurn(parts).prepared, operation, plans, yes=yes):
        return (operation,) * len(parts)
    return tuple(replace(operation, approved=part.prepared.digest) for part in parts)


def _approve(prepared: Prepared, operation: Operation, plans: Sequence[tuple[str, Prepared]], *, yes: bool) -> bool:
    """Whether somebody agreed to this very plan; where nobody has to, or ``yes`` is for any, nobody did.

    Raises where a person has to say yes, and nobody does. The prompt holds no lock, and Ctrl-C ends it.
    """
    approved, digest = operation.approved, prepared.digest
    if approved and approved != digest:
        raise RefusedError(
            Reason.SUPERSEDED,
            f"--approve {approved[:80]} is not the digest of what would run now, {digest}: plan again",
        )
    check_marks(prepared)
    if approved:
        return True
    if not prepared.concerns or yes:
        return False
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise RefusedError(
            Reason.WAITING_FOR_APPROVAL,
            f"{summary(prepared.concerns)}: there is no terminal to ask at; add --yes, or --approve {digest} as you "
            "read it",
        )
    for title, one in plans:
        for line in output.plan_lines(title, one):
            click.echo(line, err=True)
    if not click.confirm("Run this?", err=True):
        raise RefusedError(Reason.WAITING_FOR_APPROVAL, "nothing was changed")
    return True


class _Call:
    def __init__(self, places: Sequence[Place], index: int, operation: Operation, form: str, *, yes: bool) -> None:
        self.place = places[index]
        self.scopes = tuple(place.scope for place in places[index:])
        self.first = index == 0
        self.operation = operation
        self.form = form
        self.yes = yes
        self.several = len(places) > 1
        self.stop = asyncio.Event()
        self.signal: signal.Signals | None = None
        self.undone = False

    async def main(self, source: Source) -> int:
        async with opened(self.place) as session:
            prepared = scoped(await prepare(session, source, self.operation), self.place.scope)
            self._allow(prepared)
            for warning in prepared.plan.warnings:
                note(warning)
            board = board_of(self.form, self.place, prepared)
            if not prepared.does_something:
                board.nothing()
                return 0
            with board:
                return await self._perform(session, prepared, board)

    def _allow(self, prepared: Prepared) -> None:
        """Raise where a person has to say yes, and nobody does."""
        if not self.several:
            _approve(prepared, self.operation, [(self.place.title, prepared)], yes=self.yes)
            return
        approved = self.operation.approved
        if approved != prepared.digest if approved else prepared.concerns and not self.yes:
            raise RefusedError(
                Reason.SUPERSEDED, "another plan would run now than the one that was looked at: run the command again"
            )
        check_marks(prepared)

    async def _perform(self, session: MigrationSession, prepared: Prepared, board: Board) -> int:
        async def tell(row: Progress) -> None:
            self.undone = self.undone or (row.direction == "down" and row.state in DONE)
            await board.progress(row)

        self._listen()
        try:
            result = await perform(session, prepared, on_progress=tell, stop=self.stop, may_write=lambda: None)
        except asyncio.CancelledError:
            if self.signal is None:
                raise
            board.end("Stopped", f"broken off: the statement under way was rolled back; {self._again(prepared)}")
            return 128 + self.signal
        finally:
            self._listen(again=False)
        if result.error is not None:
            message = message_of(self.place, result.error)
            if self.undone and prepared.plan.action in ("Down", "Redo"):
                message += f"; {self._again(prepared)}"
            where = f"schema {self.place.scope}" if self.place.scope else ""
            board.end("Failed", message if message.startswith(where) else f"{where}: {message}", result=result)
            return 1
        if result.stopped:
            done, total = result.applied, len(result.migrations)
            board.end(
                "Stopped",
                f"stopped after the current statement, {done} of {total} migrations are done: {self._again(prepared)}",
                result=result,
            )
            return 128 + (self.signal or signal.SIGTERM)
        board.end("Succeeded", "", result=result, version=newest_version(await session.history()))
        return 0

    def _again(self, prepared: Prepared) -> str:
        """How to go on: one step back, planned once more, would be another one."""
        plan = prepared.plan
        if plan.action == "Redo" and self.undone:
            schema = f" --schema {self.place.scope}" if self.place.scope else ""
            left = f", then redo in the schemas that are left: {', '.join(self.scopes[1:])}" if self.scopes[1:] else ""
            return f"run `selvedge migrate up --target {plan.target}{schema}` to go on{left}"
        target = f" with --target {plan.target}" if plan.action in ("Down", "Redo") else ""
        if plan.action == "Redo" and not self.first:  # those before it would be redone once more
            target += f" for {' '.join(f'--schema {scope}' for scope in self.scopes)} alone"
        return f"run the same command again{target} to go on"

    def _listen(self, *, again: bool = True) -> None:
        """The first signal stops between two statements, the second breaks the statement off."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def caught(received: signal.Signals) -> None:
            if self.stop.is_set() and task is not None:
                task.cancel()
                return
            self.signal = received
            self.stop.set()
            note("stopping after the current statement; once more to break it off")

        for number in _SIGNALS:
            if again:
                loop.add_signal_handler(number, caught, number)
            else:
                loop.remove_signal_handler(number)
