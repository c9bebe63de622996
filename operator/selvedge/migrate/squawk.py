"""squawk, a linter of Postgres migrations, asked for advice where it is installed (the extra ``lint``)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from selvedge.migrate.finding import Finding, Severity
from selvedge.migrate.load import Migration

TIMEOUT = 60.0
"""Seconds for all files together; it reads thousands in one."""
LARGEST = 2_000_000
"""Characters of a part that are still looked at: more is data."""

#: What our own rules say more exactly, and what the runner does by itself.
_EXCLUDED = (
    "require-lock-timeout,require-statement-timeout,require-timeout-settings,prefer-robust-stmts,transaction-nesting,"
    "ban-uncommitted-transaction,ban-concurrent-index-creation-in-transaction,ban-drop-table,ban-drop-column,"
    "ban-drop-database,ban-drop-schema,ban-drop-sequence,ban-drop-extension,ban-drop-type,ban-drop-domain,ban-drop-view,"
    "ban-drop-function,ban-drop-default,ban-truncate-cascade,renaming-column,renaming-table,renaming-object,"
    "adding-required-field,"
    # a length that the application knows is a rule, and a small number may stay one
    "prefer-text-field,prefer-bigint-over-smallint"
)


def program() -> str | None:
    """Where squawk is: beside this Python or on the PATH; None where it is not installed."""
    return shutil.which("squawk", path=str(Path(sys.executable).parent)) or shutil.which("squawk")


def ask(migrations: Iterable[Migration], server_version: int) -> list[Finding]:
    """What squawk finds in the up parts, without what depends on transactions: those are the runner's.

    A program that is not there, fails or takes longer than :data:`TIMEOUT` is one finding that says so.
    """
    path = program()
    if path is None:
        return [_about("squawk is not installed, so its rules were not asked", "pip install 'selvedge[lint]'")]
    parts = [migration for migration in migrations if migration.engine == "Postgres"]
    asked = [(migration, _without_data(migration)) for migration in parts if len(migration.up) <= LARGEST]
    left = [
        Finding(one.file, 1, "squawk", "advice", "squawk was not asked, as the file is larger than 2 MB")
        for one in parts
        if len(one.up) > LARGEST
    ]
    return left + (_run(path, asked, server_version) if asked else [])


def _run(path: str, asked: list[tuple[Migration, str]], server_version: int) -> list[Finding]:
    try:
        done, rows = _rows(path, [text for _, text in asked], server_version)
    except (subprocess.TimeoutExpired, OSError, json.JSONDecodeError) as error:
        return [_about(f"squawk failed: {type(error).__name__}", "run it by hand on the files to see why")]
    if done.returncode not in (0, 1):
        words = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return [_about(f"squawk failed: {words[:200]}", "run it by hand on the files to see why")]
    return [_finding(row, asked[int(Path(row["file"]).stem)][0]) for row in rows]


def _rows(path: str, texts: list[str], server_version: int) -> tuple[subprocess.CompletedProcess[str], Any]:
    """What it printed. Raises OSError where nothing can be written, as in a container without a place for it."""
    with tempfile.TemporaryDirectory(prefix="selvedge-lint-") as directory:
        for index, text in enumerate(texts):
            Path(directory, f"{index}.sql").write_text(text, encoding="utf-8")
        command = [path, "--reporter", "json", "--pg-version", f"{server_version}.0", "--exclude", _EXCLUDED]
        command += [f"{index}.sql" for index in range(len(texts))]
        done = subprocess.run(  # noqa: S603 - the files are text that it parses, never arguments
            command, cwd=directory, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
        return done, json.loads(done.stdout or "[]")


def _finding(row: dict[str, str], migration: Migration) -> Finding:
    rule = str(row["rule_name"])
    severity: Severity = "advice" if rule.startswith(("prefer-", "ban-char")) else "warning"
    message = str(row["message"]).strip().rstrip(".").replace("\n", " ")
    step = str(row.get("help") or "").strip().rstrip(".").replace("\n", " ")
    return Finding(migration.file, int(row["line"]) + migration.up_line, rule, severity, message, step)


def _without_data(migration: Migration) -> str:
    """The up part with the rows of COPY taken out, line for line: they are no SQL."""
    text, position = migration.up, 0
    for statement in migration.script.statements:
        if statement.data:
            begin = text.find(statement.data, position)
            end = begin + len(statement.data)
            text = text[:begin] + "\n" * statement.data.count("\n") + text[end:]
            # the line that ends the data is none of SQL's either
            text = text[:begin] + text[begin:].replace("\\.", "  ", 1)
            position = begin
    return text


def _about(message: str, step: str) -> Finding:
    return Finding("squawk", 0, "squawk", "advice", message, step)
