"""What a command found and did, for people (tables on a terminal, plain lines in a pipe) and for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import click

from selvedge.core.unit import ChangeSummary, MemberResult, ObjectState, ObjectStatus

_COLOURS = {"Additive": "green", "Narrowing": "yellow", "Locking": "yellow", "Destructive": "red"}
_STATE_COLOUR = {ObjectState.WAITING: "cyan", ObjectState.PENDING: "yellow"}


@dataclass(frozen=True, slots=True)
class SchemaReport:
    """What a pass found, or did, for one DatabaseSchema."""

    database: str
    namespace: str
    name: str
    result: MemberResult

    def document(self) -> dict[str, Any]:
        """The form for machines; every key is always there."""
        result = self.result
        return {
            "database": self.database,
            "namespace": self.namespace,
            "name": self.name,
            "equal": result.verified,
            "digest": result.digest,
            "changes": [_change(change) for change in result.pending],
            "applied": [_change(change) for change in result.applied],
            "problems": [_problem(problem) for problem in result.problems],
            "advice": list(result.advice),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of one command; ``errors`` are the databases that could not be looked at or changed."""

    command: str
    schemas: tuple[SchemaReport, ...]
    errors: tuple[str, ...] = ()

    @property
    def changes(self) -> int:
        """Changes that were found and not made."""
        return sum(len(schema.result.pending) for schema in self.schemas)

    @property
    def equal(self) -> bool:
        """Whether every database was looked at and equals what is declared."""
        return not self.errors and all(schema.result.verified for schema in self.schemas)

    @property
    def exit_status(self) -> int:
        """0 equal (for a plan: nothing to do), 2 differs, 1 error."""
        if self.errors:
            return 1
        if self.command == "plan":
            problems = [problem for schema in self.schemas for problem in schema.result.problems]
            return 2 if self.changes or any(p.state is not ObjectState.WAITING for p in problems) else 0
        return 0 if self.equal else 2

    def document(self) -> dict[str, Any]:
        """The form for machines; every key is always there."""
        return {
            "command": self.command,
            "equal": self.equal,
            "schemas": [schema.document() for schema in self.schemas],
            "errors": list(self.errors),
        }


def show(report: Report, form: str, *, err: bool = False) -> None:
    """Write a report to standard output (``err``: standard error) in one of the forms human, json, yaml."""
    if form == "json":
        click.echo(json.dumps(report.document(), indent=2, ensure_ascii=False), err=err)
        return
    if form == "yaml":
        import yaml

        text = yaml.safe_dump(report.document(), sort_keys=False, allow_unicode=True, width=2**31 - 1)
        click.echo(text, nl=False, err=err)
        return
    stream = sys.stderr if err else sys.stdout
    if stream.isatty():
        _on_terminal(report, stream)
    else:
        for line in plain(report):
            click.echo(line, err=err)


def plain(report: Report) -> Iterator[str]:
    """The lines for a pipe: no colour, nothing cut off, one line for each change."""
    for schema in report.schemas:
        yield heading(report.command, schema)
        yield from aligned(_rows(report.command, schema))
        yield from (f"  {line}" for line in _footer(report.command, schema))


def heading(command: str, schema: SchemaReport) -> str:
    """One line: which database, for whom, and how it stands."""
    result = schema.result
    return (
        f"{clean(schema.database)} (DatabaseSchema {clean(schema.namespace)}/{clean(schema.name)}): "
        f"{_standing(command, result)}"
    )


def _standing(command: str, result: MemberResult) -> str:
    done = f"{_count(len(result.applied), 'change')} made, " if result.applied else ""
    if result.verified:
        return f"{done}equal, {_count(result.ready, 'object')}"
    parts = []
    if result.pending:
        parts.append(f"{_count(len(result.pending), 'change')} {'to make' if command != 'apply' else 'not made'}")
    problems = {problem.ref for problem in result.problems} - {change.ref for change in result.pending}
    if problems:
        parts.append(f"{_count(len(problems), 'object')} not ready")
    return done + (", ".join(parts) or "differs")


def _footer(command: str, schema: SchemaReport) -> Iterator[str]:
    result = schema.result
    if result.pending and result.digest:
        yield f"digest: {result.digest}"
        if command == "apply":
            yield f"what waits for an approval is made by --approve {result.digest}"
    yield from (f"advice: {clean(advice)}" for advice in result.advice)


