"""Our lexer of expressions against the server's own, on generated texts.

PL/pgSQL reads a condition with the server's lexer up to THEN, refuses a semicolon and parentheses that do not pair in
it, and looks at its grammar only when it is run, with ``check_function_bodies`` off. So a block whose last statement
raises a mark says of a text that the server's lexer finds a whole in it: between parentheses, it leaves what follows
alone.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql

from selvedge.core.postgres.expression import refusal

if TYPE_CHECKING:
    from sandbox import PostgresEndpoint

pytestmark = pytest.mark.engines

TEXTS, LONG_TEXTS = 4_000, 60_000
#: What begins, ends, hides or joins strings, comments and names, in the ASCII that the server knows and beyond.
PIECES = (
    "'", "'", "''", "E'", "e'", "'\n'", "'\r\n '", "' -- it's\n'", "' --\r\n--'\n\t'", "' \n-- x\n'", "' /* x */\n'",
    "\\'", "\\", "\\\\", "\n", "\r", "\t", "\f", "\v", " ", "U&'", "b'", "N'", '"', '""', 'U&"', "--", "/*", "*/",
    "/*/", "*", "/", "-", "+", "$$", "$a$", "$é$", "$\U0001f600$", "$\U0001f600", "$", "$1", "(", ")", ";", "a", "E",
    "_", "1", "1.", "0x", "&", "::", ".", "\u00a0", "\u0085", "\u2003", "\u3000", "\x1c", "\x1f", "é", "ſ",
    "\uffff", "\U0001f600", "\U0010fffd",
)  # fmt: skip
#: What the server finds fault with inside of a token that ends where it does for us.
_FAULTS = (
    "trailing junk", "invalid Unicode", "invalid hexadecimal", "invalid octal", "invalid binary", "zero-length",
    "UESCAPE", "identifier too long", "is not a valid binary digit", "is not a valid hexadecimal digit",
    "invalid byte sequence", "invalid hexadecimal digit", "invalid symbol",
)  # fmt: skip
#: What the server's lexer lets through, and no expression holds.
_STRICTER = ("parameter", "is empty", "backslash")
_BLOCK = "BEGIN IF false THEN IF {}\n THEN NULL; END IF; END IF; RAISE EXCEPTION SQLSTATE 'MARKD'; END"


def generated(chance: random.Random) -> str:
    """A text of a few pieces; every second one has all its quotes closed by chance more often."""
    pieces = chance.choices(PIECES, k=chance.randint(1, 9))
    if chance.random() < 0.5:
        pieces.append(chance.choice(("'", "')", "\n'", "$$", '"', "*/")))
    return "".join(pieces)


def verdict(connection: psycopg.Connection[object], text: str) -> str:
    """What the server makes of it: empty where it is a whole, else its message."""
    block = sql.SQL("DO {}").format(sql.Literal(_BLOCK.replace("{}", text)))
    try:
        connection.execute(block)
    except psycopg.Error as error:
        return "" if error.sqlstate == "MARKD" else error.diag.message_primary or str(error)
    raise AssertionError(f"{text!r} ended the block before its mark")


def test_a_text_ends_where_it_ends_for_the_server(postgres: PostgresEndpoint, request: pytest.FixtureRequest) -> None:
    """What we let through ends nothing for the server, and what is a whole for the server is not refused."""
    seed = int(os.environ.get("SELVEDGE_SEED") or random.randrange(2**32))
    print(f"SELVEDGE_SEED={seed}")
    chance = random.Random(seed)
    let_through = 0
    with postgres.connect() as connection:
        connection.autocommit = True
        connection.execute("SET check_function_bodies = off; SET standard_conforming_strings = on")
        connection.execute("SET client_min_messages = error")
        for _ in range(LONG_TEXTS if request.config.getoption("--long") else TEXTS):
            text = generated(chance)
            ours, theirs = refusal(text), verdict(connection, text)
            if not ours:
                let_through += 1
                assert theirs == "" or any(fault in theirs for fault in _FAULTS), (text, theirs)
            elif theirs == "":
                assert any(word in ours for word in _STRICTER), (text, ours)
    assert let_through > TEXTS // 10


@pytest.mark.parametrize(
    "text",
    [
        "E'a'\n'b\\') or ('c'",
        "E'a''\\'",
        "0x1.E'\\' || ') or (1 = 1) --'",
        "1..E'\\' || ') or (1 = 1) --'",
        ".1._$a$) or (1 = 1 or _$a$",
        "...1._$a$) or (1 = 1 or _$a$",
        "1e5.E'\\' || ') or (1 = 1) --'",
        "\u00a0E'\\') or ('c'",
        "\u2003E'\\') or ('c",
        "$\U0001f600$ ' $\U0001f600$ or ($$ ' $$)",
    ],
)
def test_what_was_read_otherwise_once(postgres: PostgresEndpoint, text: str) -> None:
    with postgres.connect() as connection:
        connection.autocommit = True
        connection.execute("SET check_function_bodies = off")
        assert (refusal(text) == "") is (verdict(connection, text) == "")
