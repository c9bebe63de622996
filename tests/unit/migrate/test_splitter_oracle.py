"""The splitter beside libpg_query, Postgres' own parser: on generated texts, broken ones, and whole directories.

``SELVEDGE_MIGRATIONS_CORPUS`` names a directory: every SQL file below it is split by both.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import postgast
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selvedge.core.errors import InvalidError
from selvedge.migrate.load import load
from selvedge.migrate.splitter import Statement, split
from tests.migrations_generator import generate

ROOT = Path(__file__).resolve().parents[3]
CORPUS = Path(os.environ.get("SELVEDGE_MIGRATIONS_CORPUS") or ROOT / "migrations")


def oracle(text: str) -> list[list[str]] | None:
    """The statements as the parser sees them, each as its tokens; None where it refuses the text."""
    try:
        return significant(postgast.split(text, method="parser"))
    except postgast.PgQueryError:
        return None


def significant(pieces: list[str]) -> list[list[str]]:
    """The tokens of each piece without comments: the parser counts those around a statement to it, and we do not."""
    return [tokens for piece in pieces if (tokens := _tokens(piece))]


def _tokens(piece: str) -> list[str]:
    content = piece.encode()
    comments = (postgast.pg_query_pb2.SQL_COMMENT, postgast.pg_query_pb2.C_COMMENT)
    found = postgast.scan(piece).tokens
    return [content[token.start : token.end].decode() for token in found if token.token not in comments]


NAMES = st.sampled_from(["a", "b$c", "ä", '"x;y"', '"q""r"', "e", "u"])
VALUES = st.one_of(
    st.text(alphabet="a;'-/*$\\\n\"E ", max_size=12).map(lambda text: "'" + text.replace("'", "''") + "'"),
    st.text(alphabet='a;-/*$\n"E ', max_size=12).map(lambda text: "E'" + text + "\\';'"),
    st.sampled_from(["\n", " -- a '\n  ", "\r\n"]).map(lambda blank: f"E'a;'{blank}'\\';b'"),
    st.tuples(st.sampled_from(["", "x", "ä", "_1"]), st.text(alphabet="a;'-/*\n\"E ", max_size=12)).map(
        lambda pair: f"${pair[0]}${pair[1]}${pair[0]}$"
    ),
    st.integers(0, 99).map(str),
)
SPACES = st.sampled_from([" ", "\n", "\t", " -- c; '\n", " /* ; /* ' */ $$ */ ", "\r\n", "  "])


@st.composite
def statements(draw: st.DrawFn) -> str:
    space = lambda: draw(SPACES)  # noqa: E731 - a word for what is drawn
    kind = draw(st.integers(0, 5))
    value, name = draw(VALUES), draw(NAMES)
    if kind == 0:
        return f"SELECT{space()}{value}{space()}AS{space()}{name}"
    if kind == 1:
        return f"INSERT INTO t VALUES{space()}({value},{space()}{draw(VALUES)})"
    if kind == 2:
        return f"CREATE FUNCTION{space()}f({name} int) RETURNS int LANGUAGE plpgsql AS{space()}{value}"
    if kind == 3:
        body = f"SELECT {value};{space()}SELECT CASE WHEN true THEN 1 END;{space()}"
        return f"CREATE FUNCTION f() RETURNS int{space()}BEGIN{space()}ATOMIC{space()}{body}END"
    if kind == 4:
        return f"CREATE RULE r AS ON INSERT TO t DO ALSO{space()}(DELETE FROM a;{space()}DELETE FROM b)"
    return f"COMMENT ON TABLE t{space()}IS{space()}'x'{space()}"


@given(st.lists(st.tuples(statements(), SPACES), max_size=6))
def test_agrees_with_the_real_parser(parts: list[tuple[str, str]]) -> None:
    text = "".join(f"{space}{statement}{space};" for statement, space in parts)
    expected = oracle(text)
    if expected is not None:
        assert significant([one.text for one in split(text)]) == expected


@given(st.text(alphabet="a;'\"$()-/*\\\nE BEGIN", max_size=60))
def test_never_fails_otherwise(text: str) -> None:
    try:
        found = split(text)
    except InvalidError as error:
        assert "line " in str(error)  # noqa: PT017 - it need not be raised
        return
    for one in found:
        assert one.text in text
        assert one.line >= 1


@given(
    st.lists(st.tuples(statements(), SPACES), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 10_000), st.sampled_from([*"'\"$;()-*/\\E\n\r e", "$$", "begin", "end", ""]))),
)
def test_fuzzed_texts_never_split_differently(parts: list[tuple[str, str]], mutations: list[tuple[int, str]]) -> None:
    """Pieces put in and characters taken out: where the parser still takes the text, both see the same statements."""
    text = "".join(f"{space}{statement}{space};" for statement, space in parts)
    for place, piece in mutations:
        at = place % (len(text) + 1)
        text = text[:at] + piece + text[at + (not piece) :]
    expected = oracle(text)
    try:
        found = split(text)
    except InvalidError as error:
        # psql's commands are refused, and nothing else that the parser takes
        assert expected is None or "command of psql" in str(error)  # noqa: PT017 - it need not be raised
        return
    if expected is not None:
        assert significant([one.text for one in found]) == expected


def test_generated_migrations() -> None:
    compared = 0
    for migration in load(generate(250, seed=3)):
        found = split(migration.up)
        expected = oracle(_without_data(migration.up, found))
        assert expected is not None, migration.file
        assert significant([one.text for one in found]) == expected, migration.file
        compared += len(found)
    assert compared > 800


def corpus() -> list[Path]:
    return sorted(path for path in CORPUS.rglob("*.sql") if path.is_file())


def test_the_corpus() -> None:
    """Every file that the parser takes is split as it splits it; data of COPY is taken out first."""
    files = corpus()
    assert files, f"{CORPUS} holds no SQL files"
    compared, refused, wrong = 0, [], []
    for path in files:
        text = path.read_bytes().decode("utf-8-sig", "replace").replace("\r\n", "\n")
        try:
            found = split(text, file=str(path))
        except InvalidError as error:
            if oracle(text) is not None:
                refused.append(str(error))
            continue
        expected = oracle(_without_data(text, found))
        if expected is None:
            continue
        compared += 1
        if significant([one.text for one in found]) != expected:
            wrong.append(str(path))
    print(f"\n{len(files)} files, {compared} compared with the parser")
    assert not wrong
    assert not [error for error in refused if "command of psql" not in error]


def _without_data(text: str, found: tuple[Statement, ...]) -> str:
    for one in found:
        if one.data is not None:
            text = text.replace(f"{one.data}\\.", "", 1)
    return text


@pytest.mark.parametrize("seed", range(20))
def test_a_cut_file_is_refused_or_split_as_before(seed: int) -> None:
    """A file that was not written to its end never yields a statement that the whole file does not begin with."""
    choice = random.Random(seed)
    path = choice.choice(sorted((ROOT / "migrations" / "postgres").glob("*.sql")))
    text = path.read_text()
    whole = split(text)
    try:
        found = split(text[: choice.randrange(len(text))])
    except InvalidError as error:
        assert "line " in str(error)  # noqa: PT017 - it need not be raised
        return
    if found:
        assert [one.text for one in found[:-1]] == [one.text for one in whole[: len(found) - 1]]
        assert whole[len(found) - 1].text.startswith(found[-1].text.rstrip("-/"))
