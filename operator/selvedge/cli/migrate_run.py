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
from selvedge.cli.migrate_look import digests_of
from selvedge.cli.migrate_session import Place, in_words_of, message_of, opened, source_in
from selvedge.cli.migrate_show import Board, board_of
from selvedge.cli.url import invalid
from selvedge.migrate.operation import Operation, Prepared, check_marks, newest_version, perform, prepare, summary
from selvedge.migrate.scopes import scoped
from selvedge.migrate.steps import DONE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from selvedge.core.errors import InvalidError
    from selvedge.migrate.operation import Source
    from selvedge.migrate.protocol import MigrationSession, Progress

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run(
    place: Place, directory: str | None, operation: Operation, *, form: str, yes: bool, several: bool = False
) -> int:
    """Plan, ask where somebody has to be asked, run, and say how it ended; returns the exit status.

    ``several`` says that this is one of several schemas, which are approved together.

    Raises SelvedgeError and click's errors where nothing was begun.
    """
    with in_words_of(place):
        source = source_in(place, directory)
        return asyncio.run(_Call(place, operation, form, yes=yes, several=several).main(source))


def approved_each(places: Sequence[Place], directory: str | None, operation: Operation) -> dict[str, Operation]:
    """The operation in each schema, by its name. One approval is for all of them, and nothing runs without it.

    Raises SelvedgeError where what was approved is not what would run now.
    """
    if not operation.approved or len(places) == 1:
        return {place.scope: operation for place in places}
    whole, each = digests_of(places, directory, operation)
    if operation.approved != whole:
        raise _other_plan(operation.approved, whole)
    return {place.scope: replace(operation, approved=digest) for place, digest in zip(places, each, strict=True)}


def _other_plan(approved: str, digest: str) -> InvalidError:
    return invalid(f"--approve {approved[:80]} is not the digest of what would run now, {digest}: plan again")


class _Call:
    def __init__(self, place: Place, operation: Operation, form: str, *, yes: bool, several: bool) -> None:
        self.place = place
        self.operation = operation
        self.form = form
        self.yes = yes
        self.several = several
        self.stop = asyncio.Event()
        self.signal: signal.Signals | None = None
        self.undone = False

    async def main(self, source: Source) -> int:
        async with opened(self.place) as session:
            prepared = scoped(await prepare(session, source, self.operation), self.place.scope)
            self._approve(prepared)
            for warning in prepared.plan.warnings:
                note(warning)
            board = board_of(self.form, self.place, prepared)
            if not prepared.does_something:
                board.nothing()
                return 0
            with board:
                return await self._perform(session, prepared, board)

    def _approve(self, prepared: Prepared) -> None:
        """Raise where a person has to say yes, and nobody does. The prompt holds no lock, and Ctrl-C ends it."""
        digest = self.operation.approved
        if digest and digest != prepared.digest:
            raise _other_plan(digest, prepared.digest)
        check_marks(prepared)
        if not prepared.concerns or digest or self.yes:
            return
        why = summary(prepared.concerns)
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            digest = "DIGEST, the last that `plan` prints for these schemas" if self.several else prepared.digest
            raise invalid(f"{why}: there is no terminal to ask at; add --yes, or --approve {digest} as you read it")
        for line in output.plan_lines(self.place.title, prepared):
            click.echo(line, err=True)
        if not click.confirm("Run this?", err=True):
            raise click.ClickException("nothing was changed")

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
            board.end("Failed", message, result=result)
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
            return f"run `selvedge migrate up --target {plan.target}` to go on"
        target = f" with --target {plan.target}" if plan.action in ("Down", "Redo") else ""
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
