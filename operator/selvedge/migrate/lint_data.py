"""DELETE, UPDATE and MERGE without a condition, wherever a statement may hold them: facts, without judgement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from selvedge.migrate.lint_tables import Made
from selvedge.migrate.tokens import Reader, Token, inside

_WRITES = {"DELETE", "UPDATE", "MERGE"}
#: Before these words a name begins or a lock is asked for, and no statement.
_NO_STATEMENT = {"FOR", "DO", "KEY", "ON", "OF", "OR", "SELECT", "DISTINCT", "ALL", "BY", "BEFORE", "AFTER", ",", "."}
_CONSTANT = {"TRUE", "FALSE", "NOT", "AND", "OR", "IS", "NULL", "BOOLEAN", "BOOL", "BETWEEN", "IN"}
_NEVER = (["FALSE"], ["1", "=", "0"], ["0", "=", "1"], ["1", "=", "2"])


def data_facts(found: Sequence[Token]) -> Iterator[Made]:
    """Fields of a fact for each write of every row; one in a WITH counts too, as it runs whatever is selected."""
    for index, token in enumerate(found):
        if token.key not in _WRITES or not _begins(found, index):
            continue
        reader = Reader(found, index + 1)
        _ = reader.take("FROM") or reader.take("INTO")
        table = reader.relation()
        rest = _own_level(reader.rest())
        if not table:
            continue
        made: Made = {"kind": "TABLE", "name": table, "at": token.at, "tokens": rest}
        if token.key == "MERGE":
            yield from _merge(made, rest)
        elif not _has_condition(rest):
            yield made | {"what": f"{token.key.lower()}-all"}


def written(found: Sequence[Token]) -> Iterator[tuple[str, ...]]:
    """The tables that a statement writes rows into, by the parts of their names."""
    for index, token in enumerate(found):
        write = token.key in _WRITES and _begins(found, index)
        insert = token.key == "INSERT" and (not index or found[index - 1].key in ("(", ")"))
        load = token.key == "COPY" and not index
        if write or insert or load:
            reader = Reader(found, index + 1)
            _ = reader.take("FROM") or reader.take("INTO")
            reader.take("ONLY")
            yield reader.identifiers()


def calls(found: Sequence[Token]) -> Iterator[Made]:
    """Fields of a fact for each function that may be called: a name before a parenthesis."""
    for index, token in enumerate(found):
        if token.key != "(" or not index or not found[index - 1].is_name:
            continue
        start = index - 1
        while start >= 2 and found[start - 1].key == "." and found[start - 2].is_name:
            start -= 2
        yield {"what": "call", "kind": "FUNCTION", "name": Reader(found, start).name(), "at": found[start].at}


def level(found: Sequence[Token], *words: str, start: int = 0) -> int:
    """The index of the first of these words outside of parentheses; the number of tokens where none is."""
    depth = 0
    for index in range(start, len(found)):
        key = found[index].key
        depth += (key in ("(", "[")) - (key in (")", "]"))
        if depth == 0 and key in words:
            return index
    return len(found)


def _begins(found: Sequence[Token], index: int) -> bool:
    """Whether a statement begins here. Behind SEARCH and CYCLE, it follows a name."""
    if index == 0 or found[index - 1].key in ("(", ")"):
        return True
    before = found[index - 1]
    searched = any(token.key in ("SEARCH", "CYCLE") for token in found[:index])
    return searched and before.is_name and before.key not in _NO_STATEMENT


def _merge(made: Made, rest: Sequence[Token]) -> Iterator[Made]:
    """What a MERGE deletes without a condition of its own, and what it overwrites whatever its source holds."""
    start = level(rest, "ON")
    end = next((at for at in range(start, len(rest)) if _opens(rest, at)), len(rest))
    everywhere = _always(rest[start + 1 : end])
    for index in range(end, len(rest) - 1):
        if rest[index].key != "THEN" or rest[index + 1].key not in ("DELETE", "UPDATE"):
            continue
        when = max((at for at in range(end, index) if _opens(rest, at)), default=end)
        reader = Reader(rest, when + 1)
        _ = (reader.take("NOT") and reader.take("MATCHED")) or reader.take("MATCHED")
        unmatched = reader.take("BY", "SOURCE")
        if reader.take("AND") and not _always(rest[reader.index : index]):
            continue
        if rest[index + 1].key == "DELETE":
            yield made | {"what": "delete-all", "at": rest[index + 1].at}
        elif unmatched or everywhere:
            yield made | {"what": "update-all", "at": rest[index + 1].at, "tokens": tuple(rest[index + 2 :])}


def _opens(rest: Sequence[Token], at: int) -> bool:
    words = [token.key for token in rest[at : at + 3]]
    return words[:2] == ["WHEN", "MATCHED"] or words == ["WHEN", "NOT", "MATCHED"]


def _own_level(rest: Sequence[Token]) -> tuple[Token, ...]:
    """Up to the parenthesis that closes around the statement."""
    depth = 0
    for index, token in enumerate(rest):
        depth += (token.key == "(") - (token.key == ")")
        if depth < 0:
            return tuple(rest[:index])
    return tuple(rest)


def _has_condition(rest: Sequence[Token]) -> bool:
    where = level(rest, "WHERE")
    if where == len(rest):
        return False
    return not _always(rest[where + 1 : level(rest, "RETURNING", start=where)])


def _always(condition: Sequence[Token]) -> bool:
    """Whether a condition holds for every row, as far as can be read: nothing of a row is in it, or in a side of OR."""
    while condition and condition[0].key == "(" and inside(condition, 0)[1] == len(condition):
        condition = inside(condition, 0)[0]
    pieces, start = [], 0
    while start <= len(condition):
        end = level(condition, "OR", start=start)
        pieces.append(condition[start:end])
        start = end + 1
    return any(_constant(piece) for piece in pieces)


def _constant(piece: Sequence[Token]) -> bool:
    keys = [token.key for token in piece]
    if keys in _NEVER:
        return False
    half = len(keys) // 2
    if len(keys) % 2 and half and keys[half] == "=" and keys[:half] == keys[half + 1 :]:
        return True
    return not any(token.is_name and token.key not in _CONSTANT for token in piece)
