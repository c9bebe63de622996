"""What ``selvedge migrate`` shows: plans, standings and progress, for people and for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from selvedge.cli.output import aligned, clean
from selvedge.core.errors import SelvedgeError
from selvedge.core.reasons import Reason
from selvedge.core.words import count

if TYPE_CHECKING:
    from selvedge.cli.migrate_session import Place
    from selvedge.migrate.operation import Prepared
    from selvedge.migrate.overview import Entry
    from selvedge.migrate.plan import Step
    from selvedge.migrate.protocol import Progress

_DOING = {"up": "apply", "down": "undo", "mark": "mark as run", "unmark": "mark as not run", "accept": "accept"}


def emit(document: dict[str, Any], form: str) -> None:
    """One document on standard output: a line of JSON, or a YAML document."""
    if form == "yaml":
        import yaml

        click.echo("---\n" + yaml.safe_dump(document, sort_keys=False, allow_unicode=True), nl=False)
    else:
        click.echo(json.dumps(document, ensure_ascii=False))
    sys.stdout.flush()


def error_document(command: str, error: SelvedgeError | click.ClickException) -> dict[str, Any]:
    """Why a command came to nothing, for machines; every key is always there."""
    return {
        "event": "error",
        "command": command,
        "reason": str(error.reason if isinstance(error, SelvedgeError) else Reason.INVALID_SPEC),
        "message": error.message,
    }


# -- status ------------------------------------------------------------------------------------------------------


def standing_document(place: Place, entries: Iterable[Entry]) -> dict[str, Any]:
    """The answer of ``status`` for machines; every key is always there."""
    return {
        "command": "status",
        "database": place.database,
        "schema": place.scope,
        "migrations": [
            {
                "version": str(entry.version) if entry.version else "",
                "name": entry.name,
                "kind": entry.kind,
                "state": str(entry.standing),
                "file": entry.file,
                "appliedAt": _time(entry.row.applied_at) if entry.row else None,
                "appliedBy": entry.row.applied_by if entry.row else None,
                "note": entry.note,
            }
            for entry in entries
        ],
    }


def standing_lines(title: str, entries: tuple[Entry, ...]) -> Iterable[str]:
    """The answer of ``status`` for people."""
    states: dict[str, int] = {}
    for entry in entries:
        states[str(entry.standing)] = states.get(str(entry.standing), 0) + 1
    summary = ", ".join(f"{number} {state}" for state, number in states.items()) or "no migrations"
    yield f"{clean(title)}: {summary}"
    yield from (
        line.rstrip()
        for line in aligned(
            [
                (
                    str(entry.standing),
                    str(entry.version) if entry.version else entry.kind,
                    clean(entry.name),
                    (_time(entry.row.applied_at) or "" if entry.row else "")
                    + (f"  {entry.note}" if entry.note else ""),
                )
                for entry in entries
            ]
        )
    )


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# -- plans -------------------------------------------------------------------------------------------------------


def plan_document(place: Place, prepared: Prepared) -> dict[str, Any]:
    """A plan for machines; every key is always there."""
    plan = prepared.plan
    return {
        "command": "plan",
        "database": place.database,
        "schema": place.scope,
        "action": plan.action,
        "target": plan.target,
        "version": str(plan.version) if plan.version else "",
        "digest": prepared.digest,
        "steps": [
            {
                "schema": step.scope,
                "version": str(step.migration.version) if step.migration.version else "",
                "name": step.migration.name,
                "kind": step.migration.kind,
                "direction": step.direction,
                "file": step.migration.file,
                "statements": statements_of(step),
            }
            for step in plan.steps
        ],
        "approval": list(prepared.concerns),
        "refused": list(prepared.unmarked),
        "warnings": list(plan.warnings),
    }


def plan_lines(title: str, prepared: Prepared) -> Iterable[str]:
    """A plan for people: what would run, why somebody has to say yes, and the digest."""
    plan = prepared.plan
    now = f"version {plan.version}" if plan.version else "no migration has run"
    if not prepared.does_something:
        yield f"{clean(title)}: nothing to do ({now})"
    else:
        alone = "drop invalid indexes" if plan.drop_invalid_indexes else "the hook afterRun"
        what = count(len(plan.steps), "step") if plan.steps else alone
        yield f"{clean(title)}: {what} ({now})"
    yield from (line.rstrip() for line in aligned([_step_row(step) for step in plan.steps]))
    yield from (f"  needs approval: {clean(concern)}" for concern in prepared.concerns)
    yield from (f"  refused: {clean(finding)}" for finding in prepared.unmarked)
    yield from (f"  note: {clean(warning)}" for warning in plan.warnings)
    if prepared.does_something:
        yield f"  digest: {prepared.digest}"


def _step_row(step: Step) -> tuple[str, str, str, str]:
    migration = step.migration
    number = statements_of(step)
    noun = "statement" if migration.engine == "Postgres" else "command"
    version = str(migration.version) if migration.version else migration.kind
    return _DOING[step.direction], version, clean(migration.name), count(number, noun) if number else ""


def statements_of(step: Step) -> int:
    """How many statements or commands a step sends; none where it only changes the history."""
    migration = step.migration
    if step.direction == "up":
        return migration.steps
    if step.direction == "down":
        return len(migration.down_script.statements if migration.engine == "Postgres" else migration.down_commands)
    return 0


# -- progress ----------------------------------------------------------------------------------------------------


def progress_document(row: Progress) -> dict[str, Any]:
    """One change of one migration for machines; every key is always there."""
    error = row.error
    return {
        "event": "progress",
        "schema": row.scope,
        "version": str(row.version) if row.version else "",
        "name": row.name,
        "direction": row.direction,
        "state": str(row.state),
        "statements": row.statements,
        "startedAt": _time(row.started_at),
        "duration": None if row.duration is None else round(row.duration, 3),
        "waitingFor": row.waiting_for,
        "error": None
        if error is None
        else {
            "file": error.file,
            "line": error.line,
            "statement": error.statement,
            "sqlstate": error.sqlstate,
            "message": error.message,
            "hint": error.hint,
        },
    }