def _rows(command: str, schema: SchemaReport) -> list[tuple[str, str, str, str]]:
    """Changes and problems: risk or reason, kind, name, and statement or message."""
    result = schema.result
    rows = [(str(c.risk), c.ref.kind, c.ref.name, losing(c.statement, c.rows)) for c in result.pending]
    shown = {change.ref for change in result.pending} if command != "apply" else set()
    rows += [
        (str(p.reason), p.ref.kind, p.ref.name, p.message)
        for p in result.problems
        # A plan's own changes need not say twice that they are to be made.
        if not (p.state is ObjectState.PENDING and p.ref in shown)
    ]
    return [(word, kind, clean(name), clean(text)) for word, kind, name, text in rows]


def losing(statement: str, rows: object) -> str:
    """A statement with what is lost by it before it, where a person cannot overlook it."""
    return f"loses {rows}: {statement}" if rows else statement


def aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """One line for each row, its columns below each other; the last is as long as it is."""
    if not rows:
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)]
        yield "  " + "  ".join([*cells, row[-1]])


def _on_terminal(report: Report, stream: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=stream, highlight=False)
    for schema in report.schemas:
        style = "bold green" if schema.result.verified else "bold"
        console.print(Text(heading(report.command, schema), style=style))
        rows = _rows(report.command, schema)
        if rows:
            colours = _COLOURS | {str(p.reason): _STATE_COLOUR.get(p.state, "red") for p in schema.result.problems}
            table = Table(box=None, padding=(0, 1), show_header=False, pad_edge=True)
            for _ in range(3):
                table.add_column(no_wrap=True)
            table.add_column(overflow="fold")
            for word, *rest in rows:
                table.add_row(Text(word, style=colours.get(word, "red")), *(Text(cell) for cell in rest))
            console.print(table)
        for line in _footer(report.command, schema):
            console.print(Text(f"  {line}", style="dim"))


def clean(text: str) -> str:
    """One line without control characters: a name from a server must not move a terminal's cursor."""
    words = " ".join(text.split())
    return words if words.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in words)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _change(change: ChangeSummary) -> dict[str, Any]:
    return {
        "kind": change.ref.kind,
        "name": change.ref.name,
        "risk": str(change.risk),
        "statement": change.statement,
        "before": change.before,
        "rows": change.rows.document() if change.rows is not None else None,
    }


def _problem(problem: ObjectStatus) -> dict[str, str]:
    return {
        "kind": problem.ref.kind,
        "name": problem.ref.name,
        "state": str(problem.state),
        "reason": str(problem.reason),
        "message": problem.message,
    }


def summary(kinds: Iterable[str]) -> str:
    """``DatabaseServer (2), MigrationRun``: how many of each, for a sentence."""
    counts: dict[str, int] = {}
    for kind in kinds:
        counts[kind] = counts.get(kind, 0) + 1
    return ", ".join(kind if count == 1 else f"{kind} ({count})" for kind, count in sorted(counts.items()))


# Engines speak of a DatabaseServer's fields; here the same things have other names.
_WORDS = (
    ("the Secret in spec.credentials", "--url and the password"),
    ("the Secret of spec.credentials", "--url and the password"),
    ("set spec.tls.mode to Disable", "write {off} in --url"),
    ("spec.tls.caSecretRef", "{ca} in --url"),
    ("spec.tls.clientCertificateSecretRef", "{own} in --url"),
    ("spec.postgres.maintenanceDatabase", "the database in --url"),
    ("; see status.missingPrivileges of the server", ""),
    ("the operator's ", "the "),
    ("spec.hosts", "--url"),
    ("spec.tls.mode", "{mode} in --url"),
    ("spec.tls", "--url"),
    ("; tried again by itself", "; run the command again"),
)


def in_our_words(message: str, *, postgres: bool) -> str:
    """An engine's message in the words of the command line."""
    words = {"off": "tls=false", "ca": "tlsCAFile", "own": "tlsCertificateKeyFile", "mode": "tls"}
    if postgres:
        words = {"off": "sslmode=disable", "ca": "sslrootcert", "own": "sslcert and sslkey", "mode": "sslmode"}
    for theirs, ours in _WORDS:
        message = message.replace(theirs, ours.format(**words))
    return message
