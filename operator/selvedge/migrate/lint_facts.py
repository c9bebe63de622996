"""What a statement does to tables and what else holds data or is read by programs: facts, without judgement.

Only what is written can be seen. A function that is called may do anything; the bodies of DO blocks, which run at once,
are looked through, and so are the texts that they EXECUTE, as far as they stand there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from selvedge.migrate.lint_blocks import body_facts
from selvedge.migrate.lint_data import calls, data_facts, level
from selvedge.migrate.lint_tables import Made, column_facts, domain_facts, table_facts
from selvedge.migrate.splitter import Statement
from selvedge.migrate.tokens import Reader, Token, inside, parts, tokens

__all__ = ["Fact", "facts", "facts_of"]

LARGEST = 2_000_000
"""Characters of a statement that are still looked through: more is data, or is asked about as a whole."""
_SMALL = 20_000
"""Characters of an INSERT that may be more than data: it may call a function."""

_TWO_WORDS = {("MATERIALIZED", "VIEW"), ("FOREIGN", "TABLE"), ("EVENT", "TRIGGER"), ("ACCESS", "METHOD")}
_MODIFIERS = ("GLOBAL", "LOCAL", "TEMPORARY", "TEMP", "UNLOGGED", "RECURSIVE", "UNIQUE", "CONSTRAINT", "DEFAULT")
_ROUTINES = ("FUNCTION", "PROCEDURE", "ROUTINE", "AGGREGATE")
_SETTING_ROLES = ("ROLE", "USER", "DATABASE", "SYSTEM")
#: Where one of these names stands, the search path may be another one afterwards.
_PATH_NAMES = {"search_path", "set_config", "pg_settings"}
#: The same in a text that is only searched, lower case: plain searches, since it may have megabytes.
_PATH_TEXTS = (*sorted(_PATH_NAMES), 'u&"')
_CALL = re.compile(r"[\w$\"]\s*\(")
_HARM = re.compile(r"delete|update|truncate|drop|merge|alter|execute|call", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that a statement does.

    ``what`` is create, drop, rename, … as the functions below make it; ``kind`` the kind of object (TABLE), ``name``
    its name with the schema as written, ``sure`` that it was new (create) or that dependents go as well (drop).
    ``new`` is the name that comes: of an index or constraint, after a rename, the schema after a move, of a child that
    is attached; ``partition`` for a table that is one, ``temporary`` for one that ends with its session. ``maybe`` says
    that it need not happen. ``inner`` is what a routine does when it is called.
    """

    what: str
    kind: str = ""
    name: str = ""
    column: str = ""
    new: str = ""
    sure: bool = False
    at: int = 0
    tokens: tuple[Token, ...] = field(default=(), repr=False)
    maybe: bool = False
    inner: tuple[Fact, ...] = field(default=(), repr=False)


def facts(text: str) -> tuple[Fact, ...]:
    """The facts of one statement; offsets are those in ``text``."""
    return tuple(Fact(**made) for made in _statement(tokens(text)))


def facts_of(statement: Statement) -> tuple[Fact, ...]:
    """The same for a statement of a script, whose data is not looked through: an INSERT writes nothing else.

    (Postgres takes no DELETE or UPDATE in a query below the first level.) Anything else that is too large is one fact,
    ``unread``, unless no word in it could lose something.
    """
    text = statement.text
    if statement.head[:1] == ("INSERT",):
        lowered = text.lower()
        moved = [Fact("search-path")] if any(name in lowered for name in _PATH_TEXTS) else []
        called = calls(tokens(text)) if len(text) <= _SMALL and _may_call(lowered) else ()
        return (*moved, *(Fact(**made) for made in called))
    if statement.head[:1] == ("COPY",) and statement.head[1:2] != ("(",):
        return ()
    if len(text) <= LARGEST:
        return facts(text)
    size = f"{len(text) / 1_000_000:.0f} MB"
    return (Fact("search-path", maybe=True), *([Fact("unread", "SIZE", size)] if _HARM.search(text) else ()))


def _may_call(lowered: str) -> bool:
    """Whether an INSERT holds more than values: a query, or a name before a parenthesis. Most hold neither."""
    values = lowered.find("values")
    return "select" in lowered or (values >= 0 and _CALL.search(lowered, values + len("values")) is not None)


def _statement(found: Sequence[Token]) -> Iterator[Made]:
    if not found:
        return
    reader = Reader(found)
    at = found[0].at
    word = reader.peek()
    if word == "CREATE":
        yield from _create(reader, at)
    elif word == "EXPLAIN" or (word == "PREPARE" and reader.peek(1) != "TRANSACTION"):
        yield from (made | {"maybe": True} for made in _statement(_prepared(found)))
    else:
        if _moves_path(found):
            yield {"what": "search-path", "at": at}
        reader.index = 1
        yield from _other(word, reader, at)


def _other(word: str, reader: Reader, at: int) -> Iterator[Made]:
    found = reader.tokens
    match word:
        case "DROP":
            yield from _drop(reader, at)
        case "ALTER":
            yield from _alter(reader, at)
        case "TRUNCATE":
            yield from _truncate(reader, at)
        case "DO":
            yield from body_facts(found, _statement)
        case "ROLLBACK" if reader.peek() == "TO" or reader.peek(1) == "TO":
            yield {"what": "rollback", "at": at}
        case "CALL":
            yield {"what": "call", "kind": "PROCEDURE", "name": reader.name(), "at": at}
            yield from calls(reader.rest())
        case "INSERT":  # Postgres takes no DELETE or UPDATE in its query
            yield from calls(found)
        case "SELECT" | "WITH" | "VALUES" | "(":
            yield from _select_into(found, at)
            yield from calls(found)
            yield from data_facts(found)
        case "DELETE" | "UPDATE" | "MERGE" | "COPY":
            yield from calls(found)
            yield from data_facts(found)


