"""The splitter by psql's rules, case by case."""

from __future__ import annotations

import time

import pytest

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason
from selvedge.migrate.splitter import split

CASES = {
    "two": ("select 1; select 2", ["select 1", "select 2"]),
    "empty ones": (";; select 1;\n;", ["select 1"]),
    "nothing": ("  -- only a comment\n/* and another; */", []),
    "string": ("select 'a;b'; select 2", ["select 'a;b'", "select 2"]),
    "doubled quote": ("select 'it''s;'; select 2", ["select 'it''s;'", "select 2"]),
    "no escapes in a plain string": (r"select 'a\'; select 2", [r"select 'a\'", "select 2"]),
    "escapes": (r"select E'a\';b'; select 2", [r"select E'a\';b'", "select 2"]),
    "escapes go on": ("select E'a'\n  'b\\';c'; select 2", ["select E'a'\n  'b\\';c'", "select 2"]),
    "escapes go on over a comment": ("select e'a' -- x\n'\\';'; select 2", ["select e'a' -- x\n'\\';'", "select 2"]),
    "a name that ends in e": (r"select type'a\'; select 2", [r"select type'a\'", "select 2"]),
    "unicode, bit and hex strings": (
        r"select U&'\0041;', B'1', X'f;'; select 2",
        [r"select U&'\0041;', B'1', X'f;'", "select 2"],
    ),
    "quoted name": ('select 1 as "a;""b"; select 2', ['select 1 as "a;""b"', "select 2"]),
    "dollar quote": ("select $$a;b$$; select 2", ["select $$a;b$$", "select 2"]),
    "tagged": ("select $x$ $$;$y$; $x$; select 2", ["select $x$ $$;$y$; $x$", "select 2"]),
    "tag beyond ASCII": ("select $ä$;$ä$; select 2", ["select $ä$;$ä$", "select 2"]),
    "dollars in a name": ("select foo$bar$; select baz$bar$", ["select foo$bar$", "select baz$bar$"]),
    "parameters": ("prepare p as select $1; select 2", ["prepare p as select $1", "select 2"]),
    "nested comment": ("select /* a /* b; */ ; */ 1; select 2", ["select /* a /* b; */ ; */ 1", "select 2"]),
    "line comment": ("select 1 -- a; b '\n; select 2", ["select 1 -- a; b '", "select 2"]),
    "operator with a slash": ("select 6 */ 2; select 2", ["select 6 */ 2", "select 2"]),
    "rule": (
        "create rule r as on insert to t do (delete from a; delete from b); select 2",
        ["create rule r as on insert to t do (delete from a; delete from b)", "select 2"],
    ),
    "begin atomic": (
        "create function f() returns int begin atomic select 1; select case when true then 1 else 2 end; end; select 2",
        [
            "create function f() returns int begin atomic select 1; select case when true then 1 else 2 end; end",
            "select 2",
        ],
    ),
    "or replace procedure": (
        "create or replace procedure p() begin /* x */ atomic delete from a; delete from b; end; select 2",
        ["create or replace procedure p() begin /* x */ atomic delete from a; delete from b; end", "select 2"],
    ),
    "an argument named begin": (
        "create function f(begin int) returns int language sql as 'select 1'; select 2",
        ["create function f(begin int) returns int language sql as 'select 1'", "select 2"],
    ),
    "begin of a transaction": ("begin; select 1; end; select 2", ["begin", "select 1", "end", "select 2"]),
    "byte order mark and CRLF": ("\ufeffselect 1;\r\nselect 2;\r\n", ["select 1", "select 2"]),
    "syntax error": ("selec 1; select 2", ["selec 1", "select 2"]),
    "carriage returns end a comment": ("select 1 -- a\rselect 2;\rselect 3", ["select 1 -- a\rselect 2", "select 3"]),
    "blanks beyond ASCII belong to names": ("select 1 as a\u00a0; select 2", ["select 1 as a\u00a0", "select 2"]),
    "a closing parenthesis too many": ("select 1); select 2", ["select 1)", "select 2"]),
    "past the first words": (
        "insert into t values " + "(1, e'\\';', 'a;b', $$;$$, x /* ; */), " * 30 + "(2) -- ;\n; select 2",
        ["insert into t values " + "(1, e'\\';', 'a;b', $$;$$, x /* ; */), " * 30 + "(2) -- ;", "select 2"],
    ),
    "case and end in parentheses of a body": (
        "create function f() returns int begin atomic select (case when true then 1 end); end; select 2",
        ["create function f() returns int begin atomic select (case when true then 1 end); end", "select 2"],
    ),
    "array slices and casts": ("select a[1:2]::int[]; select 2", ["select a[1:2]::int[]", "select 2"]),
}


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES.keys())
def test_split(text: str, expected: list[str]) -> None:
    assert [statement.text for statement in split(text)] == expected


