"""The parts of CREATE TABLE and ALTER TABLE: columns and constraints, as fields of facts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from selvedge.migrate.tokens import Reader, Token, inside

Made = dict[str, Any]

_CONSTRAINTS = {"PRIMARY", "UNIQUE", "CHECK", "FOREIGN", "EXCLUDE", "NOT"}
_COLUMN_ENDS = {
    "CONSTRAINT",
    "NOT",
    "NULL",
    "CHECK",
    "DEFAULT",
    "GENERATED",
    "UNIQUE",
    "PRIMARY",
    "REFERENCES",
    "COLLATE",
    "STORAGE",
    "COMPRESSION",
    "DEFERRABLE",
    "INITIALLY",
    "USING",
}
_SERIALS = {"SERIAL", "BIGSERIAL", "SMALLSERIAL", "SERIAL2", "SERIAL4", "SERIAL8"}


def table_facts(item: Sequence[Token], table: str, *, added: bool = False) -> Iterator[Made]:
    """One element between the parentheses of CREATE TABLE, or behind ADD [COLUMN]."""
    reader = Reader(item)
    at = item[0].at
    if reader.take("LIKE"):
        return
    named = reader.name() if reader.take("CONSTRAINT") else ""
    if named or reader.peek() in _CONSTRAINTS:
        yield from _constraint(reader, table, named, at)
        return
    column = reader.name()
    start = reader.index
    while reader.peek() and reader.peek() not in _COLUMN_ENDS:
        if reader.peek() == "(":
            reader.skip_parentheses()
        else:
            reader.index += 1
    kind = tuple(item[start : reader.index])
    rest = [token.key for token in item[reader.index :]]
    required = _has(rest, "NOT", "NULL") or _has(rest, "PRIMARY", "KEY")
    given = "DEFAULT" in rest or "GENERATED" in rest or bool(kind and kind[0].key in _SERIALS)
    yield {
        "what": "add-column" if added else "column",
        "kind": "TABLE",
        "name": table,
        "column": column,
        "sure": required and not given,
        "at": at,
        "tokens": kind,
    }
    yield from _inline(item, reader.index, table, column)


def column_facts(item: Sequence[Token], kind: str, table: str) -> Iterator[Made]:
    """One action of ALTER TABLE, or of ALTER TYPE for a composite type."""
    reader = Reader(item)
    made: Made = {"kind": kind, "name": table, "at": item[0].at}
    if reader.take("ADD"):
        if kind != "TYPE":
            reader.take("COLUMN")
            exists = reader.take("IF", "NOT", "EXISTS")
            yield from (one | {"maybe": exists} for one in table_facts(reader.rest() or item, table, added=True))
    elif reader.take("DROP", "CONSTRAINT"):
        reader.take("IF", "EXISTS")
        if item[-1].key == "CASCADE":
            yield made | {"what": "drop", "kind": "CONSTRAINT", "column": reader.name(), "sure": True}
    elif reader.take("DROP"):
        _ = reader.take("COLUMN") or reader.take("ATTRIBUTE")
        reader.take("IF", "EXISTS")
        yield made | {"what": "drop-column", "column": reader.name()}
    elif reader.take("ALTER"):
        yield from _altered(reader, made)
    elif reader.take("SET", "UNLOGGED"):
        yield made | {"what": "set-unlogged"}
    elif reader.take("DISABLE", "ROW", "LEVEL", "SECURITY") or reader.take("NO", "FORCE", "ROW", "LEVEL", "SECURITY"):
        yield made | {"what": "weaken-row-security"}

    else:
        yield from _parts_of_table(reader, made)


def _altered(reader: Reader, made: Made) -> Iterator[Made]:
    """What happens to one column."""
    _ = reader.take("COLUMN") or reader.take("ATTRIBUTE")
    made["column"] = reader.name()
    if reader.take("SET", "NOT", "NULL"):
        yield made | {"what": "set-not-null"}
    elif reader.take("DROP", "DEFAULT"):
        yield made | {"what": "drop-default"}
    elif reader.take("TYPE") or reader.take("SET", "DATA", "TYPE"):
        yield made | {"what": "change-type", "tokens": reader.rest()}
    elif reader.take("ADD", "GENERATED", "ALWAYS") or reader.take("SET", "GENERATED", "ALWAYS"):
        yield made | {"what": "generate-always"}


def _parts_of_table(reader: Reader, made: Made) -> Iterator[Made]:
    """Tables that become a part of another, or are one no more."""
    if reader.take("ATTACH", "PARTITION"):
        yield made | {"what": "attach", "new": reader.name()}
    elif reader.take("INHERIT"):
        yield made | {"what": "attach", "name": reader.name(), "new": made["name"]}
    elif reader.take("DETACH", "PARTITION"):
        yield made | {"what": "detach", "new": reader.name(), "sure": reader.peek() == "FINALIZE"}


def _inline(item: Sequence[Token], start: int, table: str, column: str) -> Iterator[Made]:
    """The constraints behind a column: a name of theirs, and what they refer to."""
    name = ""
    for index in range(start, len(item)):
        key = item[index].key
        if key == "CONSTRAINT":
            name = Reader(item, index + 1).name()
        elif key == "REFERENCES":
            target = Reader(item, index + 1).name()
            yield _made("foreign-key", table, name, item[index].at, column=column, target=target)
            name = ""
        elif key in ("CHECK", "UNIQUE") or (key == "PRIMARY" and name):
            if name:
                yield _made({"CHECK": "check", "UNIQUE": "unique"}.get(key, "primary-key"), table, name, item[index].at)
            name = ""


def _constraint(reader: Reader, table: str, name: str, at: int) -> Iterator[Made]:
    """A constraint that is no column's own: ``sure``, since it is put on columns that may be there."""
    word = reader.peek()
    if word == "FOREIGN":
        reader.take("FOREIGN", "KEY")
        columns = [token for token in inside(reader.tokens, reader.index)[0] if token.is_name]
        reader.skip_parentheses()
        reader.take("REFERENCES")
        column = columns[0].name if len(columns) == 1 else ""
        yield _made("foreign-key", table, name, at, column=column, target=reader.name()) | {"sure": True}
    elif reader.take("NOT", "NULL"):
        yield {"what": "set-not-null", "kind": "TABLE", "name": table, "column": reader.name(), "at": at}
    elif word in _CONSTRAINTS:
        found = [token.key for token in reader.rest()]
        # an index that is there refuses the same rows already
        refuses = not (word == "UNIQUE" and _has(found, "USING", "INDEX"))
        yield _made({"PRIMARY": "primary-key"}.get(word, word.lower()), table, name, at) | {"sure": refuses}


def domain_facts(reader: Reader, domain: str, at: int) -> Iterator[Made]:
    """One action of ALTER DOMAIN, behind the name."""
    made: Made = {"kind": "DOMAIN", "name": domain, "at": at}
    if reader.take("SET", "NOT", "NULL"):
        yield made | {"what": "set-not-null"}
    elif reader.take("DROP", "DEFAULT"):
        yield made | {"what": "drop-default"}
    elif reader.take("ADD"):
        name = reader.name() if reader.take("CONSTRAINT") else ""
        yield made | {"what": "set-not-null" if reader.peek() == "NOT" else "domain-check", "new": name}


def _made(what: str, table: str, name: str, at: int, *, column: str = "", target: str = "") -> Made:
    """A constraint: ``new`` is its name, ``kind`` the table that a foreign key refers to."""
    return {"what": what, "kind": target, "name": table, "column": column, "new": name, "at": at}


def _has(keys: Sequence[str], *words: str) -> bool:
    size = len(words)
    return any(tuple(keys[index : index + size]) == words for index in range(len(keys) - size + 1))
