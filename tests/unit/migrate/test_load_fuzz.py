"""Whatever lies in a directory: migrations, or one error that says which file and what to do. Nothing else."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from selvedge.core.errors import InvalidError
from selvedge.migrate import load
from selvedge.migrate.files import decode
from selvedge.migrate.lint import lint

PIECES = (
    *(
        "-- migrate:up",
        "-- migrate:down",
        "-- +goose Up",
        "-- +goose Down",
        "-- +goose NO TRANSACTION",
        "-- +migrate Up",
    ),
    *("-- lock-timeout: 2s", "-- transaction: false", "-- allow: drop-table x, y", "-- irreversible", "-- env: a, b"),
    *("-- requires-version: >=16", "-- env:", "-- allow: ,", "SELECT 1;", "DROP TABLE a;", "'", "$$", "/*", "BEGIN;"),
    *("COMMIT;", "COPY t FROM stdin;", "\\.", "\r", "\t", "", "\ufeff", "CREATE INDEX CONCURRENTLY i ON t (a);", "é ×"),
)
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=8)), max_size=8).map("\n".join)
STEMS = st.lists(
    st.sampled_from(
        ["1", "20240101120000", "2024-01-01-120000", "_a", "__", "R__", "/", "up", "down", ".", "seeds", "é"]
    ),
    max_size=5,
).map("".join)
NAMES = st.tuples(STEMS, st.sampled_from([".sql", ".up.sql", ".down.sql", "/up.sql", "/down.sql", ".json", ".go"])).map(
    "".join
)


@given(st.dictionaries(NAMES, TEXTS, max_size=4))
def test_any_files(files: dict[str, str]) -> None:
    try:
        found = load(files)
    except InvalidError as error:
        assert any(name in str(error) for name in files)  # noqa: PT017 - it need not be raised
        return
    for one in found:
        for script in ("script", "down_script"):
            with contextlib.suppress(InvalidError):
                getattr(one, script)
    lint(found, use_squawk=False)


@given(st.binary(max_size=40))
def test_any_bytes(content: bytes) -> None:
    try:
        text = decode(content, "1_a.sql")
    except InvalidError as error:
        assert str(error).startswith("1_a.sql")  # noqa: PT017 - it need not be raised
        return
    assert "\0" not in text
