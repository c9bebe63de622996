"""SQL expressions of a declaration: whether a text is one expression and nothing more, and what it calls for each row.

A policy's expression is put between parentheses into a statement. What is lexed here begins and ends where it does for
the server (``scan.l`` of Postgres 15 to 18, with ``standard_conforming_strings`` on, as every session pins it), so that
a text which would end the parentheses, the statement or the rest of the line is refused before it reaches a server.
Texts in which the server finds a fault of its own, such as a number with letters behind it, may be let through.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# White space is these six and nothing else: every character beyond ASCII, a no-break space among them, is a letter. A
# vertical tab is white space from Postgres 16 on; 15 takes it for a fault, so nothing can hide behind the difference.
# A number takes no letter that may begin a string: 0x1.E'' and 1..E'' are a number, dots and an E'' string;
# .1._$a$ is a number, a dot and a name.
# Quoted texts are possessive: where one has no end, its beginning is not to be taken for a shorter one.
_TOKEN = re.compile(
    r"""(?P<space>[ \t\n\r\f\v]+)
    | (?P<line>--[^\r\n]*)
    | (?P<block>/\*)
    | (?P<tag>\$(?:[A-Za-z_\u0080-\U0010ffff][A-Za-z0-9_\u0080-\U0010ffff]*)?\$)
    | (?P<escaped>[eE]'(?:[^'\\]|''|\\.)*+')
    | (?P<unicode>[uU]&'(?:[^']|'')*+')
    | (?P<text>'(?:[^']|'')*+')
    | (?P<name>"(?:[^"]|"")++")
    | (?P<word>(?![eE]')[A-Za-z_\u0080-\U0010ffff][A-Za-z0-9_$\u0080-\U0010ffff]*)
    | (?P<parameter>\$[0-9]+)
    | (?P<number>0[xXoObB][0-9A-Za-z_]*|(?:[0-9][0-9_]*(?:\.(?!\.)[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9]+)?)
    | (?P<open>[(\[])
    | (?P<close>[)\]])
    | (?P<end>;)
    | (?P<other>\.\.|(?![eE]')[^'"\\])""",
    re.VERBOSE | re.DOTALL,
)
#: A string goes on behind white space with a line's end in it, and in an ``E''`` string so do the backslashes.
_CONTINUED = re.compile(
    r"""(?:[ \t\f\v]|--[^\r\n]*+)*+[\r\n](?:[ \t\n\r\f\v]|--[^\r\n]*+[\r\n])*+'(?P<rest>(?:[^'\\]|''|\\.)*+')?""",
    re.VERBOSE | re.DOTALL,
)
_PAIRS = {")": "(", "]": "["}


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of SQL: ``kind`` as in the lexer's groups, and where it begins."""

    kind: str
    text: str
    start: int


class _UnendedError(ValueError):
    """A quote, a comment or a dollar quote that does not end."""


def tokens(text: str) -> Iterator[Token]:
    """The tokens of a text, comments and white space among them. Raises ValueError with what does not end."""
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise _UnendedError(_no_token(text, position))
        kind, end = str(match.lastgroup), match.end()
        if kind == "block":
            end = _comment_end(text, position)
        elif kind == "tag":
            closing = text.find(match.group(), end)
            if closing < 0:
                raise _UnendedError(f"{match.group()} at character {position + 1} is not closed")
            end = closing + len(match.group())
        elif kind == "escaped":
            end = _string_end(text, end)
        yield Token(kind, text[position:end], position)
        position = end


def _no_token(text: str, position: int) -> str:
    """Why nothing begins here."""
    if text[position] == "\\":
        return f"a backslash stands outside of a string at character {position + 1}"
    if text.startswith('""', position):
        return f"a name without a character stands at character {position + 1}"
    return f"{text[position]} at character {position + 1} is not closed"


def _string_end(text: str, end: int) -> int:
    """Where an ``E''`` string ends, whose first part ends at ``end``."""
    while (match := _CONTINUED.match(text, end)) is not None:
        if match["rest"] is None:
            raise _UnendedError(f"' at character {match.end()} is not closed")
        end = match.end()
    return end


def _comment_end(text: str, start: int) -> int:
    """Where a block comment ends; they nest."""
    depth, position = 0, start
    for match in re.compile(r"/\*|\*/").finditer(text, start):
        if match.start() < position:
            continue  # the star of /*/ belongs to its beginning
        depth += 1 if match.group() == "/*" else -1
        position = match.end()
        if depth == 0:
            return position
    raise _UnendedError(f"the comment at character {start + 1} is not closed")


def refusal(text: str) -> str:
    """Why the text is not one SQL expression by itself; empty when it is.

    Says nothing about names and types: those the server knows.
    """
    opened: list[str] = []
    meaning = False
    if "\0" in text or (not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text)):
        return "it holds a NUL or half of a surrogate pair, which no server takes"
    try:
        for token in tokens(text):
            if token.kind == "end":
                return f"a semicolon stands at character {token.start + 1}: an expression is no statement"
            if token.kind == "parameter":
                return f"{token.text} at character {token.start + 1} is a parameter, and nothing gives it a value"
            if token.kind == "open":
                opened.append(token.text)
            elif token.kind == "close" and (not opened or opened.pop() != _PAIRS[token.text]):
                return f"{token.text} at character {token.start + 1} closes what was never opened"
            meaning = meaning or token.kind not in ("space", "line", "block")
    except _UnendedError as error:
        return str(error)
    if opened:
        return f"{opened[-1]} is not closed"
    return "" if meaning else "the expression is empty"


def called_for_each_row(text: str, function: str = "current_setting") -> bool:
    """Whether the server's own text of an expression calls the function outside of a sub-SELECT.

    Inside of one it is called once for a statement, otherwise once for each row that is looked at.
    """
    selects: list[bool] = []
    before: Token | None = None
    name: Token | None = None
    for token in tokens(text):
        if token.kind in ("space", "line", "block"):
            continue
        if token.kind == "open":
            if token.text == "(" and name is not None and name.text == function and not any(selects):
                return True
            selects.append(False)
        elif token.kind == "close" and selects:
            selects.pop()
        elif token.kind == "word" and token.text.upper() == "SELECT" and before is not None and before.text == "(":
            selects[-1] = True
        name = token if token.kind == "word" else None
        before = token
    return False
