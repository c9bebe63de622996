"""``selvedge migrate lint``: what is to say about migrations before they run. Needs no database."""

from __future__ import annotations

import json
from pathlib import Path

import click

from selvedge.cli import migrate_output as output
from selvedge.cli.migrate_files import engine_of
from selvedge.cli.output import clean
from selvedge.cli.url import invalid
from selvedge.core.words import count
from selvedge.migrate.conventions import Conventions
from selvedge.migrate.files import read_directory
from selvedge.migrate.finding import Finding
from selvedge.migrate.lint import lint as findings_in
from selvedge.migrate.names import Engine
from selvedge.migrate.operation import source_of

SEVERITIES = ("error", "warning", "advice")
"""From the one that will not run to the matter of taste."""


def lint(
    directory: str,
    *,
    engine: Engine | None,
    server_version: int,
    conventions: str | None,
    fail_on: str,
    use_squawk: bool,
    form: str,
) -> int:
    """Print the findings; returns the exit status, 2 where one is as severe as ``fail_on``. Raises InvalidError."""
    wanted = Conventions() if conventions is None else conventions_in(conventions)
    kind = engine or engine_of([entry.name for entry in Path(directory).iterdir()] if Path(directory).is_dir() else [])
    files = read_directory(directory, kind)
    for ignored in files.ignored:
        click.echo(f"note: directory {clean(ignored)} holds SQL files and is none of the migrations'", err=True)
    source = source_of(files.files, kind)
    found = findings_in(source.migrations, server_version=server_version, conventions=wanted, use_squawk=use_squawk)
    for finding in found:
        if form == "human":
            click.echo(line_of(finding))
        else:
            output.emit(_document(finding), form)
    failing = SEVERITIES[: SEVERITIES.index(fail_on) + 1]
    failed = sum(finding.severity in failing for finding in found)
    if form == "human":
        numbers = ", ".join(
            count(number, severity) if severity != "advice" else f"{number} advice"
            for severity in SEVERITIES
            if (number := sum(one.severity == severity for one in found))
        )
        click.echo(f"{count(len(source.migrations), 'migration')}: {numbers or 'nothing to say'}", err=True)
    return 2 if failed else 0


def line_of(finding: Finding) -> str:
    """``file:line: severity rule: message``, as editors and CI understand it."""
    step = f"; {finding.next_step}" if finding.next_step else ""
    return clean(f"{finding.file}:{finding.line}: {finding.severity} {finding.rule}: {finding.message}{step}")


def _document(finding: Finding) -> dict[str, object]:
    return {
        "file": finding.file,
        "line": finding.line,
        "severity": finding.severity,
        "rule": finding.rule,
        "message": finding.message,
        "nextStep": finding.next_step,
    }


def conventions_in(file: str) -> Conventions:
    """The naming conventions in a file, YAML or JSON. Raises InvalidError."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise invalid(f"--conventions {file} cannot be read: {error}") from None
    try:
        found = json.loads(text) if file.endswith(".json") else _yaml(text)
    except ValueError as error:
        raise invalid(f"--conventions {file} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise invalid(f"--conventions {file} is no mapping: write one field of the conventions on each line")
    return Conventions.from_mapping(found)


def _yaml(text: str) -> object:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
