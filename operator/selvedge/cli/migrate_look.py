"""``selvedge migrate plan``, ``status``, ``validate`` and ``wait``: they read, and write nothing at all."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import click

from selvedge.cli import migrate_output as output
from selvedge.cli.main import note
from selvedge.cli.migrate_session import Place, in_words_of, message_of, opened, source_in
from selvedge.cli.output import clean
from selvedge.core.errors import InvalidError, TransientError
from selvedge.core.reasons import Reason
from selvedge.migrate.history import HistoryRow, RowState
from selvedge.migrate.operation import Operation, Prepared, advice_of, foreseen, preflight, prepare
from selvedge.migrate.overview import SETTLED, overview
from selvedge.migrate.scopes import InTurn, Part, scoped, told_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from selvedge.migrate.load import Migration

_POLL = (0.5, 1.5)


def status(place: Place, directory: str | None, environment: str, form: str) -> int:
    """Show every migration of files and history; returns the exit status. Raises SelvedgeError."""
    with in_words_of(place):
        source = source_in(place, directory)
        history = asyncio.run(_history(place))
    entries = overview(source.migrations, history, environment, files=directory is not None)
    if form == "human":
        for line in output.standing_lines(place.title, entries):
            click.echo(line)
    else:
        output.emit(output.standing_document(place, entries), form)
    return 0 if all(entry.standing in SETTLED for entry in entries) else 2


def plan(places: Sequence[Place], directory: str | None, operation: Operation, form: str, *, look: bool = False) -> int:
    """Show what would run; returns the exit status. Raises SelvedgeError, with ``look`` for what is known to fail."""
    parts: list[Part] = []
    status = 0
    for place in places:
        prepared, advice = _prepare(place, directory, operation, with_advice=True, look=look)
        status = max(status, _show_plan(place, prepared, advice, form))
        parts.append(Part(place.scope, prepared))
    if len(parts) > 1:
        whole = InTurn(tuple(parts)).prepared
        if form == "human":
            click.echo(f"{clean(places[0].database)}: digest of all {len(parts)} schemas: {whole.digest}")
        else:
            output.emit({**output.plan_document(replace(places[0], scope=""), whole), "advice": []}, form)
    return status


def parts_of(places: Sequence[Place], directory: str | None, operation: Operation) -> tuple[Part, ...]:
    """What would run in each of these schemas. Raises SelvedgeError, which names its schema."""
    return tuple(Part(place.scope, _prepare(place, directory, operation)[0]) for place in places)


def _show_plan(place: Place, prepared: Prepared, advice: Sequence[str], form: str) -> int:
    if form == "human":
        for line in output.plan_lines(place.title, prepared):
            click.echo(line)
        for text in advice:
            click.echo(f"  {clean(text)}")
    else:
        output.emit({**output.plan_document(place, prepared), "advice": list(advice)}, form)
    return 2 if prepared.does_something else 0


def validate(place: Place, directory: str | None, operation: Operation, form: str) -> int:
    """Compare files and history; returns the exit status. Raises SelvedgeError where they do not fit."""
    prepared, _ = _prepare(place, directory, operation)
    warnings = prepared.plan.warnings
    if form == "human":
        for warning in warnings:
            note(warning)
        click.echo(f"{place.title}: files and history fit")
    else:
        output.emit(
            {
                "command": "validate",
                "database": place.database,
                "schema": place.scope,
                "valid": True,
                "warnings": list(warnings),
            },
            form,
        )
    return 0


def wait(place: Place, directory: str | None, version: str, environment: str, timeout: float) -> int:
    """Wait until a version, or every file, stands in the history; returns the exit status. Raises SelvedgeError.

    ``timeout`` is seconds, 0 for none. A server that cannot be reached is waited for too; a login that it refuses is
    not.
    """
    if version and not (version.isascii() and version.isdecimal()):
        raise InvalidError(Reason.INVALID_SPEC, f"--version {version[:40]} is no version: write its digits")
    with in_words_of(place):
        source = source_in(place, directory)
        return asyncio.run(_wait(place, source.migrations, version, environment, timeout))


async def _history(place: Place) -> tuple[HistoryRow, ...]:
    async with opened(place) as session:
        history = await session.history()
        if not history:
            await session.check_place()
        return history


def _prepare(
    place: Place, directory: str | None, operation: Operation, *, with_advice: bool = False, look: bool = False
) -> tuple[Prepared, tuple[str, ...]]:
    """The plan, and what the linter says of it."""

    async def read() -> tuple[Prepared, tuple[str, ...]]:
        async with opened(place) as session:
            prepared = scoped(await prepare(session, source, operation), place.scope)
            if look:
                await preflight(session, prepared)
            if not with_advice:
                return prepared, ()
            return prepared, advice_of(await foreseen(session, prepared), session.server_version)

    with in_words_of(place), told_of(place.scope):
        source = source_in(place, directory)
        return asyncio.run(read())


async def _wait(place: Place, migrations: Sequence[Migration], version: str, environment: str, patience: float) -> int:
    deadline = time.monotonic() + patience if patience else float("inf")
    random, last = Random(), ""
    while True:
        try:
            async with opened(place) as session:
                while True:
                    lacking = _lacking(migrations, await session.history(), version, environment)
                    if not lacking:
                        click.echo(
                            f"{place.title}: {f'version {version} is' if version else 'all migrations are'} there"
                        )
                        return 0
                    await session.check_place()
                    last = _tell(lacking, last)
                    await _pause(random, deadline)
        except TransientError as error:
            last = _tell(message_of(place, error), last)
        except TimeoutError:
            pass
        try:
            await _pause(random, deadline)
        except TimeoutError:
            click.echo(f"error: {last}; not there after {patience:g} s", err=True)
            return 2


async def _pause(random: Random, deadline: float) -> None:
    """Raises TimeoutError where the deadline comes first."""
    pause = random.uniform(*_POLL)
    if time.monotonic() + pause >= deadline:
        raise TimeoutError
    await asyncio.sleep(pause)


def _tell(message: str, last: str) -> str:
    if message != last:
        note(message)
    return message


def _lacking(migrations: Sequence[Migration], history: tuple[HistoryRow, ...], version: str, environment: str) -> str:
    """What is not there yet, as a sentence; empty where nothing is."""
    if version:
        row = next((row for row in history if row.key == str(int(version))), None)
        if row is None:
            return f"version {version} has not run yet"
        if row.state is not RowState.APPLIED:
            return f"version {version} is on its way: {row.done} of {row.total} statements are done"
        return ""
    entries = [entry for entry in overview(migrations, history, environment) if entry.file]
    waiting = [entry for entry in entries if entry.standing not in SETTLED]
    if waiting:
        return f"{len(waiting)} of {len(entries)} migrations have not run as their files are now: {waiting[0].file}"
    return ""
