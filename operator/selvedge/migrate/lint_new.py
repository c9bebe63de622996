"""Lines that touch only tables of the plan's own: nobody waits for a lock on what nobody else knows yet."""

from __future__ import annotations

from collections.abc import Iterable

from selvedge.migrate.lint_facts import facts_of
from selvedge.migrate.lint_fresh import Fresh
from selvedge.migrate.load import Migration

LOCKING = frozenset(
    {
        "adding-field-with-default",
        "adding-foreign-key-constraint",
        "adding-not-nullable-field",
        "adding-serial-primary-key-field",
        "changing-column-type",
        "constraint-missing-not-valid",
        "disallowed-unique-constraint",
        "require-concurrent-index-creation",
    }
)
"""squawk's rules about a table that is locked while it is read or written anew."""

_OF_A_TABLE = {"index", "add-column", "change-type", "set-not-null", "check", "exclude", "foreign-key"}
_OF_A_TABLE |= {"primary-key", "unique"}
#: Of these no rule above speaks, and they may have a million lines.
_DATA = (("INSERT",), ("COPY",))


def new_lines(migrations: Iterable[Migration]) -> frozenset[tuple[str, int]]:
    """File and line of what happens to tables alone that these migrations made before, in the order given.

    A line that holds another statement beside it is none of them. Raises InvalidError for a file that cannot be read.
    """
    fresh = Fresh()
    new: set[tuple[str, int]] = set()
    others: set[tuple[str, int]] = set()
    for migration in migrations:
        if migration.engine != "Postgres":
            continue
        fresh.begin()
        for statement in migration.script.statements:
            facts = facts_of(statement)
            if statement.head[:1] in _DATA:
                for fact in facts:
                    fresh.learn(fact)
                continue
            tables = [fact.name for fact in facts if fact.what in _OF_A_TABLE]
            # a foreign key locks the table that it refers to as well
            tables += [fact.kind for fact in facts if fact.what == "foreign-key"]
            lines = range(statement.line, statement.line + statement.text.count("\n") + 1)
            found = new if tables and all(map(fresh.has, tables)) else others
            found.update((migration.file, line) for line in lines)
            for fact in facts:
                fresh.learn(fact)
    return frozenset(new - others)
