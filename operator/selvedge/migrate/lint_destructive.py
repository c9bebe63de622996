"""Statements that lose data, unless it is data of the same plan: what the gate asks a person about.

What the plan itself makes is exempt: a table that it creates, a column that it adds. Names are compared as written:
``t`` and ``shop.t`` are two tables here, and after a change of the search path an unqualified name is nobody's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from selvedge.migrate.finding import Finding
from selvedge.migrate.lint_facts import Fact
from selvedge.migrate.tokens import Reader, Token, parts

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
    }
)
"""The words that ``-- allow:`` takes for what loses data, or breaks what knows a name."""


#: Kinds of which no two objects of a schema share a name; a function may be called as a table is.
_ONE_NAMESPACE = {"TABLE", "FOREIGN TABLE", "VIEW", "MATERIALIZED VIEW", "SEQUENCE", "TYPE", "DOMAIN"}


class Fresh:
    """What a plan made itself so far: no data of anybody else is in it."""

    def __init__(self) -> None:
        self.objects: set[str] = set()
        self.columns: set[tuple[str, str]] = set()

    def has(self, name: str, column: str = "") -> bool:
        """Whether the object, its schema or the column was made by the plan."""
        schema = name.rpartition(".")[0]
        return name in self.objects or f"{schema}." in self.objects or (name, column) in self.columns

    def learn(self, fact: Fact) -> None:
        """Take in what a statement made, dropped or renamed."""
        key = f"{fact.name}." if fact.kind == "SCHEMA" else fact.name
        if fact.what in ("create", "drop") and fact.kind in _ONE_NAMESPACE | {"SCHEMA"}:
            (self.objects.add if fact.what == "create" and fact.sure else self.objects.discard)(key)
        elif fact.what == "add-column":
            self.columns.add((fact.name, fact.column))
        elif fact.what == "rename" and fact.kind in _ONE_NAMESPACE and fact.name in self.objects:
            schema = fact.name.rpartition(".")[0]
            self.objects.discard(fact.name)
            self.objects.add(f"{schema}.{fact.new}" if schema else fact.new)
        elif fact.what == "search-path":
            self.objects = {name for name in self.objects if "." in name}
            self.columns = {pair for pair in self.columns if "." in pair[0]}


def losses(facts: Iterable[tuple[str, int, Fact]], fresh: Fresh) -> Iterator[Finding]:
    """A finding for each fact (with its file and line) that loses what the plan did not make."""
    for file, line, fact in facts:
        found = _loss(fact, fresh)
        if found:
            rule, message, step = found
            yield Finding(
                file, line, rule, "error", message, f"{step}, or write -- allow: {rule} at the top of the file"
            )
        fresh.learn(fact)


def _loss(fact: Fact, fresh: Fresh) -> tuple[str, str, str] | None:
    if fresh.has(fact.name, fact.column) or (fact.kind == "SCHEMA" and f"{fact.name}." in fresh.objects):
        return None
    what = f"{fact.kind.lower()} {fact.name}"
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
        case "change-type" if _key(fact.tokens) not in _WIDE and not _is_cast_to_fresh(fact, fresh):
            kind = " ".join(token.text for token in _type(fact.tokens))
            return (
                "narrow-type",
                f"column {fact.column} of {fact.name} becomes {kind}, which may not hold every value",
                "look that every value fits",
            )
        case "rename" if fact.kind in _RENAMED:
            old = f"{fact.kind.lower()} {fact.column} of {fact.name}" if fact.column else what
            return "rename", f"renames {old}", "add the new name beside the old one first"
        case "set-unlogged":
            return (
                "set-unlogged",
                f"table {fact.name} is emptied by a crash from here on, and is not on standbys",
                "leave it logged",
            )
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
    pieces = list(parts(fact.tokens, "SET"))
    if not pieces or not any(token.key == "SET" for token in fact.tokens):
        return False
    columns = [item[0].name for item in parts(pieces[-1]) if len(item) > 1 and item[1].key == "="]
    return bool(columns) and all((fact.name, column) in fresh.columns for column in columns)


def _is_cast_to_fresh(fact: Fact, fresh: Fresh) -> bool:
    """An enum that takes the place of another: a bare cast to it fails where a value is missing, and loses none."""
    kind = _type(fact.tokens)
    words = [token.key for token in fact.tokens[len(kind) :]]
    called = any(word not in ("(", "USING", ":", ".") and after == "(" for word, after in itertools.pairwise(words))
    return fresh.has(Reader(kind).name()) and not called and "CASE" not in words


def _type(found: tuple[Token, ...]) -> tuple[Token, ...]:
    for index, token in enumerate(found):
        if token.key in ("USING", "COLLATE"):
            return found[:index]
    return found


def _key(found: tuple[Token, ...]) -> tuple[str, ...]:
    return tuple(token.key for token in _type(found))
