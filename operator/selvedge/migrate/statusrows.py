"""The rows of a MigrationRun's status, read again: by the operator after a restart, and by whoever approves.

A plan's digest is taken of version, mark and direction of each step, and a row holds all three: so what a person
sees is what he approves, and a status that somebody altered has another digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NO_STEPS = "drop invalid indexes\n"
"""The line of a plan that has no rows, and does something all the same."""


def key_of_row(row: Mapping[str, Any]) -> str:
    """What the history knows the migration by."""
    kind = row.get("kind") or "Versioned"
    return str(row.get("version") or "") if kind == "Versioned" else f"{kind}:{row.get('name', '')}"


def place_of_row(row: Mapping[str, Any]) -> tuple[str, str]:
    """The schema that a run for several runs it in, and its key: no two rows of one direction have the same."""
    return str(row.get("schema") or ""), key_of_row(row)


def line_of_row(row: Mapping[str, Any]) -> str:
    """The line that the digest is taken of, as :func:`selvedge.migrate.plan.line_of` makes it of a step."""
    where = f" {row['schema']}" if row.get("schema") else ""
    return f"{key_of_row(row)} {row.get('checksum', '')} {row.get('direction', '')}{where}\n"


def digest_of_lines(lines: Iterable[str]) -> str:
    """The digest of a plan with these lines."""
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def is_redone(lines: Sequence[str], done: Sequence[str]) -> bool:
    """Whether a run whose steps were ``done`` has done both steps of the Redo whose ``lines`` are planned now.

    The way up tells it alone: what was undone ran down by the history's text, and would run down by the file's now.
    """
    return len(lines) == 2 and list(done[-1:]) == list(lines[-1:])
