"""Statements that lose data, unless it is data of the same plan: what the gate asks a person about.

What the plan itself makes is exempt: a table that it creates, a column that it adds (:mod:`.lint_fresh`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace

from selvedge.migrate.finding import Finding
from selvedge.migrate.lint_data import level
from selvedge.migrate.lint_facts import Fact
from selvedge.migrate.lint_fresh import Fresh
from selvedge.migrate.tokens import Reader, Token, parts

UNREAD = "unread"
"""The rule of what the linter cannot look into."""

_DROPS = {
    "TABLE": "drop-table",
    "FOREIGN TABLE": "drop-table",
    "SCHEMA": "drop-schema",
    "DATABASE": "drop-database",
    "SEQUENCE": "drop-sequence",
    "EXTENSION": "drop-extension",
    "OWNED": "drop-owned",
}
_RENAMED = {
    "TABLE",
    "AGGREGATE",
    "FOREIGN TABLE",
    "VIEW",
    "MATERIALIZED VIEW",
    "SCHEMA",
    "TYPE",
    "DOMAIN",
    "SEQUENCE",
    "FUNCTION",
    "PROCEDURE",
    "ROUTINE",
    "COLUMN",
    "ATTRIBUTE",
    "VALUE",
    "DATABASE",
}
#: Types that hold every value of the types which are usually turned into them.
_WIDE = {
    ("TEXT",),
    ("VARCHAR",),
    ("CHARACTER", "VARYING"),
    ("CITEXT",),
    ("NUMERIC",),
    ("DECIMAL",),
    ("BIGINT",),
    ("INT8",),
    ("TIMESTAMPTZ",),
    ("TIMESTAMP", "WITH", "TIME", "ZONE"),
}
#: Facts of called routines that are looked at for one file: with each level of calls there may be ten times as many.
_CALLED = 100_000
RULES = frozenset(
    {
        *_DROPS.values(),
        "drop-cascade",
        "drop-column",
        "truncate",
        "delete-all",
        "update-all",
        "narrow-type",
        "rename",
        "set-unlogged",
        UNREAD,
    }
)
"""The words that ``-- allow:`` takes for what loses data, or breaks what knows a name."""


def losses(facts: Iterable[tuple[str, int, Fact]], fresh: Fresh) -> Iterator[Finding]:
    """A finding for each fact (with its file and line) that loses what the plan did not make.

    The facts are those of one file, in order, and ``fresh`` knows what the plan made before and learns from them.
    """
    fresh.begin()
    left = _CALLED
    for file, line, fact in facts:
        said: set[Finding] = set()
        for one, called, size in _expanded(fact, fresh, left):
            left -= size
            found = _loss(one, fresh)
            if found:
                rule, message, step = found
                message = f"calls {called}, which {message}" if called else message
                step = f"{step}, or write -- allow: {rule} at the top of the file"
                finding = Finding(file, line, rule, "error", message, step)
                if finding not in said:
                    said.add(finding)
                    yield finding
            fresh.learn(one)


def _expanded(fact: Fact, fresh: Fresh, left: int) -> Iterator[tuple[Fact, str, int]]:
    """A fact, and what the routines do that it calls, as far as the plan made them, in the order in which it is done.

    With each the routine that is called first, and 1 for what stands in a routine. What a routine does the second time
    may lose what it made the first time, so each call is gone through, until none of ``left`` is left.
    """
    yield fact, "", 0
    if fact.what != "call":
        return
    calls = {fact.name: fresh.body(fact)}
    while calls:
        one = next(calls[next(reversed(calls))], None)
        if one is None:
            calls.popitem()
            continue
        if not left:
            yield replace(fact, what="unread", kind="CALLS"), "", 0
            return
        left -= 1
        yield one, fact.name, 1
        if one.what == "call" and one.name not in calls:
            calls[one.name] = fresh.body(one)


def _loss(fact: Fact, fresh: Fresh) -> tuple[str, str, str] | None:
    if fresh.exempts(fact):
        return None
    kind = fact.kind.lower()
    what = f"{kind} {fact.column} of {fact.name}" if fact.column else f"{kind} {fact.name}"
    match fact.what:
        case "drop":
            return _drop(fact, what)
        case "drop-column":
            return (
                "drop-column",
                f"drops column {fact.column} of {fact.name} and its data",
                "drop it in a release after the one that stops using it",
            )
        case "truncate":
            more = ", and what refers to it" if fact.sure else ""
            return "truncate", f"empties table {fact.name}{more}", "delete with a condition"
        case "delete-all":
            return "delete-all", f"deletes every row of {fact.name}", "add a WHERE"
        case "update-all" if not _only_fresh_columns(fact, fresh):
            return "update-all", f"overwrites every row of {fact.name}", "add a WHERE"
        case "change-type" if not _widens(fact) and not _is_cast_to_fresh(fact, fresh):
            kind = " ".join(token.text for token in _type(fact.tokens))
            return (
                "narrow-type",
                f"column {fact.column} of {fact.name} becomes {kind}, which may not hold every value",
                "look that every value fits",
            )
        case "move" | "rename" if fact.kind in _RENAMED:
            done = f"moves {what} to schema {fact.new}" if fact.what == "move" else f"renames {what}"
            return "rename", done, "add the new one beside the old one first"
        case "set-unlogged":
            return (
                "set-unlogged",
                f"table {fact.name} is emptied by a crash from here on, and is not on standbys",
                "leave it logged",
            )
        case "unread" if fact.kind == "SIZE":
            return UNREAD, f"a statement of {fact.name} is not looked through and may lose data", "split it"
        case "unread" if fact.kind == "CALLS":
            message = f"calls {fact.name}, of whose calls there are too many to look through: they may lose data"
            return UNREAD, message, "call fewer"
    return None


def _drop(fact: Fact, what: str) -> tuple[str, str, str] | None:
    rule = _DROPS.get(fact.kind)
    cascade = " and everything that depends on it" if fact.sure else ""
    if rule:
        return rule, f"drops {what} and its data{cascade}", "keep it until nothing uses it, and have a backup"
    if fact.sure:
        return "drop-cascade", f"drops {what}{cascade}, unseen", "name what depends on it, one by one, without CASCADE"
    return None


def _only_fresh_columns(fact: Fact, fresh: Fresh) -> bool:
    """A backfill: what it writes are columns that the plan added."""
    found = fact.tokens
    start = level(found, "SET") + 1
    end = start
    while end < len(found) and (end := level(found, "FROM", "WHERE", "RETURNING", "WHEN", start=end)) < len(found):
        if found[end].key != "FROM" or found[end - 1].key != "DISTINCT":
            break
        end += 1
    items = list(parts(found[start:end]))
    columns = [item[0].name if len(item) > 1 and item[1].key == "=" else "" for item in items]
    return bool(columns) and all(column and fresh.has_column(fact.name, column) for column in columns)


def _widens(fact: Fact) -> bool:
    """A type that holds every value, taken as they are: by no expression but the column itself."""
    kind = _key(fact.tokens)
    if kind not in _WIDE:
        return False
    start = level(fact.tokens, "USING") + 1
    using = [token for token in fact.tokens[start:] if token.key not in ("(", ")")]
    if not using:
        return True
    keys = tuple(token.key for token in using[1:])
    if using[0].key == "CAST" and len(using) > 1:
        using, keys = using[1:], keys[1:]
        return using[0].name == fact.column and keys == ("AS", *kind)
    zone = ("AT", "TIME", "ZONE", "'") if kind[0].startswith("TIMESTAMP") else ()
    return using[0].name == fact.column and keys in ((), zone, (":", ":", *kind))


def _is_cast_to_fresh(fact: Fact, fresh: Fresh) -> bool:
    """An enum that takes the place of another: a bare cast to it fails where a value is missing, and loses none."""
    kind = _type(fact.tokens)
    words = [token.key for token in fact.tokens[len(kind) :]]
    called = any(word not in ("(", "USING", ":", ".") and after == "(" for word, after in itertools.pairwise(words))
    return fresh.has(Reader(kind).name()) and not called and not {"CASE", "'"} & set(words)


def _type(found: tuple[Token, ...]) -> tuple[Token, ...]:
    for index, token in enumerate(found):
        if token.key in ("USING", "COLLATE"):
            return found[:index]
    return found


def _key(found: tuple[Token, ...]) -> tuple[str, ...]:
    return tuple(token.key for token in _type(found))
