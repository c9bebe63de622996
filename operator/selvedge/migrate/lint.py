"""Advice on migrations before they run, and what in them loses data.

::

    for finding in lint(migrations, server_version=18):
        print(finding)
    refused = destructive(plan_s_migrations)          # what a person has to allow first

``-- allow: RULE`` in the comment lines before a migration's first statement silences a rule for that part of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from selvedge.core.errors import InvalidError
from selvedge.migrate import squawk
from selvedge.migrate.conventions import RULE as NAMING
from selvedge.migrate.conventions import Conventions, check_names
from selvedge.migrate.directives import Directives
from selvedge.migrate.finding import Finding, Severity
from selvedge.migrate.lint_destructive import RULES, UNREAD, losses
from selvedge.migrate.lint_facts import Fact, facts_of
from selvedge.migrate.lint_fresh import Fresh
from selvedge.migrate.lint_mongo import RULES as MONGO_RULES
from selvedge.migrate.lint_mongo import mongo_breaks, mongo_losses
from selvedge.migrate.lint_new import LOCKING, new_lines
from selvedge.migrate.lint_running import RULE as BREAKS
from selvedge.migrate.lint_running import breaks
from selvedge.migrate.load import Migration
from selvedge.migrate.mongo_rules import VIOLATIONS
from selvedge.migrate.names import HOOKS

__all__ = ["Conventions", "Finding", "Severity", "advice", "destructive", "lint"]

_LOCATED = re.compile(r"(?P<file>[^,]+), line (?P<line>[0-9]+): (?P<why>.*)", re.DOTALL)
_ORDER = {"error": 0, "warning": 1, "advice": 2}
_RULE = re.compile(r"[a-z][a-z0-9-]*")


def destructive(migrations: Iterable[Migration], *, direction: Literal["up", "down"] = "up") -> tuple[Finding, ...]:
    """What of a plan loses data, or a name that others know, and is not covered by ``-- allow:`` in its file.

    ``migrations`` are those of the plan, in the order in which they run: what one of them creates is nobody's data for
    those after it. Hooks are looked at by themselves: the first runs before anything is made. Raises InvalidError for a
    file that cannot be read.
    """
    fresh, made = Fresh(), set[str]()
    found: list[Finding] = []
    for migration in migrations:
        if migration.engine == "MongoDB":
            findings = list(mongo_losses(migration, direction, made))
        else:
            hook = not migration.version and f"{migration.name}.sql" in HOOKS
            findings = list(losses(_facts(migration, direction), Fresh() if hook else fresh))
        allowed = (migration.directives if direction == "up" else migration.down_directives).allow
        found += [finding for finding in findings if finding.rule not in allowed]
    return tuple(found)


def lint(
    migrations: Sequence[Migration],
    *,
    server_version: int = 18,
    conventions: Conventions | None = None,
    use_squawk: bool = True,
) -> tuple[Finding, ...]:
    """Everything to say about these migrations, in the order of files and lines.

    Errors are what will not run: a file that cannot be read, and what the gate refuses without ``-- allow:``. Warnings
    are what running code or a busy server suffers from; advice is naming and taste. Each file is looked at by itself.
    squawk is asked where it is installed; where not, one finding says so. ``server_version`` is the major version.
    ``conventions`` default to :class:`Conventions`. Raises nothing for what stands in the files.
    """
    found: list[Finding] = []
    readable: list[Migration] = []
    for migration in migrations:
        try:
            found += _of_one(migration, conventions or Conventions())
        except InvalidError as error:
            found.append(_unreadable(migration, error))
        else:
            readable.append(migration)
    if use_squawk and any(migration.engine == "Postgres" for migration in readable):
        new = frozenset().union(*(new_lines([migration]) for migration in readable))
        found += _asked(readable, server_version, new)
    place = {file: index for index, one in enumerate(migrations) for file in (one.down_file, one.file)}
    return tuple(sorted(found, key=lambda one: (place.get(one.file, -1), one.line, _ORDER[one.severity], one.rule)))


def advice(
    migrations: Sequence[Migration],
    *,
    server_version: int = 18,
    conventions: Conventions | None = None,
    use_squawk: bool = True,
) -> tuple[Finding, ...]:
    """What to say about a plan beside what its gate asks: warnings first, then advice, each in the plan's order.

    ``migrations`` are those that run, in order: code that runs now cannot know what the plan itself makes, whichever
    file makes it. squawk is asked where it is installed, and not missed where it is not. Raises InvalidError for a file
    that cannot be read.
    """
    made, fresh = set[str](), Fresh()
    found: list[Finding] = []
    for migration in migrations:
        found += _remarks(migration, conventions or Conventions(), made, fresh)
    if use_squawk and squawk.program() is not None:
        found += _asked(migrations, server_version, new_lines(migrations))
    place = {migration.file: index for index, migration in enumerate(migrations)}
    return tuple(sorted(found, key=lambda one: (_ORDER[one.severity], place.get(one.file, -1), one.line, one.rule)))


def _asked(migrations: Sequence[Migration], server_version: int, new: frozenset[tuple[str, int]]) -> Iterator[Finding]:
    """What squawk says, without what a file allows, and what a lock does to tables that are ``new``: nobody waits."""
    allowed = {migration.file: migration.directives.allow for migration in migrations}
    for finding in squawk.ask(migrations, server_version):
        nobody_waits = finding.rule in LOCKING and (finding.file, finding.line) in new
        if not nobody_waits and finding.rule not in allowed.get(finding.file, ()):
            yield finding


def _of_one(migration: Migration, conventions: Conventions) -> Iterator[Finding]:
    migration.check()
    _ = migration.down_commands if migration.engine == "MongoDB" else migration.down_script
    yield from _unknown_words(migration, migration.directives)
    yield from destructive([migration])
    yield from _remarks(migration, conventions, set(), Fresh())
    if migration.engine == "MongoDB":
        return
    allowed = migration.directives.allow
    if migration.down is not None and not migration.down_script.statements and migration.script.statements:
        file = migration.down_file or migration.file
        message = "the way down has no statement: going down changes nothing but the history"
        finding = Finding(file, migration.down_line, "empty-down", "warning", message, "write it, or remove the part")
        if finding.rule not in allowed:
            yield finding


def _remarks(migration: Migration, conventions: Conventions, made: set[str], fresh: Fresh) -> Iterator[Finding]:
    """What running code meets, and names; what migrations before this one made is in ``made`` or ``fresh``."""
    if migration.engine == "MongoDB":
        own = list(mongo_breaks(migration, made))
    else:
        found = list(_facts(migration, "up"))
        own = [*breaks(found, fresh), *check_names(found, conventions), *_weakened(found), *_unread(found, fresh)]
    yield from (finding for finding in own if finding.rule not in migration.directives.allow)


def _facts(migration: Migration, direction: Literal["up", "down"]) -> Iterator[tuple[str, int, Fact]]:
    down = direction == "down"
    script = migration.down_script if down else migration.script
    file = (migration.down_file if down else "") or migration.file
    for statement in script.statements:
        for fact in facts_of(statement):
            yield file, statement.line + statement.text.count("\n", 0, fact.at), fact


def _weakened(found: Sequence[tuple[str, int, Fact]]) -> Iterator[Finding]:
    for file, line, fact in found:
        if fact.what == "weaken-row-security" or (fact.what == "drop" and fact.kind == "POLICY"):
            message = f"row-level security of {fact.name} is weakened: rows may be seen that were hidden"
            if fact.kind == "POLICY":
                message = f"policy {fact.name} goes: rows may be seen that were hidden, or none at all"
            yield Finding(file, line, "weaken-row-security", "warning", message, "look who reads the table after it")


def _unread(found: Sequence[tuple[str, int, Fact]], fresh: Fresh) -> Iterator[Finding]:
    """What is run and cannot be looked into: it may lose data without being asked about."""
    step = "look yourself what it does"
    inner = [(file, line, one) for file, line, fact in found for one in fresh.body(fact)]
    for file, line, fact in [*found, *inner]:
        what = ""
        if fact.what == "unread" and fact.kind == "EXECUTE":
            what = "a text that is put together at run time is executed"
        elif fact.what == "unread" and fact.kind == "LANGUAGE":
            what = f"a block is written in {fact.name}"
        elif fact.what == "call" and fact.kind == "PROCEDURE" and not fresh.knows(fact):
            what = f"procedure {fact.name} is called"
        if what:
            yield Finding(file, line, UNREAD, "advice", f"{what} and is not looked through: it may lose data", step)


def _unknown_words(migration: Migration, said: Directives) -> Iterator[Finding]:
    """A word of ``-- allow:`` that is misspelt silences nothing; squawk's rules are its own matter."""
    for word in said.allow:
        mongo = migration.engine == "MongoDB"
        rules = MONGO_RULES | {BREAKS, VIOLATIONS} if mongo else RULES | {BREAKS, NAMING}
        near = mongo or any(
            word.startswith(prefix) for prefix in ("drop-", "delete-", "update-", "rename-", "truncate-")
        )
        if not _RULE.fullmatch(word) or (near and word not in rules):
            known = ", ".join(sorted(rules))
            written = f'"allow": ["{word}"]' if mongo else f"-- allow: {word}"
            message = f"{written} is no rule and allows nothing"
            yield Finding(migration.file, 1, "unknown-allow", "warning", message, f"use one of {known}")


def _unreadable(migration: Migration, error: InvalidError) -> Finding:
    where = _LOCATED.fullmatch(error.message)
    if where is None:
        return Finding(migration.file, 1, "unreadable", "error", error.message.removeprefix(f"{migration.file}: "))
    return Finding(where["file"], int(where["line"]), "unreadable", "error", where["why"])
