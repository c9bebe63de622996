"""Bodies in SQL and PL/pgSQL: what a DO block runs at once, what a routine runs when it is called, and EXECUTE.

What is behind a condition, in a loop or before an exception counts as done where it loses something, and as not done
where it makes something.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from selvedge.migrate.lint_data import calls
from selvedge.migrate.lint_tables import Made
from selvedge.migrate.tokens import Token, parts, tokens

Read = Callable[[Sequence[Token]], Iterator[Made]]

RUN_TIME = "something named at run time"
"""The name of what an EXECUTE names by a variable."""

_READABLE = {"SQL", "PLPGSQL"}
_BRANCHES = {"THEN", "LOOP", "EXCEPTION", "RETURN", "EXIT", "CONTINUE"}
_ATOMIC = ["BEGIN", "ATOMIC"]
# What a text loses that is put together somewhere else than behind EXECUTE.
_LOSS = re.compile(
    r"\b(?:DROP\s+(?P<drop>TABLE|SCHEMA|DATABASE|SEQUENCE|EXTENSION|OWNED|COLUMN)|(?P<truncate>TRUNCATE)"
    r"|DELETE\s+FROM(?![\s\S]*\bWHERE\b))\b",
    re.IGNORECASE | re.ASCII,
)
_HOLE = re.compile(r"%(?:\d+\$)?-?\d*(?P<what>[sIL])")
_VERBS = {
    *(
        "CREATE",
        "DROP",
        "ALTER",
        "TRUNCATE",
        "DELETE",
        "UPDATE",
        "INSERT",
        "MERGE",
        "WITH",
        "SELECT",
        "GRANT",
        "REVOKE",
    ),
    *(
        "COMMENT",
        "ANALYZE",
        "VACUUM",
        "REINDEX",
        "REFRESH",
        "SET",
        "RESET",
        "NOTIFY",
        "LOCK",
        "CALL",
        "CLUSTER",
        "COPY",
    ),
}


def body_facts(found: Sequence[Token], read: Read, *, called: bool = False) -> Iterator[Made]:
    """Fields of the facts of a DO block or, where it is ``called``, of the statement that creates a routine."""
    language = _language(found) or ("PLPGSQL" if not called else "SQL")
    if language not in _READABLE:
        yield {"what": "unread", "kind": "LANGUAGE", "name": language.lower(), "at": found[0].at}
        return
    atomic = next((at for at in range(1, len(found)) if [one.key for one in found[at - 1 : at + 1]] == _ATOMIC), 0)
    if atomic:
        yield from _statements(found[atomic + 1 :], read, plpgsql=False)
        return
    for token in found:
        if token.key != "'":
            continue
        if token.text[:1] in "eE" and "\\" in token.text:
            yield {"what": "unread", "kind": "LANGUAGE", "name": "a string with escapes", "at": token.at}
        body = token.value
        offset = token.at + token.text.find(body) if body in token.text else token.at
        for made in _statements(tokens(body), read, plpgsql=language == "PLPGSQL"):
            yield made | {"at": made["at"] + offset}


def _language(found: Sequence[Token]) -> str:
    for index, token in enumerate(found[:-1]):
        if token.key == "LANGUAGE":
            after = found[index + 1]
            return (after.value if after.key == "'" else after.name).upper()
    return ""


def _statements(body: Sequence[Token], read: Read, *, plpgsql: bool) -> Iterator[Made]:
    branches = plpgsql and any(token.key in _BRANCHES for token in body)
    unread = False
    for piece in parts(body, ";"):
        for part in _within(piece) if plpgsql else [piece]:
            if not part:
                continue
            if plpgsql and part[0].key == "EXECUTE":
                found = list(_dynamic(part, read))
            elif plpgsql and part[0].key not in _VERBS:
                found = [*read(part), *calls(part)]
            else:
                # a SELECT INTO of PL/pgSQL fills a variable
                selects = plpgsql and part[0].key in ("SELECT", "WITH")
                found = [made for made in read(part) if not (selects and made["what"] == "create")]
            unread = unread or any(made["what"] == "unread" and made["kind"] == "EXECUTE" for made in found)
            yield from (made | {"maybe": branches or made.get("maybe", False)} for made in found)
    if unread:
        yield from _texts(body)


def _texts(body: Sequence[Token]) -> Iterator[Made]:
    """What the texts of a body would lose, of which one is executed that cannot be told."""
    for token in body:
        match = _LOSS.search(token.value) if token.key == "'" else None
        if match is None:
            continue
        made: Made = {"kind": "TABLE", "name": RUN_TIME, "at": token.at}
        kind = (match["drop"] or "").upper()
        if kind == "COLUMN":
            yield made | {"what": "drop-column", "name": "a table", "column": RUN_TIME}
        elif kind:
            yield made | {"what": "drop", "kind": kind}
        else:
            yield made | {"what": "truncate" if match["truncate"] else "delete-all"}


def _within(piece: Sequence[Token]) -> Iterator[Sequence[Token]]:
    """The statement of a piece of PL/pgSQL, without the words that lead to it; and the query that a FOR walks over."""
    start = 0
    while start < len(piece):
        word = piece[start].key
        if word == "<":  # a label
            start = next((at + 2 for at in range(start + 2, len(piece)) if piece[at].key == ">"), len(piece))
        elif word in ("BEGIN", "ELSE", "LOOP", "EXCEPTION", "DECLARE"):
            start += 1
        elif word in ("IF", "ELSIF", "ELSEIF", "WHEN", "CASE", "WHILE"):
            end = _end_of_condition(piece, start + 1, "LOOP" if word == "WHILE" else "THEN")
            yield piece[start + 1 : end]
            start = end + 1
        elif word in ("FOR", "FOREACH"):
            end = _end_of_condition(piece, start + 1, "LOOP")
            query = next((at + 1 for at in range(start, end) if piece[at].key == "IN"), end)
            yield piece[query:end]
            start = end + 1
        elif word == "RETURN" and [token.key for token in piece[start + 1 : start + 2]] == ["QUERY"]:
            start += 2
        else:
            yield piece[start:]
            return


def _end_of_condition(piece: Sequence[Token], start: int, word: str) -> int:
    """Where a condition ends: at the word outside of the CASE … END that it may hold."""
    depth = 0
    for index in range(start, len(piece)):
        key = piece[index].key
        if key == word and depth == 0:
            return index
        depth += (key == "CASE") - (key == "END")
    return len(piece)


def _dynamic(found: Sequence[Token], read: Read) -> Iterator[Made]:
    """What the text of an EXECUTE says as far as it stands there; the rest is a name that is known at run time."""
    at, start = found[0].at, 2 if len(found) > 2 and found[1].key == "(" else 1
    formats = [token.key for token in found[start : start + 2]] == ["FORMAT", "("]
    first = start + 2 * formats
    if len(found) <= first or found[first].key != "'":
        yield {"what": "unread", "kind": "EXECUTE", "at": at}
        return
    text = found[first].value
    if formats:
        text = _HOLE.sub(lambda hole: "''" if hole["what"] == "L" else f'"{RUN_TIME}"', text)
    else:
        end = next((i for i, token in enumerate(found) if i > first and token.key in ("INTO", "USING")), len(found))
        for index in range(first + 1, end):
            # between two texts stands an expression
            if found[index].key == "'" and found[index - 1].key == "|":
                text += found[index].value if found[index].text != "''''" else "'"
            elif found[index].is_name and found[index - 1].key == "|":
                text += f' "{RUN_TIME}" '
    for part in parts(tokens(text), ";"):
        if part[0].key not in _VERBS:
            yield {"what": "unread", "kind": "EXECUTE", "at": at}
            continue
        yield from (one | {"at": found[first].at} for one in read(part))
