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
    for what in ("PARTITION BY", "LANGUAGE plpgsql", "\nDO $do$"):
        assert any(what in text for text in texts), what
    for name, text in files.items():
        if name.endswith("metadata.toml"):
            assert text == "run_in_transaction = false\n"
    by_name = {one.file: one for one in migrations}
    without = [one for one in migrations if one.directives.transaction is False]
    pairs = [one for one in without if one.file.endswith(".up.sql")]
    assert any(files[one.file].lstrip("\ufeff").startswith("-- transaction: false") for one in pairs)
    assert all(one.down_directives.transaction is False for one in pairs)
    assert any(f"{one.file.rpartition('/')[0]}/metadata.toml" in files for one in without if "/" in one.file)
    assert any(files[one.file].startswith("-- +goose NO TRANSACTION") for one in without)
    for one in without:
        assert not one.script.transactional, one.file
    marked, wide = (
        [by_name[name] for name, text in files.items() if name in by_name and sign(text)]
        for sign in (lambda text: text.startswith("\ufeff"), lambda text: "\r\n" in text)
    )
    assert marked, "no file begins with a byte order mark"
    assert wide, "no file has the line ends of Windows"
    for one in (*marked, *wide):
        assert not set("\r\ufeff") & set(one.up + (one.down or "")), one.file
        assert one.script.statements
    assert generate(250, 1) == files
