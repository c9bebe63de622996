"""Statements that the code which is running now does not survive: during a rollout it runs beside the new schema."""

from __future__ import annotations

from collections.abc import Sequence

from selvedge.migrate.finding import Finding
from selvedge.migrate.lint_facts import Fact

RULE = "breaks-running-code"

_READ = {
    "TABLE",
    "FOREIGN TABLE",
    "VIEW",
    "MATERIALIZED VIEW",
    "FUNCTION",
    "PROCEDURE",
    "ROUTINE",
    "AGGREGATE",
    "TYPE",
    "DOMAIN",
    "SCHEMA",
    "SEQUENCE",
}
_RENAMED = _READ | {"COLUMN", "ATTRIBUTE", "VALUE"}


def breaks(found: Sequence[tuple[str, int, Fact]], made: set[str] | None = None) -> list[Finding]:
    """A finding for each fact of one file that running code meets; what the file itself makes is nobody's yet.

    ``made`` is what files of the same plan before it made; what this one makes is added.
    """
    made = set() if made is None else made
    again = {(fact.kind, fact.name): index for index, (_, _, fact) in enumerate(found) if fact.what == "create"}
    result = []
    for index, (file, line, fact) in enumerate(found):
        if fact.what == "create" and fact.sure:
            made.add(fact.name)
        if fact.name in made:
            continue
        # dropped to be made anew in the same file: code sees the new one only
        if fact.what == "drop" and again.get((fact.kind, fact.name), -1) > index:
            continue
        message = _message(fact)
        if message:
            what, step = message
            result.append(Finding(file, line, RULE, "warning", f"code that runs now {what}", step))
    return result


def _message(fact: Fact) -> tuple[str, str] | None:
    match fact.what:
        case "rename" if fact.kind in _RENAMED:
            old = f"{fact.column} of {fact.name}" if fact.column else fact.name
            return (
                f"knows {fact.kind.lower()} {old} by its old name",
                "add the new one, let the code use it, and take the old one away in a later release",
            )
        case "drop" if fact.kind in _READ:
            return (
                f"may still use {fact.kind.lower()} {fact.name}",
                "drop it in a release after the one that stops using it",
            )
        case "drop-column":
            return (
                f"may still read column {fact.column} of {fact.name}, SELECT * does",
                "drop it in a release after the one that stops using it",
            )
        case "add-column" if fact.sure:
            return (
                f"inserts rows without column {fact.column} of {fact.name}, which is NOT NULL without a default",
                "give it a default, or add it nullable and require it in a later release",
            )
        case "set-not-null":
            return (
                f"may write no value into column {fact.column} of {fact.name}",
                "let the code always write it first, and set a default",
            )
        case "drop-default":
            return (
                f"may rely on the default of column {fact.column} of {fact.name}",
                "let the code always write it first",
            )
        case "change-type":
            return (
                f"reads and writes column {fact.column} of {fact.name} with its old type",
                "add a column of the new type, write both, and take the old one away in a later release",
            )
    return None
