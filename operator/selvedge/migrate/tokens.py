"""The tokens of one statement, for rules that look at more than its first words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from selvedge.migrate.splitter import CONTINUED, TOKEN

_COMMENT_EDGE = re.compile(r"/\*|\*/")
_ESCAPED = re.compile(r'[uU]&"')
_DOLLAR = re.compile(r"\$[^$]*\$")


def folded(word: str) -> str:
    """An identifier as the catalogue keeps it: quotes off, or ASCII letters in lower case, and no others."""
    if word.startswith('"'):
        return word[1:-1].replace('""', '"')
    return word.encode().lower().decode()


class Token(NamedTuple):
    """``key`` is a word in capitals, a quoted name as written, ``'`` for a string, or a mark; ``at`` is the offset."""

    key: str
    text: str
    at: int

    @property
    def name(self) -> str:
        """As an identifier: quotes off, or folded to lower case; one with escapes (``U&"…"``) as it is written."""
        if self.key.startswith('"'):
            return self.text[1:-1].replace('""', '"')
        return self.text if self.key.startswith('U&"') else folded(self.text)

    @property
    def is_name(self) -> bool:
        """Whether it can be an identifier: a word or a quoted name. Postgres takes all above ASCII for letters."""
        first = self.key[:1]
        return first in ('"', "_") or first.isalpha() or first > "\x7f"

    @property
    def value(self) -> str:
        """The content of a string, its quotes taken off; escapes stay as they are written."""
        if self.text.startswith("$"):
            tag = _DOLLAR.match(self.text)
            return self.text[tag.end() : -tag.end()] if tag else self.text
        return self.text.lstrip("eE")[1:-1].replace("''", "'")


def tokens(text: str) -> tuple[Token, ...]:
    """The tokens of a statement or of a body in PL/pgSQL, comments left out; ends at what is never closed."""
    found = list(_tokens(text))
    # an identifier with escapes is three tokens that touch each other
    for index in range(len(found) - 3 if _ESCAPED.search(text) else -1, -1, -1):
        if found[index].key == "U" and found[index + 1].key == "&" and found[index + 2].key[0] == '"':
            at, end = found[index].at, found[index + 2].at + len(found[index + 2].text)
            if end - at == len(found[index + 2].text) + 2:
                found[index : index + 3] = [Token("U&" + found[index + 2].key, text[at:end], at)]
    return tuple(found)


def _tokens(text: str) -> Iterator[Token]:
    position = 0
    while (match := TOKEN.search(text, position)) is not None:
        at, position = match.span()
        kind = match.lastgroup
        if kind is None:
            if text[at] == "/":
                end = _comment_end(text, position)
                if end is None:
                    return
                position = end
            continue
        if kind == "open":
            return
        if kind == "dollar":
            end = text.find(match[0], position)
            if end < 0:
                return
            position = end + len(match[0])
            yield Token("'", text[at:position], at)
        elif kind in ("escape", "plain"):
            while kind == "escape" and (more := CONTINUED.match(text, position)) is not None:
                position = more.end()
            yield Token("'", text[at:position], at)
        else:
            yield Token(match[0].upper() if match[0].isascii() and kind == "word" else match[0], match[0], at)


def _comment_end(text: str, position: int) -> int | None:
    depth = 1
    while depth:
        edge = _COMMENT_EDGE.search(text, position)
        if edge is None:
            return None
        depth += 1 if edge[0] == "/*" else -1
        position = edge.end()
    return position


def parts(found: Sequence[Token], mark: str = ",") -> Iterator[tuple[Token, ...]]:
    """Cut at a mark that stands outside of parentheses and brackets; empty parts are left out."""
    depth, begin = 0, 0
    for index, token in enumerate(found):
        if token.key in ("(", "["):
            depth += 1
        elif token.key in (")", "]"):
            depth -= 1
        elif token.key == mark and depth == 0:
            if index > begin:
                yield tuple(found[begin:index])
            begin = index + 1
    if len(found) > begin:
        yield tuple(found[begin:])


def inside(found: Sequence[Token], opening: int) -> tuple[tuple[Token, ...], int]:
    """What stands in the parenthesis that opens at ``opening``, and the index behind its end."""
    depth = 0
    for index in range(opening, len(found)):
        if found[index].key == "(":
            depth += 1
        elif found[index].key == ")":
            depth -= 1
            if depth == 0:
                return tuple(found[opening + 1 : index]), index + 1
    return tuple(found[opening + 1 :]), len(found)


class Reader:
    """Reads tokens from left to right; ``take`` goes on only where all words are there."""

    def __init__(self, found: Sequence[Token], index: int = 0) -> None:
        self.tokens = found
        self.index = index

    def peek(self, ahead: int = 0) -> str:
        """The key of a token to come; empty behind the end."""
        at = self.index + ahead
        return self.tokens[at].key if at < len(self.tokens) else ""

    def take(self, *words: str) -> bool:
        """Go past these words if they are the next."""
        if all(self.peek(ahead) == word for ahead, word in enumerate(words)):
            self.index += len(words)
            return True
        return False

    def one_of(self, *words: str) -> str:
        """Go past one of these words and say which; empty if none is next."""
        word = self.peek()
        if word in words:
            self.index += 1
            return word
        return ""

    def name(self) -> str:
        """A name with its schema: ``shop.orders``; parts that hold a dot or a quote keep their quotes. May be empty."""
        return ".".join(f'"{part}"' if "." in part or '"' in part else part for part in self.identifiers())

    def identifiers(self) -> tuple[str, ...]:
        """The same part by part, as the catalogue has them."""
        found = []
        while self.index < len(self.tokens) and self.tokens[self.index].is_name:
            found.append(self.tokens[self.index].name)
            self.index += 1
            if not self.take("."):
                break
        return tuple(found)

    def relation(self) -> str:
        """The name of a table as statements write it: ``ONLY t``, ``ONLY (t)``, ``t *``. May be empty."""
        opened = self.take("ONLY", "(") or (self.take("ONLY") and False)
        name = self.name()
        _ = self.take(")") if opened else self.take("*")
        return name

    def skip_parentheses(self) -> None:
        """Go past a parenthesis if one is next."""
        if self.peek() == "(":
            self.index = inside(self.tokens, self.index)[1]

    def rest(self) -> tuple[Token, ...]:
        """Everything from here on."""
        return tuple(self.tokens[self.index :])
