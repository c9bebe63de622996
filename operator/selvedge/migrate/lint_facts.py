"""What a statement does to tables and what else holds data or is read by programs: facts, without judgement.

Only what is written can be seen. A function that is called may do anything; the bodies of DO blocks, which run at once,
are looked through, and so are the texts that they EXECUTE, as far as they stand there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from selvedge.migrate.lint_tables import column_facts, table_facts
from selvedge.migrate.tokens import Reader, Token, inside, parts, tokens

__all__ = ["Fact", "facts"]

_DYNAMIC = re.compile(
    r"\b(?:(?P<drop>DROP\s+(?:TABLE|SCHEMA|DATABASE|SEQUENCE|EXTENSION|OWNED|COLUMN))|(?P<truncate>TRUNCATE)"
    r"|(?P<delete>DELETE\s+FROM(?![\s\S]*\bWHERE\b)))\b",
    re.IGNORECASE,
)
_TWO_WORDS = {("MATERIALIZED", "VIEW"), ("FOREIGN", "TABLE"), ("EVENT", "TRIGGER"), ("ACCESS", "METHOD")}
_OPENS = {"BEGIN", "THEN", "ELSE", "LOOP"}
_MODIFIERS = ("GLOBAL", "LOCAL", "TEMPORARY", "TEMP", "UNLOGGED", "RECURSIVE", "UNIQUE", "CONSTRAINT", "DEFAULT")


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that a statement does.

    ``what`` is create, drop, rename, … as the functions below make it; ``kind`` the kind of object (TABLE), ``name``
    its name with the schema as written, ``sure`` that it was new (create) or that dependents go as well (drop).
    ``new`` is the name that comes: of an index or constraint, or after a rename; ``partition`` for a table that is one.
    """

    what: str
    kind: str = ""
    name: str = ""
    column: str = ""
    new: str = ""
    sure: bool = False
    at: int = 0
    tokens: tuple[Token, ...] = field(default=(), repr=False)


def facts(text: str) -> tuple[Fact, ...]:
    """The facts of one statement; offsets are those in ``text``."""
    return tuple(_statement(tokens(text), text))


def _statement(found: Sequence[Token], text: str) -> Iterator[Fact]:
    if not found:
        return
    reader = Reader(found)
    at = found[0].at
    match reader.one_of("CREATE", "DROP", "ALTER", "TRUNCATE", "DO", "SET", "RESET", "SELECT", "WITH"):
        case "CREATE":
            yield from _create(reader, at)
        case "DROP":
            yield from _drop(reader, at)
        case "ALTER":
            yield from _alter(reader, at)
        case "TRUNCATE":
            yield from _truncate(reader, at)
        case "DO":
            yield from _block(found)
        case "SET" | "RESET":
            if {"SEARCH_PATH", "ROLE", "ALL"} & {token.key for token in found[1:4]}:
                yield Fact("search-path", at=at)
        case "SELECT":
            if any(token.key == "SET_CONFIG" for token in found):
                yield Fact("search-path", at=at)
            yield from _select_into(found, at)
        case _:
            pass
    yield from _without_where(found)


def _create(reader: Reader, at: int) -> Iterator[Fact]:
    replace = reader.take("OR", "REPLACE")
    modifiers = set()
    while word := reader.one_of(*_MODIFIERS):
        modifiers.add(word)
    kind = _kind(reader)
    if kind == "INDEX":
        yield from _index(reader, at, unique="UNIQUE" in modifiers)
        return
    exists = reader.take("IF", "NOT", "EXISTS")
    if kind == "SCHEMA" and reader.take("AUTHORIZATION"):
        yield Fact("create", kind, reader.name(), at=at, sure=not exists)
        return
    name = reader.name()
    partition = "partition" if reader.peek() == "PARTITION" else ""
    yield Fact("create", kind, name, new=partition, at=at, sure=not exists and not replace)
    if kind in ("TABLE", "FOREIGN TABLE") and reader.peek() == "(":
        body, _ = inside(reader.tokens, reader.index)
        for item in parts(body):
            yield from (Fact(**made) for made in table_facts(item, name))


def _index(reader: Reader, at: int, *, unique: bool) -> Iterator[Fact]:
    reader.take("CONCURRENTLY")
    reader.take("IF", "NOT", "EXISTS")
    name = reader.name() if reader.peek() != "ON" else ""
    if reader.take("ON"):
        reader.take("ONLY")
        yield Fact("index", "UNIQUE" if unique else "", reader.name(), new=name, at=at)


def _drop(reader: Reader, at: int) -> Iterator[Fact]:
    kind = _kind(reader)
    if kind == "OWNED":
        reader.take("BY")
    reader.take("CONCURRENTLY")
    reader.take("IF", "EXISTS")
    rest = reader.rest()
    cascade = any(token.key == "CASCADE" for token in rest)
    for item in parts(rest):
        name = Reader(item).name()
        if name:
            yield Fact("drop", kind, name, at=at, sure=cascade)


