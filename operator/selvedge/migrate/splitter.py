r"""Cut a PostgreSQL script into statements, as psql does, without understanding SQL.

The lexer knows what can hide a semicolon: strings of every kind, quoted identifiers, dollar quotes, nested comments,
parentheses, and the bodies of ``BEGIN ATOMIC … END``. ``COPY … FROM stdin`` takes its data from the lines that follow,
up to ``\.``. It needs no grammar, so a syntax error or the syntax of a newer server passes through to the server, which
explains it better. What only psql could carry out (``\connect``) and what does not end is refused, with its line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NoReturn

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason

HEAD = 64
"""How many words a statement keeps for its classification."""
HEAD_OF_DATA = 8
"""The same for an INSERT, of which everything else is data."""

# Letters, _ and all above ASCII; with digits; and with the dollar. Said by what is left out: a set that names all
# planes takes long to compile.
_IDENT = r"[^\x00-@\[-\^`\{-\x7f]"
_IN_TAG = r"[^\x00-/:-@\[-\^`\{-\x7f]"
_IN_IDENT = r"[^\x00-#%-/:-@\[-\^`\{-\x7f]"
TOKEN = re.compile(
    rf"""
      --[^\r\n]*
    | /\*
    | (?P<escape>[eE]'(?:[^'\\]++|\\.|'')*+')
    | (?P<plain>'(?:[^']++|'')*+')
    | (?P<quoted>"(?:[^"]++|"")*+")
    | (?P<dollar>\$(?:{_IDENT}{_IN_TAG}*+)?\$)
    | (?P<open>[eE]?'|")
    | (?P<word>{_IDENT}{_IN_IDENT}*+)
    | (?P<other>[^\s\w'"$/-]|[0-9][0-9A-Za-z_.]*+|\$[0-9]*+|[/-])
    """,
    re.VERBOSE | re.DOTALL,
)
# Past its first words a statement is looked at for what may hold or hide a semicolon only: many times as fast.
_REST = re.compile(
    rf"(?P<skip>(?:[\s,=<>*+.:|&!?@#%^~`\[\]{{}}0-9]++|{_IDENT}{_IN_IDENT}*+(?!'))++)|" + TOKEN.pattern,
    TOKEN.flags,
)
# An E'' string goes on after a newline, and backslashes still escape there.
CONTINUED = re.compile(
    r"[ \t\f\v]*+(?:--[^\r\n]*)?[\r\n](?:[ \t\r\n\f\v]|--[^\r\n]*[\r\n])*+'(?:[^'\\]++|\\.|'')*+'", re.DOTALL
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_REST_OF_LINE = re.compile(r"[ \t\r]*(?:--[^\r\n]*\r?)?(?:\n|\Z)")
_BLANKS = " \t\n\r\f\v"
"""What the server takes for white space; Python's strip() takes more, of which the rest may end a name."""
_END_OF_DATA = re.compile(r"^\\\.\r?(?:\n|\Z)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement: its text without the semicolon, and the line of the file on which it begins (from 1).

    ``head`` holds its first words in capitals, ``(``, ``)`` and ``.`` between them, quoted identifiers as ``"name"``,
    and a ``'`` for each string. ``data`` is what follows ``COPY … FROM stdin``.
    """

    text: str = field(repr=False)
    line: int
    head: tuple[str, ...]
    data: str | None = field(default=None, repr=False)


def split(text: str, *, file: str = "script", line: int = 1) -> tuple[Statement, ...]:
    """The statements of a script, empty ones left out; ``line`` is the line of the file on which ``text`` begins.

    Raises InvalidError (InvalidMigration) with the line for psql's meta-commands and for what is never closed.
    """
    return _Splitter(text.removeprefix("\ufeff"), file, line).run()


class _Splitter:
    """The state between tokens."""

    def __init__(self, text: str, file: str, line: int) -> None:
        self.text = text
        self.file = file
        self.base = line
        self.found: list[Statement] = []
        self.counted = 0
        self.lines = 0
        self.reset()

    def reset(self) -> None:
        """Forget the statement that just ended."""
        self.start = -1
        self.head: list[str] = []
        self.parens: list[int] = []
        self.body = 0
        self.body_start = 0
        self.routine = False
        self.rest = False
        self.previous = ""
        self.copy_in = False

    def run(self) -> tuple[Statement, ...]:
        text, position = self.text, 0
        while (match := (_REST if self.rest else TOKEN).search(text, position)) is not None:
            kind = match.lastgroup
            at, position = match.span()
            if kind == "skip":
                continue
            if kind is None:
                if text[at] == "/":
                    position = self._comment(at)
                continue
            if kind == "other":
                position = self._other(match[0], at, position)
                continue
            if self.start < 0:
                self.start = at
            if kind == "word":
                self._word(match[0], at)
            elif kind == "dollar":
                position = self._dollar(match[0], at, position)
            elif kind == "open":
                what = "a quoted name" if match[0] == '"' else "a string"
                self._fail(at, f"{what} is not closed; add the {match[0][-1]}")
            else:
                if kind == "escape":
                    while (more := CONTINUED.match(text, position)) is not None:
                        position = more.end()
                self._remember(match[0] if kind == "quoted" else "'")
        self._end()
        return tuple(self.found)

    def _word(self, word: str, at: int) -> None:
        upper = word.upper() if word.isascii() else word
        if not self.parens and self.routine:
            if upper == "ATOMIC" and self.previous == "BEGIN" and not self.body:
                self.body = 1
                self.body_start = at
            elif self.body and upper == "CASE":
                self.body += 1
            elif self.body and upper == "END":
                self.body -= 1
        if not self.parens and self.head and self.head[0] == "COPY":
            self.copy_in = self.copy_in or (upper == "STDIN" and self.previous == "FROM")
        self._remember(upper)

    def _remember(self, token: str) -> None:
        self.previous = token
        known = len(self.head)
        if known < HEAD and not self.rest:
            self.head.append(token)
            if known < 4:
                self.routine = _is_routine(self.head)
            elif known >= HEAD_OF_DATA and self.head[0] == "INSERT":
                self.rest = True
        else:
            self.rest = not self.routine and self.head[0] != "COPY"

    def _other(self, mark: str, at: int, position: int) -> int:
        if mark == "\\":
            command = self.text[at : at + 40].split("\n", 1)[0]
            self._fail(at, f"{command.split()[0]} is a command of psql and no SQL; remove it")
        if mark == ";" and not self.parens and not self.body:
            return self._semicolon(at, position)
        if self.start < 0:
            self.start = at
        if mark == "(":
            self.parens.append(at)
            self._remember(mark)
        elif mark == ".":
            self._remember(mark)
        elif mark == ")":
            if self.parens:
                self.parens.pop()
            self._remember(mark)
        else:
            self.previous = mark
        return position

    def _semicolon(self, at: int, position: int) -> int:
        if self.start < 0:
            return position
        data = None
        line = self._line(self.start)
        if self.copy_in:
            rest = _REST_OF_LINE.match(self.text, position)
            if rest is None:
                self._fail(position, "nothing may follow COPY … FROM stdin; on its line, the data begins on the next")
            end = _END_OF_DATA.search(self.text, rest.end())
            if end is None:
                self._fail(self.start, "the data of COPY … FROM stdin does not end; close it with a line \\.")
            data, position = self.text[rest.end() : end.start()].replace("\r\n", "\n"), end.end()
        self.found.append(Statement(self.text[self.start : at].rstrip(_BLANKS), line, tuple(self.head), data))
        self.reset()
        return position

    def _end(self) -> None:
        if self.start < 0:
            return
        if self.parens:
            self._fail(self.parens[0], "a parenthesis is not closed")
        if self.body:
            self._fail(self.body_start, "BEGIN ATOMIC has no END")
        if self.copy_in:
            self._fail(self.start, "the data of COPY … FROM stdin is missing; it begins after a semicolon")
        text = self.text[self.start :].rstrip(_BLANKS)
        self.found.append(Statement(text, self._line(self.start), tuple(self.head)))

    def _comment(self, at: int) -> int:
        depth, position = 1, at + 2
        while depth:
            edge = _COMMENT_EDGE.search(self.text, position)
            if edge is None:
                self._fail(at, "a comment is not closed")
            depth += 1 if edge[0] == "/*" else -1
            position = edge.end()
        return position

    def _dollar(self, tag: str, at: int, position: int) -> int:
        end = self.text.find(tag, position)
        if end < 0:
            self._fail(at, f"the dollar quote {tag} is not closed")
        self._remember("'")
        return end + len(tag)

    def _line(self, position: int) -> int:
        """Line of a position; counts on from the last one, so that a whole file is counted once."""
        if position < self.counted:
            return self.base + self.text.count("\n", 0, position)
        self.lines += self.text.count("\n", self.counted, position)
        self.counted = position
        return self.base + self.lines

    def _fail(self, at: int, why: str) -> NoReturn:
        raise InvalidError(Reason.INVALID_MIGRATION, f"{self.file}, line {self._line(at)}: {why}")


def _is_routine(head: list[str]) -> bool:
    words = head[:4]
    if words[:1] != ["CREATE"]:
        return False
    words = words[3:4] if words[1:3] == ["OR", "REPLACE"] else words[1:2]
    return words in (["FUNCTION"], ["PROCEDURE"])