def _prepared(found: Sequence[Token]) -> Sequence[Token]:
    """The statement behind EXPLAIN and its options, or behind PREPARE … AS."""
    if found[0].key == "PREPARE":
        return found[level(found, "AS") + 1 :]
    reader = Reader(found, 1)
    reader.skip_parentheses()
    while reader.one_of("ANALYZE", "VERBOSE"):
        pass
    return reader.rest()


def _moves_path(found: Sequence[Token]) -> bool:
    """Whether unqualified names may mean something else afterwards."""
    first = found[0].key
    if first in ("SET", "RESET"):
        words = {token.name for token in found[1:4] if token.is_name}
        return bool(words & {"search_path", "schema", "role", "all", "authorization"})
    if first == "DISCARD":
        return True
    return first != "ALTER" and any(
        token.is_name and (token.name in _PATH_NAMES or token.key.startswith('U&"')) for token in found
    )


def _create(reader: Reader, at: int) -> Iterator[Made]:
    found = reader.tokens
    reader.take("CREATE")
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
        yield {"what": "create", "kind": kind, "name": reader.name(), "at": at, "sure": not exists}
        return
    name = reader.name()
    made: Made = {"what": "create", "kind": kind, "name": name, "at": at, "sure": not exists and not replace}
    if kind in ("FUNCTION", "PROCEDURE"):
        inner = tuple(Fact(**one) for one in body_facts(found, _statement, called=True))
        yield made | {"inner": inner}
        return
    if modifiers & {"TEMP", "TEMPORARY"}:
        made["new"] = "temporary"
    elif reader.peek() == "PARTITION":
        made["new"] = "partition"
    yield made
    if kind not in ("TABLE", "FOREIGN TABLE"):
        return
    if reader.peek() == "(":
        body, after = inside(reader.tokens, reader.index)
        for item in parts(body):
            yield from table_facts(item, name)
        reader.index = after
    query = reader.tokens[level(reader.tokens, "AS", start=reader.index) + 1 :]
    if _moves_path(query or found[:1]):
        yield {"what": "search-path", "at": at}
    yield from (one | {"maybe": exists} for one in (*calls(query), *data_facts(query)))


def _index(reader: Reader, at: int, *, unique: bool) -> Iterator[Made]:
    reader.take("CONCURRENTLY")
    reader.take("IF", "NOT", "EXISTS")
    name = reader.name() if reader.peek() != "ON" else ""
    if reader.take("ON"):
        kind = "UNIQUE" if unique else ""
        yield {"what": "index", "kind": kind, "name": reader.relation(), "new": name, "at": at}


def _drop(reader: Reader, at: int) -> Iterator[Made]:
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
            yield {"what": "drop", "kind": kind, "name": name, "at": at, "sure": cascade}


def _alter(reader: Reader, at: int) -> Iterator[Made]:
    kind = _kind(reader)
    if kind in _SETTING_ROLES and any(token.is_name and token.name in _PATH_NAMES for token in reader.rest()):
        yield {"what": "default-path", "at": at}
    reader.take("IF", "EXISTS")
    name = reader.relation()
    if kind in _ROUTINES:
        reader.skip_parentheses()
    if reader.take("RENAME"):
        yield from _rename(reader, kind, name, at)
    elif reader.take("SET", "SCHEMA"):
        yield {"what": "move", "kind": kind, "name": name, "new": reader.name(), "at": at}
    elif kind in ("TABLE", "FOREIGN TABLE", "TYPE"):
        for item in parts(reader.rest()):
            yield from column_facts(item, kind, name)
    elif kind == "DOMAIN":
        yield from domain_facts(reader, name, at)


def _rename(reader: Reader, kind: str, name: str, at: int) -> Iterator[Made]:
    what = reader.one_of("CONSTRAINT", "ATTRIBUTE", "VALUE", "COLUMN")
    if reader.take("TO"):
        yield {"what": "rename", "kind": kind, "name": name, "new": reader.name(), "at": at}
        return
    old = reader.tokens[reader.index].text if what == "VALUE" and reader.peek() == "'" else reader.name()
    new = reader.name() if reader.take("TO") else ""
    if what != "CONSTRAINT" and kind in ("TABLE", "FOREIGN TABLE", "VIEW", "MATERIALIZED VIEW", "TYPE"):
        yield {"what": "rename", "kind": what or "COLUMN", "name": name, "column": old, "new": new, "at": at}


def _truncate(reader: Reader, at: int) -> Iterator[Made]:
    reader.take("TABLE")
    rest = reader.rest()
    cascade = any(token.key == "CASCADE" for token in rest)
    for item in parts(rest):
        yield {"what": "truncate", "kind": "TABLE", "name": Reader(item).relation(), "at": at, "sure": cascade}


def _select_into(found: Sequence[Token], at: int) -> Iterator[Made]:
    into, end = level(found, "INTO"), level(found, "FROM")
    if into < end and not any(token.key in ("INSERT", "MERGE") for token in found[:into]):
        reader = Reader(found, into + 1)
        temporary = ""
        while word := reader.one_of("TEMPORARY", "TEMP", "UNLOGGED", "TABLE"):
            temporary = temporary or ("temporary" if word.startswith("TEMP") else "")
        yield {"what": "create", "kind": "TABLE", "name": reader.name(), "new": temporary, "at": at, "sure": True}


def _kind(reader: Reader) -> str:
    for words in _TWO_WORDS:
        if reader.take(*words):
            return " ".join(words)
    kind = reader.peek()
    reader.index += 1
    return kind