def _alter(reader: Reader, at: int) -> Iterator[Fact]:
    kind = _kind(reader)
    reader.take("IF", "EXISTS")
    reader.take("ONLY")
    name = reader.name()
    reader.take("*")
    if kind in ("FUNCTION", "PROCEDURE", "ROUTINE", "AGGREGATE"):
        reader.skip_parentheses()
    if reader.take("RENAME"):
        yield from _rename(reader, kind, name, at)
    elif reader.take("SET", "SCHEMA"):
        yield Fact("rename", kind, name, new=reader.name(), at=at)
    elif kind in ("TABLE", "FOREIGN TABLE", "TYPE"):
        for item in parts(reader.rest()):
            yield from (Fact(**made) for made in column_facts(item, kind, name))


def _rename(reader: Reader, kind: str, name: str, at: int) -> Iterator[Fact]:
    what = reader.one_of("CONSTRAINT", "ATTRIBUTE", "VALUE", "COLUMN")
    if reader.take("TO"):
        yield Fact("rename", kind, name, new=reader.name(), at=at)
        return
    old = reader.tokens[reader.index].text if what == "VALUE" and reader.peek() == "'" else reader.name()
    if what != "CONSTRAINT" and kind in ("TABLE", "FOREIGN TABLE", "VIEW", "MATERIALIZED VIEW", "TYPE"):
        yield Fact("rename", what or "COLUMN", name, column=old, at=at)


def _truncate(reader: Reader, at: int) -> Iterator[Fact]:
    reader.take("TABLE")
    rest = reader.rest()
    cascade = any(token.key == "CASCADE" for token in rest)
    for item in parts(rest):
        one = Reader(item)
        one.take("ONLY")
        yield Fact("truncate", "TABLE", one.name(), at=at, sure=cascade)


def _select_into(found: Sequence[Token], at: int) -> Iterator[Fact]:
    depth = 0
    for index, token in enumerate(found):
        depth += (token.key == "(") - (token.key == ")")
        if depth == 0 and token.key == "FROM":
            return
        if depth == 0 and token.key == "INTO":
            reader = Reader(found, index + 1)
            while reader.one_of("TEMPORARY", "TEMP", "UNLOGGED", "TABLE"):
                pass
            yield Fact("create", "TABLE", reader.name(), at=at, sure=True)


def _without_where(found: Sequence[Token]) -> Iterator[Fact]:
    """DELETE and UPDATE of every row, in a WITH too; a condition that is always true counts as none."""
    if found[0].key not in ("DELETE", "UPDATE", "WITH", "EXPLAIN"):
        return
    for index, token in enumerate(found):
        before = found[index - 1].key if index else ""
        if token.key not in ("DELETE", "UPDATE") or before not in ("", "(", ")", "ANALYZE", "EXPLAIN"):
            continue
        reader = Reader(found, index + 1)
        reader.take("FROM")
        reader.take("ONLY")
        name = reader.name()
        rest = _own_level(reader.rest())
        if name and not _has_condition(rest):
            yield Fact(f"{token.key.lower()}-all", "TABLE", name, at=token.at, tokens=rest)


def _own_level(rest: Sequence[Token]) -> tuple[Token, ...]:
    """Up to the parenthesis that closes around the statement."""
    depth = 0
    for index, token in enumerate(rest):
        depth += (token.key == "(") - (token.key == ")")
        if depth < 0:
            return tuple(rest[:index])
    return tuple(rest)


def _has_condition(rest: Sequence[Token]) -> bool:
    depth = 0
    for index, token in enumerate(rest):
        depth += (token.key == "(") - (token.key == ")")
        if depth == 0 and token.key == "WHERE":
            keys = [one.key for one in rest[index + 1 :]]
            keys = keys[: keys.index("RETURNING")] if "RETURNING" in keys else keys
            return keys not in (["TRUE"], ["1", "=", "1"], ["(", "TRUE", ")"])
    return False


def _block(found: Sequence[Token]) -> Iterator[Fact]:
    """What a DO block runs: its statements, and the texts that it executes."""
    for token in found:
        if token.key != "'":
            continue
        body = token.value
        offset = token.at + token.text.find(body) if body in token.text else token.at
        for piece in parts(tokens(body), ";"):
            start = next((i + 1 for i in range(len(piece) - 1, -1, -1) if piece[i].key in _OPENS), 0)
            rest = piece[start:]
            for fact in _statement(rest, body) if rest and rest[0].key != "DO" else ():
                yield Fact(
                    fact.what, fact.kind, fact.name, fact.column, fact.new, fact.sure, fact.at + offset, fact.tokens
                )
            if any(one.key == "EXECUTE" for one in piece):
                yield from _dynamic(piece, offset)


def _dynamic(piece: Sequence[Token], offset: int) -> Iterator[Fact]:
    """Destructive words in the texts of an EXECUTE; the names are often known at run time only."""
    for token in piece:
        match = _DYNAMIC.search(token.value) if token.key == "'" else None
        if match is None:
            continue
        at, name = token.at + offset, "something named at run time"
        words = match[0].upper().split()
        if match["drop"] and words[1] == "COLUMN":
            yield Fact("drop-column", "TABLE", "a table", column=name, at=at)
        elif match["drop"]:
            yield Fact("drop", words[1], name, at=at)
        else:
            yield Fact("truncate" if match["truncate"] else "delete-all", "TABLE", name, at=at)


def _kind(reader: Reader) -> str:
    for words in _TWO_WORDS:
        if reader.take(*words):
            return " ".join(words)
    kind = reader.peek()
    reader.index += 1
    return kind
