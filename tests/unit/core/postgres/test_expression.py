"""One expression and nothing more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selvedge.core.postgres.expression import called_for_each_row, refusal, tokens


@pytest.mark.parametrize(
    "text",
    [
        "true",
        "id = (select nullif(current_setting('app.x', true), '')::uuid)",
        "name = 'a;b' or name = $$;$$ or name = $x$ ); $$ $x$ -- ) ;",
        "/* ; ( /* nested ) */ */ a[1] = (b)",
        "E'\\'' = '''' and \"we;ird)\" is null",
        "U&'\\0041' <> b'01' and x'1F' is not null",
        "a$b = 1 and 1.5e3 > 0",
        "'one'\n'two' = c",
        "a @> '{\"x\": [1, 2]}'::jsonb",
        "a = E'one' -- it's\n\t'two\\') or (\\'' and b",
        "$\U0001f600$;'$\U0001f600$ = a",
        "\U0001f600 = 1",
    ],
)
def test_expressions(text: str) -> None:
    assert refusal(text) == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        (" /* x */ -- y", "empty"),
        ("a); drop table b", "closes what was never opened"),
        ("a;", "semicolon"),
        ("(a", "not closed"),
        ("(a]", "closes what was never opened"),
        ("'a", "not closed"),
        ("E'\\'", "not closed"),
        ('"a', "not closed"),
        ("$a$ $b$", "not closed"),
        ("/* /* */", "not closed"),
        ("a = $1", "parameter"),
        ("1 = 1 --\n) with check (true", "closes what was never opened"),
        ("'a' --\r) with check (true", "closes what was never opened"),
        ("E'a'\n'b\\') or ('c'", "not closed"),
        ("E'a' -- x\r\n-- y\n 'b\\'", "not closed"),
        ("E'a' /* x */\n'b') or (c", "closes what was never opened"),
        ("E'a''\\'", "not closed"),
        ("\u00a0E'\\''", "not closed"),
        ("\u2003E'\\''", "not closed"),
        ("\U0001f600E'\\''", "not closed"),
        ("$\U0001f600$ ' $\U0001f600", "not closed"),
        ("a\\b", "backslash"),
        ('a = ""', "without a character"),
        ("true\0", "NUL"),
        ("'\ud800'", "surrogate"),
    ],
)
def test_what_is_none(text: str, why: str) -> None:
    assert why in refusal(text)


@given(st.text(alphabet="ab'\"\\$();-/* \n\r[]eEuU&1", max_size=40))
def test_what_is_let_through_is_a_whole_in_any_place(text: str) -> None:
    """Between parentheses, with a line's end behind it, an accepted text leaves what follows alone."""
    if refusal(text):
        return
    around = f"({text}\n) after"
    assert refusal(around) == ""
    found = list(tokens(around))
    assert [(token.kind, token.text) for token in found[-3:]] == [("close", ")"), ("space", " "), ("word", "after")]


@pytest.mark.parametrize(
    ("text", "each"),
    [
        ("(id = (current_setting('app.x'::text))::uuid)", True),
        ("(id = ( SELECT (NULLIF(current_setting('app.x'::text, true), ''::text))::uuid AS \"nullif\"))", False),
        ("((id = ( SELECT current_setting('a'::text))) OR (b = current_setting('b'::text)))", True),
        ("(name = 'current_setting('::text)", False),
        ("(id = shared.tenant())", False),
    ],
)
def test_settings_that_are_read_for_each_row(text: str, each: bool) -> None:
    assert called_for_each_row(text) is each
