"""What the generator of migrations makes is what it is for."""

from __future__ import annotations

from selvedge.migrate import load
from tests.migrations_generator import generate


def test_generated_files_are_what_they_say() -> None:
    """A set of 250 holds every style and every kind of version, and each kind of file that breaks other runners."""
    files = generate(250, 1)
    migrations = load(files)
    assert {len(str(one.version)) for one in migrations} == {10, 14, 18}
    assert any("/" in name for name in files)
    assert any(name.endswith(".down.sql") for name in files)
    texts = list(files.values())
    for what in ("-- +goose StatementBegin", "-- migrate:up transaction:false", "\nCOPY ", "BEGIN ATOMIC", "ADD VALUE"):
        assert any(what in text for text in texts), what
    assert any("set_config('search_path', '', false)" in text for text in texts)
    assert any(text.startswith("BEGIN;") or "\nBEGIN;" in text for text in texts)
    assert any(len(text) > 20_000 for text in texts)
    assert any("CONCURRENTLY" in one.up and one.script.transactional for one in migrations)
    assert any(
        sum("CONCURRENTLY" in statement.head for statement in one.script.statements) > 1
        and one.directives.transaction is None
        for one in migrations
    )
    assert generate(250, 1) == files