REFUSED = {
    "meta-command": ("select 1;\n\\connect other\n", 2, "\\connect is a command of psql"),
    "pg_dump's": ("\\restrict abc\nselect 1;", 1, "\\restrict"),
    "string": ("select 1;\nselect 'a;\n", 2, "a string is not closed"),
    "escape string": ("select 1;\n\nselect E'a\\';", 3, "a string is not closed"),
    "name": ('select "a', 1, "a quoted name is not closed"),
    "dollar": ("\nselect $a$ $$", 2, "the dollar quote $a$ is not closed"),
    "comment": ("/* a /* b */", 1, "a comment is not closed"),
    "parenthesis": ("create table t (\n a int;\n", 1, "a parenthesis is not closed"),
    "atomic": ("create function f() returns int\nbegin atomic select 1;", 2, "BEGIN ATOMIC has no END"),
    "copy": ("select 1;\ncopy t from stdin;\n1\n", 2, "does not end"),
    "copy and more": ("copy t from stdin; select 1;\n\\.\n", 1, "nothing may follow"),
    "copy without data": ("copy t from stdin", 1, "the data of COPY"),
}


@pytest.mark.parametrize(("text", "line", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_with_its_line(text: str, line: int, why: str) -> None:
    with pytest.raises(InvalidError) as error:
        split(text, file="x.sql")
    assert error.value.reason is Reason.INVALID_MIGRATION
    assert str(error.value).startswith(f"x.sql, line {line}: ")
    assert why in str(error.value)


def test_copy_data() -> None:
    found = split("copy t (a, b) from stdin with (format csv); -- data\n1,';'\n\\N,--\n\\.\nselect 2;\n")
    assert [(one.text, one.data, one.line) for one in found] == [
        ("copy t (a, b) from stdin with (format csv)", "1,';'\n\\N,--\n", 1),
        ("select 2", None, 5),
    ]


def test_copy_from_a_file_has_no_data() -> None:
    assert [one.data for one in split("copy t from '/stdin'; select 1 from stdin;")] == [None, None]


def test_lines() -> None:
    found = split("-- a\n\nselect 1;\n/* b\n*/ select\n2;select 3", line=10)
    assert [one.line for one in found] == [12, 14, 15]


def test_head() -> None:
    (statement,) = split("create /* x */ unique index concurrently \"My ix\" on shop.t (a, 'b') where c > 1")
    assert " ".join(statement.head) == 'CREATE UNIQUE INDEX CONCURRENTLY "My ix" ON SHOP . T ( A \' ) WHERE C'


def test_a_large_file_splits_fast() -> None:
    text = "INSERT INTO t (a, b) VALUES (1, 'some; text'), (2, $$more; text$$); -- comment\n" * 40_000
    started = time.process_time()
    assert len(split(text)) == 40_000
    assert time.process_time() - started < 5  # a gate against quadratic behaviour, not a benchmark


def test_a_line_of_ten_megabytes() -> None:
    text = "SELECT '" + "x" * 10_000_000 + "'; SELECT 2"
    assert len(split(text)) == 2
