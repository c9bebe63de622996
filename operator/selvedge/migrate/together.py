"""Whether all steps of a plan can share one transaction without that being a lie. Found out before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason
from selvedge.migrate.load import Migration
from selvedge.migrate.plan import Step
from selvedge.migrate.splitter import Statement
from selvedge.migrate.transactions import Script


def script_of(migration: Migration, direction: str) -> Script:
    """The statements of one direction; raises InvalidError where they cannot be read."""
    return migration.down_script if direction == "down" else migration.script


def check_together(steps: Sequence[Step]) -> None:
    """Raise InvalidError where the steps of a Postgres plan cannot be one transaction: the message names the file.

    One that runs without a transaction cannot be taken back with the others. A value that is added to an enum can be
    used only after its transaction; what only mentions it in a function's body is refused with it, since the server
    reads such bodies too.
    """
    running = [step for step in steps if step.direction in ("up", "down")]
    added: dict[str, tuple[str, int]] = {}
    for step in running:
        script, file = script_of(step.migration, step.direction), _file(step)
        if not script.transactional:
            raise InvalidError(
                Reason.INVALID_SPEC,
                f"{file} runs without a transaction, so this run cannot be all or nothing: set transaction to "
                "PerMigration, or run up to the migration before it first",
            )
        for statement in script.statements:
            for value, (where, line) in added.items():
                if value in _searched(statement):
                    raise InvalidError(
                        Reason.INVALID_SPEC,
                        f"{file}, line {statement.line} uses the enum value {value} that {where}, line {line} adds, "
                        "and a new value can be used only after its transaction: set transaction to PerMigration",
                    )
            new = added_value(statement)
            if new:
                added[new] = (file, statement.line)


def added_value(statement: Statement) -> str:
    """The value that ``ALTER TYPE … ADD VALUE`` adds, in its quotes; empty for every other statement."""
    head = statement.head
    if head[:2] != ("ALTER", "TYPE") or ("ADD", "VALUE") not in pairwise(head):
        return ""
    rest = statement.text[_after_value(statement.text) :]
    start = rest.find("'")
    end = start
    while start >= 0 and (end := rest.find("'", end + 1)) > 0 and rest[end + 1 : end + 2] == "'":
        end += 1
    return rest[start : end + 1] if 0 <= start < end else ""


def _after_value(text: str) -> int:
    found = text.upper().find("VALUE", text.upper().find("ADD"))
    return max(found, 0)


def _searched(statement: Statement) -> str:
    """The text, with what COPY brings: values are without quotes there, so they are put in quotes."""
    if not statement.data:
        return statement.text
    values: Iterable[str] = statement.data.replace("\n", "\t").split("\t")
    return statement.text + "".join(f" '{value}'" for value in values)


def _file(step: Step) -> str:
    return (step.migration.down_file or step.migration.file) if step.direction == "down" else step.migration.file
