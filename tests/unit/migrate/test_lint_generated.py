"""The linter over migrations as teams write them, and over texts that nobody would write."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from selvedge.migrate import load
from selvedge.migrate.lint import destructive, lint
from selvedge.migrate.lint_facts import facts
from tests.migrations_generator import generate


def test_a_plan_that_begins_with_nothing_loses_nothing() -> None:
    migrations = load(generate(250, seed=7))
    assert destructive(migrations) == ()
    assert destructive(migrations[200:])


def test_every_way_down_is_looked_at() -> None:
    migrations = load(generate(250, seed=7))
    rules = {one.rule for one in destructive(migrations, direction="down")}
    assert {"drop-table", "drop-column", "rename", "drop-schema", "delete-all"} <= rules


def test_lint_reads_all_of_them() -> None:
    migrations = load(generate(250, seed=7))
    started = time.process_time()
    found = lint(migrations)
    assert time.process_time() - started < 20  # a gate against quadratic behaviour, not a benchmark
    assert not [one for one in found if one.rule in ("unreadable", "squawk", "syntax-error")]
    assert {one.file for one in found} <= {file for one in migrations for file in (one.file, one.down_file)}


WORDS = (
    "create drop alter table column type rename to truncate delete from update set where do $$ ' \" ( ) , ; . a b as"
)
TEXTS = st.lists(st.sampled_from(WORDS.split()), max_size=14).map(" ".join)


@given(TEXTS)
def test_no_text_is_too_strange(text: str) -> None:
    for fact in facts(text):
        assert 0 <= fact.at <= len(text)
